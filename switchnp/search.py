"""How an answer is searched for: the arguments of `generate`, by the names that transformers has for them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from .errors import InputError
from .records import Record, Texts, Words, frozen, require

__all__ = ["RANGES", "GenerationConfig"]


@dataclass(frozen=True, kw_only=True)
class GenerationConfig(Record):
    """The arguments of `generate`, validated; a weights file keeps a model's own.

    max_new_tokens          stop after so many words, `</s>` among them
    min_new_tokens          no `</s>` before so many words
    num_beams               1 is greedy (or sampling); more keeps that many answers at a time
    length_penalty          a beam's score is its log-probability / length^length_penalty: above 0 it favours long answers
    early_stopping          True: stop at num_beams ended answers; False: when no running one can beat them at its present
                            length; "never": when none could at any length
    num_return_sequences    how many answers a prompt gets: the best beams, or so many samples
    do_sample               draw words at random, as often as they are likely (not together with beams)
    temperature             below 1 likely words become likelier
    top_k                   draw from the k likeliest words only; 0 draws from all (transformers has 50 by default)
    top_p                   draw from the smallest set of likeliest words with this probability
    min_p                   draw from words at least so many times as likely as the likeliest
    typical_p               draw from the most typically surprising words with this probability
    repetition_penalty      above 1 words that were said become less likely
    no_repeat_ngram_size    say no n words twice in a row of n; 0 for any
    bad_words               what must not be said: texts, in the pieces that they have at the start of a word, or lists of ids
    prefix                  how every answer begins: a text, or ids
    stop                    texts that end an answer once one reaches into its last word; the answer keeps them
    seed                    of sampling: the same seed, prompt and model say the same, whatever else is in the batch

    Raises ConfigError that names the argument and its range, or what contradicts it.

    Source: transformers 5.23's GenerationConfig and its logits processors, in their order.
    """

    max_new_tokens: int = 64
    min_new_tokens: int = 0
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    num_return_sequences: int = 1
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    bad_words: Words = ()
    prefix: str | tuple[int, ...] = ""
    stop: Texts = ()
    seed: int = 0

    def __post_init__(self) -> None:
        self.check_types()
        for name, (holds, wanted) in RANGES.items():
            value = getattr(self, name)
            require(holds(value), f"{name} is {value!r}, expected {wanted}")
        self._check_together()

    def _check_together(self) -> None:
        """Refuse what would be ignored."""
        for name in _OF_SAMPLES:
            self._need(name, self.do_sample, "do_sample=True")
        for name in _OF_BEAMS:
            self._need(name, self.num_beams > 1, "num_beams above 1")
        self._need("stop", self.num_beams == 1, "num_beams=1")
        self._need("do_sample", self.num_beams == 1, "num_beams=1")
        least, most = self.min_new_tokens, self.max_new_tokens
        require(least <= most, f"min_new_tokens is {least}, expected at most max_new_tokens, {most}")
        answers = self.num_return_sequences
        enough = self.do_sample or answers <= self.num_beams
        require(enough, f"num_return_sequences is {answers}, expected at most num_beams, {self.num_beams}, or do_sample=True")

    def _need(self, name: str, has: bool, needed: str) -> None:
        value, default = getattr(self, name), _DEFAULTS[name]
        require(has or value == default, f"{name} is {value!r}, which needs {needed}")

    @classmethod
    def from_huggingface(cls, settings: Mapping[str, Any]) -> GenerationConfig:
        """What transformers reads from a generation_config.json, but for what it passes over and what has no counterpart here.

        Raises ConfigError. Where it samples and no top_k is said, that is 50, as it is there.
        """
        require(
            isinstance(settings, Mapping), f"a generation_config.json is a {type(settings).__name__}, expected names and values"
        )
        theirs = {name: settings.get(name) for name in _DEFAULTS} | {"bad_words": settings.get("bad_words_ids")}
        said = {name: frozen(value) for name, value in theirs.items() if value is not None}
        sampled, alone = said.get("do_sample") is True, said.get("num_beams", 1) == 1
        idle = [*(() if sampled else _OF_SAMPLES), *(_OF_BEAMS if alone else ())]
        more = {"top_k": 50} if sampled else {}
        return cls(**more | {name: value for name, value in said.items() if name not in idle})

    def changed(self, settings: Mapping[str, Any]) -> GenerationConfig:
        """This with other settings; raises InputError for a name that is none, with the nearest that is."""
        for name in settings:
            if name not in _DEFAULTS:
                near = _ALIASES.get(name) or next(iter(difflib.get_close_matches(name.lower(), _DEFAULTS, 1, 0.5)), None)
                meant = f", did you mean {near}?" if near else f", expected one of {', '.join(_DEFAULTS)}"
                raise InputError(f"generate has no argument {name!r:.60}{meant}")
        return replace(self, **{name: frozen(value) for name, value in settings.items()})


_DEFAULTS = {field.name: field.default for field in fields(GenerationConfig)}
_OF_SAMPLES = ("temperature", "top_k", "top_p", "min_p", "typical_p")
_OF_BEAMS = ("length_penalty", "early_stopping")
_ALIASES = {
    "max_length": "max_new_tokens",
    "min_length": "min_new_tokens",
    "stop_strings": "stop",
    "decoder_input_ids": "prefix",
    "decoder_prompt": "prefix",
    "streamer": "stream",
    "output_scores": "return_scores",
}
RANGES: dict[str, tuple[Any, str]] = {
    "max_new_tokens": (lambda n: n >= 1, "a whole number of 1 or more"),
    "min_new_tokens": (lambda n: n >= 0, "a whole number of 0 or more"),
    "num_beams": (lambda n: 1 <= n <= 1000, "a whole number from 1 to 1000"),
    "length_penalty": (lambda x: -10 <= x <= 10, "a number from -10 to 10"),
    "early_stopping": (lambda it: it in (True, False, "never"), "True, False or 'never'"),
    "num_return_sequences": (lambda n: 1 <= n <= 1000, "a whole number from 1 to 1000"),
    "temperature": (lambda x: 1e-6 <= x <= 1e6, "a number from 0.000001 to 1000000"),
    "top_k": (lambda n: n >= 0, "a whole number of 0 or more"),
    "top_p": (lambda p: 0 < p <= 1, "a number above 0 and at most 1"),
    "min_p": (lambda p: 0 <= p <= 1, "a number from 0 to 1"),
    "typical_p": (lambda p: 0 < p <= 1, "a number above 0 and at most 1"),
    "repetition_penalty": (lambda x: 1e-3 <= x <= 1e3, "a number from 0.001 to 1000"),
    "no_repeat_ngram_size": (lambda n: n >= 0, "a whole number of 0 or more"),
    "bad_words": (lambda words: all(len(word) for word in words), "words of one token or more"),
    "stop": (all, "texts of one character or more"),
    "seed": (lambda n: n >= 0, "a whole number of 0 or more"),
}
"""What each argument may be, and that in words."""
