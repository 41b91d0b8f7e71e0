"""What is written down of a step: losses, and what every router did."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np

from ..errors import TrainingError
from ..gradients import Losses
from ..network import switches
from ..tree import Tree

__all__ = ["Watch", "entropy", "first_unsound", "measured", "mutual_information", "named_switches"]

WINDOW = 20
"""Steps whose losses are taken together before a run is said to diverge."""
WORSE = 2.0
"""How many nats the loss may rise above the best that it was."""


def measured(losses: Losses, E: int) -> dict[str, Any]:
    """The losses of a step, and for each Switch layer its balance loss, what was dropped, its entropy and its load."""
    balances = iter([*losses.encoder.balances, *losses.decoder.balances])
    named = named_switches(losses.arrays)
    alone = len(losses.encoder.balances) + len(losses.decoder.balances) == len(named)
    layers = {name: _layer(switch, E) | ({"balance": next(balances)} if alone else {}) for name, switch in named.items()}
    return {"loss": losses.loss, "task_loss": losses.task, "layers": layers}


def named_switches(arrays: tuple[Tree, Tree]) -> dict[str, Tree]:
    """The Switch layers of both stacks by name, such as encoder/1."""
    named: dict[str, Tree] = {}
    for stack, a in zip(("encoder", "decoder"), arrays, strict=True):
        numbers = [i for i, block in enumerate(a.blocks) if "switch" in block]
        named |= {f"{stack}/{i}": switch for i, switch in zip(numbers, switches(a), strict=True)}
    return named


def _layer(switch: Tree, E: int) -> dict[str, Any]:
    expert, slot = (switch[name] if name in switch else switch[f"{name}n"] for name in ("expert_t", "slot_t"))
    kept = slot >= 0
    dropped = 1 - (kept if kept.ndim == 1 else kept.any(axis=1)).mean()
    load = np.bincount(expert[kept].ravel(), minlength=E) / max(kept.sum(), 1)
    return {"dropped": float(dropped), "entropy": entropy(switch.p_te), "load": load.tolist()}


def entropy(p_te: Any) -> float:
    """How undecided a router is, in nats: the mean over tokens of -sum_i p_i log p_i; log N where all experts are alike to it."""
    logs = np.log(np.maximum(p_te, np.finfo(p_te.dtype).tiny))
    return float(-(p_te * logs).sum(axis=1).mean())


def mutual_information(count_xe: Any) -> float:
    """How much an expert tells of where its tokens came from, in nats; 0 where nothing.

        I = sum_xe p_xe log(p_xe / (p_x p_e))

    Source: claims.md C17; Shannon 1948.

    count_xe    how many tokens of each domain each expert was asked by
    """
    p_xe = count_xe / count_xe.sum()
    apart = p_xe.sum(axis=1, keepdims=True) * p_xe.sum(axis=0, keepdims=True)
    there = p_xe > 0
    return float((p_xe[there] * np.log(p_xe[there] / apart[there])).sum())


class Watch:
    """Stops a run whose loss or gradient is no number, or whose loss has left all sense. Raises TrainingError."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._best = math.inf

    def see(self, step: int, losses: Losses, norm: float, grads: Tree, last_good: str) -> None:
        """One step's losses and the norm of its gradients."""
        if not (math.isfinite(losses.loss) and math.isfinite(norm)):
            raise TrainingError(f"step {step}: {first_unsound(losses, grads)}; the last good checkpoint is {last_good}")
        self._recent.append(losses.task)
        mean = float(np.mean(self._recent))
        if len(self._recent) == WINDOW and mean > self._best + WORSE:
            rose = f"the loss rose to {mean:.3g} from {self._best:.3g}, measured over {WINDOW} steps"
            raise TrainingError(f"step {step}: {rose}; the last good checkpoint is {last_good}")
        if len(self._recent) == WINDOW:
            self._best = min(self._best, mean)

    def state(self) -> dict[str, Any]:
        """For JSON."""
        return {"recent": list(self._recent), "best": self._best if math.isfinite(self._best) else None}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._recent = deque(state["recent"], maxlen=WINDOW)
        self._best = math.inf if state["best"] is None else state["best"]


def first_unsound(losses: Losses, grads: Tree) -> str:
    """Where in the forward pass, or else in the gradients, the first number is that is none."""
    for stack, a in zip(("encoder", "decoder"), losses.arrays, strict=True):
        for i, block in enumerate(a.blocks):
            for layer in ("attention", "cross", "switch", "dense"):
                if layer in block and not np.isfinite(block[layer].x_td).all():
                    return f"{stack}/blocks/{i}/{layer} is no longer finite"
    if not np.isfinite(losses.logits_tv).all():
        return "the logits are no longer finite"
    unsound = [path for path, grad in grads.leaves() if not np.isfinite(grad).all()]
    return f"the gradient of {unsound[0]} is not finite" if unsound else "the loss is not finite"
