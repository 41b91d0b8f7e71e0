"""What is written down of a step: losses, and what every router did."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..equations import expert_share
from ..errors import TrainingError
from ..gradients import Losses
from ..network import switches
from ..routers import columns
from ..tree import Tree

__all__ = ["WINDOW", "Lesson", "Watch", "asked_by", "entropy", "measured", "mutual_information", "named_switches", "together"]

WINDOW = 50
"""Steps whose losses are taken together before a run is said to diverge."""


class Lesson(NamedTuple):
    """What one batch came to, in numbers.

    loss, task  all losses together, and that of the words
    share       how much of the step it is
    layers      of each Switch layer by name: balance (eq. 4), dropped, entropy in nats, load (eq. 5)
    asked       of each Switch layer, the experts that its tokens asked for
    unsound     where the first number is that is none, if there is one
    """

    loss: float
    task: float
    share: float
    layers: dict[str, dict[str, Any]]
    asked: dict[str, Any]
    unsound: str | None


def measured(losses: Losses, share: float, E: int) -> Lesson:
    """A Lesson out of a batch's losses; padding and what groups add to a row do not count."""
    named = named_switches(losses.arrays)
    asked = {name: asked_by(switch, losses.arrays, name) for name, switch in named.items()}
    layers = {name: _layer(switch, _real(losses.arrays, name), asked[name], E) for name, switch in named.items()}
    unsound = None if math.isfinite(losses.loss) else first_unsound(losses)
    return Lesson(losses.loss, losses.task, share, layers, asked, unsound)


def together(lessons: Sequence[Lesson]) -> dict[str, Any]:
    """Losses and layers of a step: means over its batches by their shares."""

    def mean(values: Sequence[Any]) -> Any:
        return sum(lesson.share * np.asarray(value) for lesson, value in zip(lessons, values, strict=True))

    layers = {
        name: {what: mean([lesson.layers[name][what] for lesson in lessons]).tolist() for what in layer}
        for name, layer in lessons[0].layers.items()
    }
    loss, task = (float(mean([getattr(lesson, what) for lesson in lessons])) for what in ("loss", "task"))
    return {"loss": loss, "task_loss": task, "layers": layers}


def named_switches(arrays: tuple[Tree, Tree]) -> dict[str, Tree]:
    """The Switch layers of both stacks by name, such as encoder/1."""
    named: dict[str, Tree] = {}
    for stack, a in zip(("encoder", "decoder"), arrays, strict=True):
        numbers = [i for i, block in enumerate(a.blocks) if "switch" in block]
        named |= {f"{stack}/{i}": switch for i, switch in zip(numbers, switches(a), strict=True)}
    return named


def _real(arrays: tuple[Tree, Tree], name: str) -> Any:
    """Which tokens of a layer's row are no padding; what groups add stands behind them."""
    return arrays[name.startswith("decoder")].mask_t


def asked_by(switch: Tree, arrays: tuple[Tree, Tree], name: str) -> Any:
    """The experts that the real tokens of a layer asked for, one column a choice."""
    real_t = _real(arrays, name)
    return columns(switch, "expert")[: len(real_t)][real_t]


def _layer(switch: Tree, real_t: Any, asked_tn: Any, E: int) -> dict[str, Any]:
    kept_t = (columns(switch, "slot")[: len(real_t)][real_t] >= 0).any(axis=1)
    p_te = switch.p_te[: len(real_t)][real_t]
    share_e = expert_share(asked_tn.ravel(), E)
    balance = E * float(share_e @ p_te.mean(axis=0))
    return {"balance": balance, "dropped": float(1 - kept_t.mean()), "entropy": entropy(p_te), "load": share_e.tolist()}


def entropy(p_te: Any) -> float:
    """How undecided a router is, in nats: the mean over tokens of -sum_i p_i log p_i; log N where all experts are alike to it."""
    logs = np.log(np.maximum(p_te, np.finfo(p_te.dtype).tiny))
    return float(-(p_te * logs).sum(axis=1).mean())


def mutual_information(count_xe: Any) -> float:
    """How much an expert tells of where its tokens came from, in nats; 0 where nothing.

        I = sum_xe p_xe log(p_xe / (p_x p_e))

    Source: Shannon 1948, §12.

    count_xe    how many tokens of each domain each expert was asked by
    """
    p_xe = count_xe / count_xe.sum()
    apart = p_xe.sum(axis=1, keepdims=True) * p_xe.sum(axis=0, keepdims=True)
    there = p_xe > 0
    return float((p_xe[there] * np.log(p_xe[there] / apart[there])).sum())


class Watch:
    """Stops a run whose loss or gradient is no number, or whose loss has left all sense. Raises TrainingError.

    worse   how many nats the mean loss of so many steps may rise above the best that it was; 0: any
    good    the last step of the best mean
    """

    def __init__(self, worse: float = 2.0) -> None:
        self._worse, self._recent = worse, deque[float](maxlen=WINDOW)
        self._best, self.good = math.inf, 0

    def sound(self, step: int, lessons: Sequence[Lesson], norm: float, grads: Tree) -> None:
        """See that a step is of numbers, before any weight moves."""
        unsound = next((lesson.unsound for lesson in lessons if lesson.unsound), None)
        if unsound or not math.isfinite(norm):
            raise TrainingError(f"step {step}: {unsound or first_unsound_gradient(grads)}")

    def see(self, step: int, task_loss: float) -> None:
        """See how the loss goes."""
        self._recent.append(task_loss)
        if len(self._recent) < WINDOW:
            return
        mean = float(np.mean(self._recent))
        if self._worse and mean > self._best + self._worse:
            raise TrainingError(f"step {step}: the mean loss of {WINDOW} steps rose to {mean:.3g} from {self._best:.3g}")
        if mean < self._best:
            self._best, self.good = mean, step

    def state(self) -> dict[str, Any]:
        """For JSON."""
        best = self._best if math.isfinite(self._best) else None
        return {"recent": list(self._recent), "best": best, "good": self.good}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._recent = deque(state["recent"], maxlen=WINDOW)
        self._best = math.inf if state["best"] is None else state["best"]
        self.good = state["good"]


def first_unsound(losses: Losses) -> str:
    """Where in the forward pass the first number is that is none."""
    for stack, a in zip(("encoder", "decoder"), losses.arrays, strict=True):
        for i, block in enumerate(a.blocks):
            for layer in ("attention", "cross", "switch", "dense"):
                if layer in block and not np.isfinite(block[layer].x_td).all():
                    return f"{stack}/blocks/{i}/{layer} is no longer finite"
    return "the loss is not finite" if np.isfinite(losses.logits_tv).all() else "the logits are no longer finite"


def first_unsound_gradient(grads: Tree) -> str:
    """Which array's gradient has a number that is none."""
    unsound = [path for path, grad in grads.leaves() if not np.isfinite(grad).all()]
    return f"the gradient of {unsound[0]} is not finite" if unsound else "the gradient is too large for a number"
