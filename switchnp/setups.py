"""Which engine computes, on which weights: as they were given, as the equations read them, as the fast engine does."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

import numpy as np

from .bfloat16 import simulated
from .config import Config
from .derived import lazy
from .errors import InputError, ShapeError
from .params import check_shapes
from .quantization import SCALES, scale_path, widened
from .routers import Mode
from .routing import Routing
from .tree import Tree

__all__ = ["ARITHMETIC", "ENGINES", "Weights", "check_choices", "check_fit", "compiling", "dropping", "fastest", "setup_of"]

ENGINES = ("fast", "kernels", "equations")
ARITHMETIC = ("float32", "bfloat16", "int8")
"""What the fast engine multiplies in."""


_STORED = ({"float32"}, {"float64"}, {"bfloat16"}, {"float32", "int8"})


class Weights:
    """The weights of one model, of any stored kind.

    stored      arrays of float32, float64, bfloat16, or int8 with scales beside them
    dtype       what the fast engine multiplies in; None: int8 where that is what is stored, else float32
    threads     of the fast engine; None: as many as this process may use

    Raises ShapeError where they are not what `config` makes.
    """

    def __init__(self, config: Config, stored: Tree, dtype: str | None = None, threads: int | None = None) -> None:
        leaves = dict(stored.leaves())
        own = {path: leaf for path, leaf in leaves.items() if path.rpartition("/")[2] not in SCALES.values()}
        check_shapes(Tree.of(own), config)
        self.dtypes = {leaf.dtype.name for leaf in own.values()}
        if self.dtypes not in _STORED or not all(leaf.dtype.isnative for leaf in leaves.values()):
            found = " and ".join(sorted({str(leaf.dtype) for leaf in own.values()}))
            raise ShapeError(f"the weights are {found}, expected all float32 or all float64, or what a weights file holds")
        if dtype not in (None, *ARITHMETIC):
            raise InputError(f"dtype is {dtype!r}, expected one of {', '.join(map(repr, ARITHMETIC))} for the fast engine")
        self.config, self.stored, self.dtype, self.threads = config, stored, dtype, _threads(threads)

    @lazy
    def readable(self) -> Tree:
        """All float32 or all float64, for the equations."""
        if self.dtypes in ({"float32"}, {"float64"}):
            return self.stored
        leaves = dict(self.stored.leaves())
        return Tree.of({path: _readable(path, leaf, leaves) for path, leaf in leaves.items() if _is_weight(path)})

    @lazy
    def packed(self) -> Tree:
        """As the engine reads them."""
        from .engine.matrices import packed

        return packed(self.stored, self.dtype, self.threads)

    def make_ready(self, engine: str) -> None:
        """Have the weights as the fast engine reads them before several threads ask for them at once."""
        if engine == "fast":
            _ = self.packed

    @property
    def itemsize(self) -> int:
        """Bytes of a number on the way through the model."""
        return 8 if self.dtypes == {"float64"} else 4


def setup_of(weights: Weights, routing: Routing, engine: str) -> tuple[Any, Config, Routing, Tree]:
    """Equations, numbers, choices, and the weights as this engine reads them, in the routing's precision."""
    check_choices(routing, engine)
    check_fit(routing, weights, engine)
    ops = import_module("switchnp.engine" if engine == "fast" else f"switchnp.{engine}")
    if engine == "fast":
        return ops, weights.config, routing, weights.packed
    params = weights.readable
    return ops, weights.config, routing, params if routing.precision == "float32" else simulated(params, routing.precision)


def fastest(routing: Routing, weights: Weights) -> str:
    """The fastest engine that this routing and these weights can have."""
    if routing.precision != "float32":
        return "equations"
    return "kernels" if weights.itemsize == 8 or not compiling() else "fast"


def dropping(mode: Mode, rates: dict[str, float], smoothing: float) -> Mode:
    """The Mode with dropout. Raises InputError for a share that is none, and for dropout that nobody draws."""
    for name, share in (rates | {"smoothing": smoothing}).items():
        if isinstance(share, bool) or not isinstance(share, (int, float, np.floating)) or not 0 <= share < 1:
            raise InputError(f"{name} is {share!a:.80}, expected 0 or more and below 1")
    if any(rates.values()) and mode.rng is None:
        raise InputError("dropout draws at random, expected rng=np.random.default_rng(seed)")
    return Mode(mode.training, mode.rng, rates["dropout"], rates["expert_dropout"])


def compiling() -> bool:
    """Does Numba compile here, as the fast engine needs it to?"""
    return os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0")


def check_choices(routing: Any, engine: Any) -> None:
    """Raise InputError where these are no engine and no routing."""
    if engine not in ENGINES:
        raise InputError(f"engine is {engine!r}, expected one of {', '.join(map(repr, ENGINES))}")
    if routing is not None and not isinstance(routing, Routing):
        raise InputError(f"routing is {routing!r}, expected a switchnp.Routing such as Routing.paper()")


def check_fit(routing: Routing, weights: Weights, engine: str) -> None:
    """Raise InputError where this routing or engine is not for this model."""
    if routing.precision != "float32" and (engine != "equations" or weights.itemsize == 8):
        raise InputError(f"precision is {routing.precision!r}, expected engine='equations' and float32 weights for that")
    if routing.needs_bias and not weights.config.router_bias:
        raise InputError("the router is 'bias', expected a Config with router_bias for that")
    if engine == "fast" and weights.itemsize == 8:
        raise InputError("the weights are float64, expected engine='kernels' or engine='equations' for that")
    if engine == "fast" and not compiling():
        raise InputError("NUMBA_DISABLE_JIT is set, expected engine='kernels' or engine='equations' for that")


def _threads(threads: Any) -> int:
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if threads is None:
        return there
    if isinstance(threads, bool) or not isinstance(threads, (int, np.integer)) or not 1 <= threads <= 1024:
        raise InputError(f"threads is {threads!a:.80}, expected a whole number from 1 to 1024")
    return int(threads)


def _is_weight(path: str) -> bool:
    return path.rpartition("/")[2] not in SCALES.values()


def _readable(path: str, leaf: Any, leaves: dict[str, Any]) -> Any:
    if leaf.dtype.name == "int8":
        scale = scale_path(path)
        assert scale is not None
        return widened(path, leaf, leaves[scale])
    return np.asarray(leaf, np.float32)
