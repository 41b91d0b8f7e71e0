"""How good are a model's answers? Exact match, token accuracy and loss, task by task."""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from .equations import cross_entropy
from .errors import InputError, TokenizerError
from .files import as_path, check_regular, readable, shown
from .model import SwitchTransformer
from .search import GenerationConfig

__all__ = ["ALL", "Pair", "Score", "evaluate", "read_pairs"]

ALL = "all"
"""The name of everything together, and of what belongs to no task."""


class Pair(NamedTuple):
    """A prompt, the answer that is right, and the task that they belong to."""

    prompt: str
    answer: str
    task: str = ALL


class Score(NamedTuple):
    """How well a model did.

    items           how many pairs
    exact_match     the share of them whose greedy answer is the right one, letter for letter, as the tokenizer writes both
    token_accuracy  the share of the right answers' words, `</s>` among them, that come first behind the words before them
    loss            cross-entropy of those words, in nats per word
    """

    items: int
    exact_match: float
    token_accuracy: float
    loss: float


def evaluate(
    model: SwitchTransformer,
    pairs: Sequence[Pair | tuple[str, str, str]],
    batch_size: int = 64,
    rng: np.random.Generator | None = None,
    progress: Callable[[int], Any] | None = None,
) -> dict[str, Score]:
    """The Score of each task, in the order in which they first come, and of "all" together.

    Answers may be as long as the longest right one, or as the model's own `max_new_tokens` where that is more. Its other habits
    of generation are left aside.

    pairs       (prompt, answer, task) each
    batch_size  pairs of about one length that are asked at once
    rng         of what the routing draws at random
    progress    is called with the number of pairs behind each batch

    Raises InputError where there are no pairs, TokenizerError where the model has no tokenizer.
    """
    if model.tokenizer is None:
        raise TokenizerError("this model has no tokenizer, expected one to evaluate texts (convert it with --tokenizer)")
    if not pairs or batch_size < 1:
        raise InputError(f"there are {len(pairs)} pairs in batches of {batch_size}, expected one or more")
    encode = model.tokenizer.encode
    items = [_Item(encode(prompt), encode(answer), task) for prompt, answer, task in pairs]
    tallies = {task: np.zeros(len(_Tally._fields)) for task in [*(item.task for item in items if item.task != ALL), ALL]}
    words = max(len(item.answer) for item in items)
    greedy = GenerationConfig(max_new_tokens=max(words, model.generation.max_new_tokens))
    items.sort(key=lambda item: (len(item.prompt), len(item.answer)))
    for start in range(0, len(items), batch_size):
        batch = items[start : start + batch_size]
        for item, tally in zip(batch, _tallied(model, batch, greedy, rng), strict=True):
            for task in {item.task, ALL}:
                tallies[task] += tally
        if progress is not None:
            progress(len(batch))
    return {task: _score(_Tally(*tally.tolist())) for task, tally in tallies.items()}


def read_pairs(path: str | os.PathLike[str]) -> list[Pair]:
    """The pairs in a file of lines `prompt<TAB>answer` or `prompt<TAB>answer<TAB>task`, in UTF-8; empty lines are passed over.

    Where no task is named it is what stands before the prompt's first colon, or "all" where there is none. Raises FileError
    where the file cannot be read, and InputError that says in which line what is wrong.
    """
    file = as_path(path)
    check_regular(file)
    with readable(file):
        lines = file.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n")
    pairs = [_pair(line, f"{shown(file)}, line {n},") for n, line in enumerate(lines, 1) if line.strip()]
    if not pairs:
        raise InputError(f"{shown(file)} has no lines, expected prompt<TAB>answer on each")
    return pairs


class _Item(NamedTuple):
    """A pair in ids."""

    prompt: list[int]
    answer: list[int]
    task: str


class _Tally(NamedTuple):
    """What a Score is counted from."""

    items: float
    exact: float
    words: float
    right: float
    nats: float


def _tallied(
    model: SwitchTransformer, batch: list[_Item], greedy: GenerationConfig, rng: np.random.Generator | None
) -> Iterator[_Tally]:
    """The tally of each item of a batch."""
    prompts, targets = [item.prompt for item in batch], [item.answer for item in batch]
    answers = model.generate(prompts, rng=rng, return_scores=True, **asdict(greedy))
    logits = model(prompts, labels=targets, rng=rng).logits
    assert model.tokenizer is not None
    for answer, target, logits_tv in zip(answers, targets, logits, strict=True):
        target_t, logits_tv = np.array(target), logits_tv[: len(target)]
        right = int((logits_tv.argmax(axis=1) == target_t).sum())
        nats = float(cross_entropy(logits_tv, target_t)) * len(target)
        yield _Tally(1, answer.text == model.tokenizer.answer(target), len(target), right, nats)


def _score(tally: _Tally) -> Score:
    return Score(int(tally.items), tally.exact / tally.items, tally.right / tally.words, tally.nats / tally.words)


def _pair(line: bytes, where: str) -> Pair:
    try:
        fields = line.decode("utf-8").removesuffix("\r").split("\t")
    except UnicodeDecodeError:
        raise InputError(f"{where} is not UTF-8, expected prompt<TAB>answer") from None
    if len(fields) not in (2, 3) or not all(map(str.strip, fields)):
        empty = " with an empty one" if not all(map(str.strip, fields)) else ""
        raise InputError(f"{where} has {len(fields)} fields{empty}, expected prompt<TAB>answer or prompt<TAB>answer<TAB>task")
    prompt, colon, _ = fields[0].partition(":")
    task = fields[2] if len(fields) == 3 else prompt if colon else ALL
    return Pair(fields[0], fields[1], task.strip() or ALL)
