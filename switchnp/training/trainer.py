"""One step after another: a batch, its gradient, a move of the weights."""

from __future__ import annotations

import time
from contextlib import nullcontext
from functools import reduce
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from .. import memory
from ..bfloat16 import Bfloat16
from ..equations import balancing_step, softmax
from ..gradients import CrossEntropy, Distilled
from ..model import SwitchTransformer
from ..optimizers import clip
from ..routers import Mode
from ..schedules import Schedule
from ..threads import both
from ..tree import Tree
from .recipe import TrainingPart
from .watching import Lesson, Watch, measured, together

__all__ = ["BIAS_RATE", "Trainer", "learner"]

BIAS_RATE = 1e-3
"""How far a step moves the bias of a router that is balanced by it (Wang et al. 2024, table 1)."""


def learner(model: SwitchTransformer) -> SwitchTransformer:
    """The same model with weights of its own, all float32, that can be moved in place."""
    params = model.params.map(lambda leaf: np.array(leaf, np.float32, order="C"))
    engine = "equations" if model.routing.precision != "float32" or model.engine == "equations" else "kernels"
    more = model.tokenizer, engine, model.provenance, model.generation
    return SwitchTransformer(model.config, params, model.routing, *more)


class Trainer:
    """A learner, what it learns from, and how its weights move.

    batches     `data.Batches`, or an iterator of anything with inputs and targets; `state` and `restore` need its own
    optimizer   over the learner's own arrays
    seed        of dropout and exploration: each step draws from (seed, step), so that a step can be taken again
    teacher     a model whose opinion is `share` of each target
    whole       false while weights move: then they are of no step

    Raises InputError where memory cannot hold gradients and moments.
    """

    def __init__(
        self,
        model: SwitchTransformer,
        batches: Any,
        optimizer: Any,
        schedule: Schedule,
        part: TrainingPart,
        seed: int = 0,
        teacher: SwitchTransformer | None = None,
        share: float = 0.25,
    ) -> None:
        self.model, self.batches, self.optimizer = model, batches, optimizer
        self._schedule, self._part, self._seed = schedule, part, seed
        self._teacher, self._share = teacher, share
        self.step, self.whole, self.watch, self._longest = 0, True, Watch(part.worse), 0
        self._pools = ThreadpoolController()
        parameters = model.config.num_parameters
        memory.check_training(parameters, 4 * parameters * min(part.accumulate, 4) + optimizer.nbytes)

    def take(self) -> dict[str, Any]:
        """Take one step, and say what came of it. Raises TrainingError where there is no sense in going on."""
        began, step = time.perf_counter(), self.step + 1
        batches = [next(self.batches) for _ in range(self._part.accumulate)]
        with self._pools.limit(limits=1, user_api="blas") if len(batches) > 1 else nullcontext():
            lessons, grads = self._learn_all(batches, step)
        norm = clip(grads, self._part.clip or np.inf)
        self.watch.sound(step, lessons, norm, grads)
        rate = self._schedule.rate(step)
        line, self.whole = together(lessons), False
        self.optimizer.update(grads, rate)
        if self.model.routing.needs_bias:
            self._balance(lessons)
        self.step, self.whole = step, True
        tokens, seconds = sum(map(_tokens, batches)), time.perf_counter() - began
        self.watch.see(step, line["task_loss"])
        about = {"rate": rate, "gradient_norm": norm, "tokens": tokens, "tokens_per_second": tokens / seconds}
        return {"step": step, **line, **about}

    def state(self) -> dict[str, Any]:
        """What a checkpoint has besides weights and moments, for JSON."""
        return {"step": self.step, "watch": self.watch.state(), "batches": self.batches.state()}

    def restore(self, state: dict[str, Any], moments: dict[str, Any], params: Tree) -> None:
        """Go on where a checkpoint was taken."""
        self.optimizer.restore(moments)
        self.batches.restore(state["batches"])
        self.watch.restore(state["watch"])
        for (_, mine), (_, then) in zip(self.model.params.leaves(), params.leaves(), strict=True):
            mine[...] = then
        self.step = state["step"]

    def _learn_all(self, batches: list[Any], step: int) -> tuple[list[Lesson], Tree]:
        """What several batches teach, half of them on a second thread.

        Each counts by its words. Each is routed for itself, as on a core of its own: queues, balance and z-losses are its own.
        """
        made = [self.model.lesson(batch.inputs, batch.targets) for batch in batches]
        self._check_longest([batch.row for prompts, words, _ in made for batch in (prompts, words)])
        words = [int((target_t >= 0).sum()) for _, _, target_t in made]
        shares = [count / sum(words) for count in words]
        rngs = [np.random.default_rng([self._seed, step, n]) for n in range(len(batches))]
        work = list(zip(batches, made, rngs, shares, strict=True))
        half = (len(work) + 1) // 2
        learnt = both(self._learn_some, (work[:half],), (work[half:],)) if len(work) > 1 else (self._learn_some(work),)
        return [lesson for lessons, _ in learnt for lesson in lessons], reduce(_added, [grads for _, grads in learnt])

    def _check_longest(self, rows: list[Any]) -> None:
        """See that a row fits that is longer than any before it; for the others this process has the memory already."""
        longest = max(rows, key=_length)
        if _length(longest) > self._longest:
            memory.check(self.model.config, longest, words=0, voices=0, itemsize=4, engine="kernels")
            self._longest = _length(longest)

    def _learn_some(self, work: list[Any]) -> tuple[list[Lesson], Tree]:
        """What some batches came to, and their gradients added up."""
        learnt = (self._learn(*each) for each in work)
        lessons, total = [], None
        for lesson, grads in learnt:
            lessons.append(lesson)
            total = grads if total is None else _added(total, grads)
        assert total is not None
        return lessons, total

    def _learn(self, batch: Any, made: Any, rng: np.random.Generator, share: float) -> tuple[Lesson, Tree]:
        part = self._part
        inside = part.dropout if part.expert_dropout is None else part.expert_dropout
        task: Any = CrossEntropy(part.smoothing)
        if self._teacher is not None:
            task = Distilled(self._opinion(batch, made[1]), self._share)
        prompts, words, target_t = made
        mode = Mode(True, rng, part.dropout, inside)
        losses, grads = self.model.losses_and_grads(prompts, words, target_t, mode, task, share)
        return measured(losses, share, self.model.config.num_experts), grads.map(_plain)

    def _opinion(self, batch: Any, words: Any) -> Any:
        """How likely the teacher finds each word, (T, V)."""
        assert self._teacher is not None
        return softmax(self._teacher(batch.inputs, labels=batch.targets).logits[words.kept])

    def _balance(self, lessons: list[Lesson]) -> None:
        """The bias of a router that is nudged goes by who was asked, not by a gradient; another stack's is a weight as others."""
        for name in lessons[0].asked:
            stack, i = name.split("/")
            if self.model.routing.of(stack).router != "bias":
                continue
            br_e = self.model.params[f"{stack}/blocks/{i}/switch"].br_e
            asked_t = np.concatenate([lesson.asked[name][:, 0] for lesson in lessons])
            br_e[...] = balancing_step(br_e, asked_t, BIAS_RATE)


def _added(one: Tree, other: Tree) -> Tree:
    """The sum of two gradients, in the place of the first."""
    pairs = [(mine, theirs) for (_, mine), (_, theirs) in zip(one.leaves(), other.leaves(), strict=True)]
    both(_add, (pairs[::2],), (pairs[1::2],))
    return one


def _add(pairs: list[tuple[Any, Any]]) -> None:
    for mine, theirs in pairs:
        mine += theirs


def _plain(grad: Any) -> Any:
    return grad.view(np.ndarray) if isinstance(grad, Bfloat16) else grad


def _length(row: Any) -> int:
    return len(row.ids_t)


def _tokens(batch: Any) -> int:
    return sum(map(len, batch.inputs)) + sum(map(len, batch.targets))
