"""Gaps in a text, filled by what T5's training taught: `<extra_id_0>` stands for words that are missing."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from .config import Config
from .errors import InputError
from .generation import Task
from .generation.beams import beam_search
from .records import whole
from .search import GenerationConfig
from .tokenizer import SENTINELS, Tokenizer

__all__ = ["Filled", "Gap", "beams_for", "fill"]

_SENTINEL = re.compile(r"<extra_id_([1-9]?[0-9])>")


class Gap(NamedTuple):
    """A gap and what may stand in it: texts with their probabilities, likeliest first, given what fills the gaps before."""

    sentinel: str
    candidates: tuple[tuple[str, float], ...]


class Filled(NamedTuple):
    """A text with the likeliest candidate in each gap, and the gaps."""

    text: str
    gaps: tuple[Gap, ...]


def sentinels(text: str) -> list[str]:
    """The gaps of a text in the order in which they stand; raises InputError where there is none or one comes twice."""
    found = [match[0] for match in _SENTINEL.finditer(text)]
    if not found:
        raise InputError("the text has no gap, expected <extra_id_0> where words are missing")
    twice = [name for name, count in Counter(found).items() if count > 1]
    if twice:
        raise InputError(f"the text has the gap {twice[0]} more than once, expected <extra_id_0>, <extra_id_1>, ...")
    return found


def beams_for(candidates: int, max_new_tokens: int) -> GenerationConfig:
    """The search that finds so many candidates; raises InputError or ConfigError."""
    if not whole(candidates) or not 1 <= candidates <= 100:
        raise InputError(f"candidates is {candidates!a:.80}, expected a whole number from 1 to 100")
    beams = max(2, candidates)
    return GenerationConfig(num_beams=beams, num_return_sequences=beams, length_penalty=0.0, max_new_tokens=max_new_tokens)


def fill(voices: Any, config: Config, tokenizer: Tokenizer, text: str, search: GenerationConfig, candidates: int) -> Filled:
    """Each gap in turn: beams over what follows its sentinel, until the next sentinel or the end.

    A candidate's probability is that of its words and of an end behind them, whichever end that is.

    voices  Voices over the text's ids
    search  what `beams_for` says
    """
    first = tokenizer.vocab_size - SENTINELS
    ends = (config.eos_token_id, *range(first, tokenizer.vocab_size))
    said: list[int] = [config.decoder_start_token_id]
    gaps: list[Gap] = []
    for sentinel in sentinels(text):
        said += tokenizer.encode(sentinel)[:-1]
        voices.restart()
        found = beam_search(voices, Task(search, np.array(said), ends))
        spans = [([*answer.ids[:-1]] if answer.ids[-1] in ends else [*answer.ids], math.exp(answer.score)) for answer in found]
        likely: dict[str, float] = {}
        for ids, probability in spans:
            words = tokenizer.decode(ids).strip()
            likely[words] = likely.get(words, 0.0) + probability
        ranked = sorted(likely.items(), key=lambda each: -each[1])
        gaps.append(Gap(sentinel, tuple(ranked[:candidates])))
        best = gaps[-1].candidates[0][0]
        said += next(ids for ids, _ in spans if tokenizer.decode(ids).strip() == best)
    chosen = {gap.sentinel: gap.candidates[0][0] for gap in gaps}
    return Filled(_SENTINEL.sub(lambda match: chosen[match[0]], text), tuple(gaps))
