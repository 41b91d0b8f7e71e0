"""Somebody's callable, kept at arm's length."""

import textwrap

import numpy as np

__all__ = ["BadCall", "Broken", "Subject"]

TAKES = {"router": ("x_td", "wr_de"), "layer": ("x_td", "wr_de", "wi_edf", "wo_efd")}
GIVES = {"router": {"p_te": "f", "expert_t": "iu", "gate_t": "f", "slot_t": "iu"}, "layer": {"y_td": "f"}}
KINDS = {"f": "floating point", "iu": "whole numbers"}


class Broken(Exception):
    """A property does not hold for a case. Never leaves this folder."""

    def __init__(self, why, **arrays):
        super().__init__(why)
        self.arrays = arrays


class BadCall(Broken):
    """The callable raised, or what it gave is no answer."""


class Subject:
    """Somebody's callable, kept at arm's length: it gets copies, and its answer is looked over before it is used."""

    def __init__(self, name, function, dtype):
        self.name, self.function, self.dtype = name, function, dtype
        self.fails, self.inputs, self.handed = False, {}, {}

    def __call__(self, case):
        """The arrays that it answers, by name, or BadCall."""
        arrays = {name: np.array(getattr(case, name), self.dtype, order="C") for name in TAKES[self.name]}
        self.inputs = arrays | {"C": case.C}
        self.handed = {name: array.copy() for name, array in arrays.items()}
        try:
            answer = self.function(*self.handed.values(), case.C)
            given = [np.array(part) for part in (answer if self.name == "router" else [answer])]
        except (Exception, SystemExit) as error:
            message = textwrap.shorten(str(error), 300)
            raise BadCall(f"calling it gave {type(error).__name__}: {message}") from None
        names = GIVES[self.name]
        if len(given) != len(names):
            raise BadCall(f"it gave {len(given)} arrays, expected the {len(names)} {', '.join(names)}")
        axes = dict(zip("tde", (*case.x_td.shape, case.E), strict=True))
        return {name: self._accepted(name, array, axes) for name, array in zip(names, given, strict=True)}

    def _accepted(self, name, array, axes):
        shape, kind = tuple(axes[axis] for axis in name.rsplit("_", 1)[1]), GIVES[self.name][name]
        fault = None
        if array.shape != shape:
            fault = f"{name} is {array.shape}, expected {shape}"
        elif array.dtype.kind not in kind:
            fault = f"{name} is {array.dtype}, expected {KINDS[kind]}"
        elif kind == "f" and not np.isfinite(array).all():
            fault = f"{name} holds NaN or infinity, expected finite numbers"
        elif name == "expert_t" and not ((array >= 0) & (array < axes["e"])).all():
            fault = f"expert_t names an expert from {array.min()} to {array.max()}, expected 0 to {axes['e'] - 1}"
        if fault:
            raise BadCall(fault, **{name: array})
        return array.astype(np.float64 if kind == "f" else np.int64)
