"""Examples of alike length together, as many as a batch has room for; resumable at any batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Self

from ..errors import ConfigError, InputError
from .mixtures import SERVING, Example, Mixture, seeded

__all__ = ["Batch", "Batches"]


class Batch(NamedTuple):
    """Examples for one step: their inputs, their targets and the names of their tasks, in the same order."""

    inputs: list[list[int]]
    targets: list[list[int]]
    tasks: list[str]


class Batches:
    """The examples of a mixture in batches, without end.

    A batch has at most `tokens` ids, inputs and targets together, or one example that has more alone. There is no padding in
    a row, its sentences lie end to end, so that a budget of tokens *is* T5's packing: whoever fills it wastes nothing.
    With `examples` instead, each batch has that many.

    The next `bucket` batches are made at once: as many examples are drawn as fill them, sorted by length, cut, and the
    batches are served in an order that is drawn. So sentences of a batch are about equally long, and a step's memory
    does not depend on one long sentence among short ones.

    `state` has the mixture's state before these batches and how many of them were served; `restore` makes them again.
    Raises ConfigError unless one of `tokens` and `examples` is given and both it and `bucket` are 1 or more.
    """

    def __init__(self, mixture: Mixture, tokens: int | None = None, examples: int | None = None, bucket: int = 16) -> None:
        given = [count for count in (tokens, examples) if count is not None]
        if len(given) != 1 or min(*given, bucket) < 1:
            found = f"tokens={tokens}, examples={examples} and bucket={bucket}"
            raise ConfigError(f"batches have {found}, expected one of the first two, and numbers of 1 or more")
        self.mixture = mixture
        self._by_tokens, self._budget, self._bucket = tokens is not None, given[0], bucket
        self._start, self._number, self._served = mixture.state(), 0, 0
        self._pool: list[Batch] | None = None
        self._spare: list[tuple[dict[str, Any], Example]] = []

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._pool is None:
            self._pool = self._filled()
        batch = self._pool[self._served]
        self._served += 1
        if self._served == len(self._pool):
            self._start = self._spare[0][0] if self._spare else self.mixture.state()
            self._number, self._served, self._pool = self._number + 1, 0, None
        return batch

    def state(self) -> dict[str, Any]:
        """Where it is: a few numbers for JSON, with which `restore` goes on at the next batch."""
        return {"batches": self._settings(), "mixture": self._start, "pool": self._number, "served": self._served}

    def restore(self, state: Mapping[str, Any]) -> Self:
        """Go on where `state` was taken; raises InputError where that was of another mixture or other batches."""
        if state.get("batches") != self._settings():
            raise InputError(f"the state is of the batches {state.get('batches')}, expected {self._settings()}")
        self.mixture.restore(state["mixture"])
        self._start, self._number, self._served = state["mixture"], state["pool"], state["served"]
        self._pool, self._spare = None, []
        return self

    def _settings(self) -> dict[str, Any]:
        return {"tokens" if self._by_tokens else "examples": self._budget, "bucket": self._bucket}

    def _filled(self) -> list[Batch]:
        """The next batches in the order in which they are served; what was drawn and does not fit is spared for later."""
        drawn, self._spare = self._spare, []
        room = self._bucket * self._budget - sum(self._size(example) for _, example in drawn)
        while room > 0:
            drawn.append((self.mixture.state(), next(self.mixture)))
            room -= self._size(drawn[-1][1])
        batches = self._cut([example for _, example in drawn])
        while len(batches) > self._bucket:
            self._spare.insert(0, drawn.pop())
            batches = self._cut([example for _, example in drawn])
        order = seeded(self.mixture.seed, SERVING, self._number).permutation(len(batches))
        return [Batch(*map(list, zip(*batches[n], strict=True))) for n in order]

    def _cut(self, examples: list[Example]) -> list[list[Example]]:
        """Examples by length, in as few batches as their budget allows."""
        batches: list[list[Example]] = []
        room = -1
        for example in sorted(examples, key=_length):
            size = self._size(example)
            if size > room:
                batches.append([])
                room = self._budget
            batches[-1].append(example)
            room -= size
        return batches

    def _size(self, example: Example) -> int:
        return _length(example) if self._by_tokens else 1


def _length(example: Example) -> int:
    return len(example.inputs) + len(example.targets)
