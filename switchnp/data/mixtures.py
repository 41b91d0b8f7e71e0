"""Several tasks at once, each as often as it should be; example after example, and resumable at any of them."""

from __future__ import annotations

import hashlib
import json
import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple, Self

import numpy as np

from ..errors import ConfigError, InputError
from ..tokenizer import SENTINELS, Tokenizer
from .sources import Blocks, Lines, Pairs
from .spans import DENSITY, MEAN_SPAN, corrupt, raw_length, span_counts

__all__ = ["MAX_INPUTS", "MAX_TARGETS", "SERVING", "Example", "Mixture", "Task", "seeded", "shares"]

MAX_INPUTS, MAX_TARGETS = 512, 114
BYTES_PER_TOKEN = 3
"""A token is seldom fewer bytes of text, so that a block seldom has more tokens than one window takes."""

_CHOICE, _ORDER, _NOISE, SERVING = range(4)


class Example(NamedTuple):
    """What a model reads and should answer, as ids that end in `</s>`, and the task it comes from."""

    inputs: list[int]
    targets: list[int]
    task: str


@dataclass(frozen=True)
class Task:
    """One thing to learn. Raises ConfigError where kind and source do not fit, or the spans are impossible.

    source              of "pairs": `Pairs`, or any sequence of (prompt, answer); of "fill": `Lines`
    kind                "pairs" to answer prompts, "fill" to fill the gaps of texts (`corrupt`)
    density, mean_span  of the gaps
    """

    name: str
    source: Lines | Pairs | Sequence[tuple[str, str]]
    kind: Literal["pairs", "fill"] = "pairs"
    density: float = DENSITY
    mean_span: float = MEAN_SPAN

    def __post_init__(self) -> None:
        if self.kind not in ("pairs", "fill"):
            raise ConfigError(f"the task {self.name} is of kind {self.kind!r}, expected 'pairs' or 'fill'")
        if isinstance(self.source, Lines) != (self.kind == "fill"):
            wanted = "pairs of prompt and answer" if self.kind == "pairs" else "Lines"
            raise ConfigError(f"the task {self.name} has a source of type {type(self.source).__name__}, expected {wanted}")
        if not len(self.source):
            raise ConfigError(f"the task {self.name} has no examples, expected one or more")
        if not isinstance(self.source, Lines | Pairs):
            _check_pairs(self.name, self.source)
        try:
            span_counts(2, self.density, self.mean_span)
        except InputError as error:
            raise ConfigError(f"in the task {self.name} {error}") from None


def shares(examples: Sequence[int], temperature: float = 1.0, limit: int | None = None) -> np.ndarray:
    """How likely each task is, by how many examples it has.

        p_m = r_m^(1/T) / sum_j r_j^(1/T),    r_m = min(examples_m, limit)

    T = 1 is in proportion to the examples; the larger T, the more alike are all.

    Source: Raffel et al. 2020, §3.5.2. Raises ConfigError unless T and the limit are above 0.
    """
    if not (temperature > 0 and (limit is None or limit > 0)):
        raise ConfigError(f"temperature is {temperature} and limit {limit}, expected both above 0")
    log_m = np.log([n if limit is None else min(n, limit) for n in examples]) / temperature
    share_m = np.exp(log_m - log_m.max())
    return share_m / share_m.sum()


def seeded(seed: int, *counters: int) -> np.random.Generator:
    """The generator of one decision, which depends on nothing but the seed and these counters."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=counters))


class Mixture:
    """Examples without end. Each is of a task that is drawn by its share; every task goes through its source in a new order
    each epoch.

    A task of kind "pairs" has an example a pair. Pairs that are longer than `max_inputs` or `max_targets` are left out and
    counted, not cut as T5 does: half an answer would be a wrong one.

    A task of kind "fill" puts consecutive lines together, a line end between them, to blocks of as many bytes as should make
    `length` tokens, the most whose gaps fit into the limits. The tokens of a block are cut into as few windows as that takes,
    equally long but for one token, which come one after the other. Tokens that a text spells itself (`</s>`,
    `<extra_id_0>`, ...) are left out of it, and blocks of less than 2 tokens are left out and counted.

    All is worked out from the seed and counters, which `state` has: every number that was drawn can be drawn again.

    weights   how often each task, instead of by `temperature` and `limit` (`shares`)
    Raises ConfigError for impossible numbers and where two tasks have one name; the next example raises InputError where
    a task has none that fits.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        tokenizer: Tokenizer,
        seed: int,
        temperature: float = 1.0,
        weights: Sequence[float] | None = None,
        limit: int | None = None,
        max_inputs: int = MAX_INPUTS,
        max_targets: int = MAX_TARGETS,
    ) -> None:
        self.names = [task.name for task in tasks]
        if not tasks or len({*self.names}) < len(tasks):
            raise ConfigError(f"the tasks are {self.names}, expected one or more, each with a name of its own")
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
            raise ConfigError(f"seed is {seed!r}, expected a whole number of 0 or more")
        self.seed = operator.index(seed)
        self._courses = [_Course(task, tokenizer, (self.seed, n), (max_inputs, max_targets)) for n, task in enumerate(tasks)]
        examples = [len(course.items) for course in self._courses]
        self.probabilities = shares(examples, temperature, limit) if weights is None else _weighed(weights, len(tasks))
        self._drawn = 0
        facts: list[Any] = [self.seed, self.probabilities.tolist(), max_inputs, max_targets]
        facts += [hashlib.sha256(tokenizer.model_bytes).hexdigest(), [course.facts() for course in self._courses]]
        self._job = hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def __iter__(self) -> Iterator[Example]:
        return self

    def __next__(self) -> Example:
        task = int(seeded(self.seed, _CHOICE, self._drawn).choice(len(self.names), p=self.probabilities))
        example = self._courses[task].draw()
        self._drawn += 1
        return example

    @property
    def epochs(self) -> dict[str, int]:
        """How many times each task has been gone through."""
        return {name: course.place.epoch for name, course in zip(self.names, self._courses, strict=True)}

    @property
    def skipped(self) -> dict[str, int]:
        """How many of each task were left out so far, counted again in each epoch."""
        return {name: course.place.skipped for name, course in zip(self.names, self._courses, strict=True)}

    def state(self) -> dict[str, Any]:
        """Where it is: a few numbers for JSON, with which `restore` goes on at the next example."""
        return {"mixture": self._job, "drawn": self._drawn, "places": [[*course.place] for course in self._courses]}

    def restore(self, state: Mapping[str, Any]) -> Self:
        """Go on where `state` was taken; raises InputError where that was of other tasks, files, numbers or another seed."""
        if state.get("mixture") != self._job:
            raise InputError("the state is of another mixture, expected the same tasks, files, tokenizer, numbers and seed")
        self._drawn = state["drawn"]
        for course, place in zip(self._courses, state["places"], strict=True):
            course.place = _Place(*place)
        return self


class _Place(NamedTuple):
    """How far a task is: which item of which epoch comes next, which of its windows, and how many items were left out."""

    epoch: int = 0
    item: int = 0
    window: int = 0
    skipped: int = 0

    def after(self, windows: int, items: int) -> _Place:
        """The place behind a window of an item that has so many, of so many items."""
        if self.window + 1 < windows:
            return self._replace(window=self.window + 1)
        skipped = self.skipped + (windows == 0)
        return _Place(self.epoch, self.item + 1, 0, skipped) if self.item + 1 < items else _Place(self.epoch + 1, 0, 0, skipped)


class _Course:
    """A task on its way through its source; `seed` is the mixture's and the task's number in it."""

    def __init__(self, task: Task, tokenizer: Tokenizer, seed: tuple[int, int], limits: tuple[int, int]) -> None:
        self.place = _Place()
        self._task, self._tokenizer, self._limits = task, tokenizer, limits
        self._seed, self._number = seed
        self.items: Sequence[Any] = task.source
        if isinstance(task.source, Lines):
            self._length, _ = raw_length(*limits, task.density, task.mean_span)
            self.items = Blocks(task.source, BYTES_PER_TOKEN * self._length)
        self._order: tuple[int, Any] = (-1, None)
        self._windows: tuple[tuple[int, int], list[Any]] = ((-1, -1), [])

    def facts(self) -> list[Any]:
        """What tells this task from another."""
        source = self._task.source
        digest = getattr(source, "digest", None) or hashlib.sha256(json.dumps([*source]).encode()).hexdigest()
        return [self._task.name, self._task.kind, self._task.density, self._task.mean_span, digest]

    def draw(self) -> Example:
        """The next example; raises InputError where two epochs had none that fits."""
        for _ in range(2 * len(self.items)):
            here, windows = self.place, self._opened()
            self.place = here.after(len(windows), len(self.items))
            if windows:
                return self._example(windows[here.window], here)
        raise InputError(f"the task {self._task.name} has no example that fits into {self._limits} ids, expected one or more")

    def _opened(self) -> list[Any]:
        """The windows of the item that is next."""
        epoch, item, *_ = self.place
        if self._order[0] != epoch:
            self._order = epoch, seeded(self._seed, _ORDER, self._number, epoch).permutation(len(self.items))
        if self._windows[0] != (epoch, item):
            found = self.items[int(self._order[1][item])]
            self._windows = (epoch, item), self._cut(found) if self._task.kind == "fill" else self._paired(found)
        return self._windows[1]

    def _paired(self, pair: tuple[str, str]) -> list[Any]:
        sides = [self._tokenizer.encode(text) for text in pair]
        return [sides] if all(len(side) <= limit for side, limit in zip(sides, self._limits, strict=True)) else []

    def _cut(self, text: str) -> list[Any]:
        plain = range(self._tokenizer.unk_id, self._tokenizer.vocab_size - SENTINELS)
        ids = [i for i in self._tokenizer.encode(text) if i in plain]
        count = math.ceil(len(ids) / self._length)
        cuts = [n * len(ids) // count for n in range(count + 1)] if count else []
        windows = [ids[start:end] for start, end in pairwise(cuts)]
        return [window for window in windows if len(window) > 1]

    def _example(self, window: list[Any], place: _Place) -> Example:
        inputs, targets = window if self._task.kind == "pairs" else self._corrupted(window, place)
        return Example(inputs, targets, self._task.name)

    def _corrupted(self, ids: list[int], place: _Place) -> tuple[list[int], list[int]]:
        rng = seeded(self._seed, _NOISE, self._number, place.epoch, place.item, place.window)
        tokenizer, task = self._tokenizer, self._task
        return corrupt(ids, tokenizer.vocab_size, tokenizer.eos_id, rng, task.density, task.mean_span)


def _check_pairs(name: str, pairs: Sequence[Any]) -> None:
    for n, pair in enumerate(pairs):
        if not (isinstance(pair, tuple | list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise ConfigError(f"the task {name} has {pair!r:.80} as its pair {n}, expected two texts")


def _weighed(weights: Sequence[float], tasks: int) -> np.ndarray:
    """Weights as probabilities."""
    if len(weights) != tasks or not all(0 <= weight < math.inf for weight in weights) or not sum(weights):
        raise ConfigError(f"the weights are {[*weights]}, expected {tasks} of 0 or more, and not all of them 0")
    return np.array(weights, float) / sum(weights)
