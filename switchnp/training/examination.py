"""How good a model is at what it never saw, and which experts take whose tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from ..data.mixtures import Example, Mixture, Task
from ..data.sources import Lines
from ..equations import cross_entropy
from ..evaluation import ALL, Pair, evaluate
from ..model import SwitchTransformer
from ..tokenizer import Tokenizer
from .watching import asked_by, mutual_information, named_switches

__all__ = ["Held", "Report", "examined", "held_fill", "held_pairs"]

SEED = 0
"""Of what a routing draws at random: an examination is the same every time."""
TOGETHER = 32
"""Examples that are looked at at once."""


class Held(NamedTuple):
    """A task's examples that are never trained on; `pairs` are None for texts with gaps, which have no one right answer."""

    name: str
    examples: list[Example]
    pairs: list[Pair] | None


class Report(NamedTuple):
    """How the model did, and who was asked.

    scores      each task's items, loss in nats per word, token accuracy and exact match
    shares      of each Switch layer, a row a task: the share of its tokens that ask each expert
    """

    scores: dict[str, dict[str, Any]]
    shares: dict[str, Any]

    @property
    def specialisation(self) -> dict[str, float]:
        """What each layer's experts tell of tasks, in nats, all tasks counting alike."""
        return {name: mutual_information(share_xe) for name, share_xe in self.shares.items()}

    @property
    def load(self) -> dict[str, list[float]]:
        """The share of each expert in each layer, all tasks counting alike."""
        return {name: share_xe.mean(axis=0).tolist() for name, share_xe in self.shares.items()}

    @property
    def loss(self) -> float:
        """The mean over tasks."""
        return float(self.scores[ALL]["loss"])


def held_pairs(name: str, pairs: Sequence[Pair], tokenizer: Tokenizer, limit: int) -> Held:
    """The first pairs of a task."""
    chosen = [Pair(prompt, answer, name) for prompt, answer, _ in pairs[:limit]]
    examples = [Example(tokenizer.encode(pair.prompt), tokenizer.encode(pair.answer), name) for pair in chosen]
    return Held(name, examples, chosen)


def held_fill(task: Task, tokenizer: Tokenizer, limit: int, lengths: tuple[int, int]) -> Held:
    """Gaps in held-out text, the same ones every time."""
    assert isinstance(task.source, Lines)
    mixture = Mixture([task], tokenizer, 0, max_inputs=lengths[0], max_targets=lengths[1])
    return Held(task.name, list(islice(mixture, limit)), None)


def examined(model: SwitchTransformer, held: Sequence[Held]) -> Report:
    """The Report on a model; greedy answers are the fast engine's."""
    counts: dict[str, Any] = {}
    scores: dict[str, dict[str, Any]] = {}
    fast = _answering(model)
    for x, task in enumerate(held):
        scores[task.name] = _teacher_forced(model, task, counts, (x, len(held)))
        if task.pairs is not None:
            scores[task.name]["exact_match"] = evaluate(fast, task.pairs, rng=np.random.default_rng(SEED))[ALL].exact_match
    scores[ALL] = _means([*scores.values()])
    shares = {name: count_xe / np.maximum(count_xe.sum(axis=1, keepdims=True), 1) for name, count_xe in counts.items()}
    return Report(scores, shares)


def _means(scores: list[dict[str, Any]]) -> dict[str, Any]:
    """What is true of all tasks together, each counted alike."""

    def mean(what: str) -> float | None:
        values = [score[what] for score in scores if score[what] is not None]
        return float(np.mean(values)) if values else None

    items = sum(score["items"] for score in scores)
    return {"items": items} | {what: mean(what) for what in ("exact_match", "token_accuracy", "loss")}


def _answering(model: SwitchTransformer) -> SwitchTransformer:
    if model.routing.precision != "float32":
        return model
    return SwitchTransformer(model.config, model.params, model.routing, model.tokenizer)


def _teacher_forced(model: SwitchTransformer, task: Held, counts: dict[str, Any], place: tuple[int, int]) -> dict[str, Any]:
    """Loss and token accuracy; how many tokens of this task each expert was asked by is added to `counts`."""
    nats = right = words = 0.0
    (x, tasks), rng = place, np.random.default_rng(SEED)
    for start in range(0, len(task.examples), TOGETHER):
        examples = task.examples[start : start + TOGETHER]
        lesson = model.lesson([each.inputs for each in examples], [each.targets for each in examples])
        arrays, logits_tv = model.passed(*lesson[:2], rng)
        target_t, count = lesson[2], int((lesson[2] >= 0).sum())
        nats += float(cross_entropy(logits_tv, target_t)) * count
        right += float((logits_tv.argmax(axis=1) == target_t).sum())
        words += count
        for name, switch in named_switches(arrays).items():
            asked_e = np.bincount(asked_by(switch, arrays, name).ravel(), minlength=model.config.num_experts)
            counts.setdefault(name, np.zeros((tasks, len(asked_e))))[x] += asked_e
    return {"items": len(task.examples), "exact_match": None, "token_accuracy": right / words, "loss": nats / words}
