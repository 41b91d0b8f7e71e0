"""The verdict on every property."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from . import answers, manners, probabilities, queues
from .case import cases
from .subject import BadCall, Broken, Subject

__all__ = ["CLAIMS", "Counterexample", "Report", "check"]

PROPERTIES = (*manners.PROPERTIES, *probabilities.PROPERTIES, *answers.PROPERTIES, *queues.PROPERTIES)
CLAIMS = {it.id: it.claim for it in PROPERTIES}
BEYOND = {
    "no number tells whether a gradient is taken": ["2n"],
    "a cost, not an answer": ["3g", "7c"],
    "C and the group are given": ["3h", "3i"],
    "a loss, not a router or a layer": [f"4{letter}" for letter in "abcdefghijk"],
}


@dataclass(frozen=True, eq=False)
class Counterexample:
    """A property that a callable breaks: which, how, and the arrays that show it (what went in, what came out)."""

    id: str
    subject: str
    why: str
    arrays: Mapping[str, Any]

    def __str__(self) -> str:
        return "\n".join([f"the {self.subject}: {self.why}", *(_shown(name, value) for name, value in self.arrays.items())])


@dataclass(frozen=True, eq=False)
class Report:
    """What holds, what is broken, and what could not be judged, by the id of the property."""

    holds: frozenset[str]
    broken: Mapping[str, Counterexample]
    not_applicable: Mapping[str, str]

    def __str__(self) -> str:
        beyond = [f"{' '.join(ids)} not applicable ({why})" for why, ids in BEYOND.items()]
        end = f"{len(self.holds)} hold, {len(self.broken)} broken, {len(self.not_applicable)} not applicable"
        return "\n".join([*map(self._row, CLAIMS), *beyond, end])

    def _row(self, id: str) -> str:
        if id in self.broken:
            return f"{id:<5} BROKEN          {CLAIMS[id]}\n      " + str(self.broken[id]).replace("\n", "\n      ")
        if id in self.not_applicable:
            return f"{id:<5} not applicable  {CLAIMS[id]} ({self.not_applicable[id]})"
        return f"{id:<5} holds           {CLAIMS[id]}"


def check(
    router: Callable[..., Any] | None = None, layer: Callable[..., Any] | None = None, seed: int = 0, dtype: str = "float32"
) -> Report:
    """Judge a router, a layer, or both, by every property of the paper that they can show. The same seed, the same report.

    Source: Switch, eqs. 1-3 and 7.

    router   (x_td, wr_de, C) -> p_te, expert_t, gate_t, slot_t, where slot -1 is a dropped token
    layer    (x_td, wr_de, wi_edf, wo_efd, C) -> y_td, what ReLU experts add to the residual
    dtype    of the arrays handed over: float32 or float64; any floating point may come back
    """
    given = {name: function for name, function in (("router", router), ("layer", layer)) if function is not None}
    if not given:
        raise InputError("check was given neither a router nor a layer, expected at least one")
    if dtype not in ("float32", "float64"):
        raise InputError(f"dtype is {dtype!r}, expected 'float32' or 'float64'")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InputError(f"seed is {seed!r}, expected a whole number of 0 or more")
    subjects = [Subject(name, function, np.dtype(dtype)) for name, function in given.items()]
    with np.errstate(all="ignore"):
        return _report(subjects, cases(seed), seed)


def _report(subjects, drawn, seed):
    holds, broken, not_applicable = set(), {}, {id: why for why, ids in BEYOND.items() for id in ids}
    for id in CLAIMS:
        pairs = [(it, subject) for it in PROPERTIES for subject in subjects if it.id == id and subject.name in it.needs]
        outcomes = [_judge(it, subject, drawn, seed) for it, subject in pairs]
        faults = [outcome for outcome in outcomes if isinstance(outcome, Counterexample)]
        if faults:
            broken[id] = faults[0]
        elif not outcomes or any(outcomes):
            needs = " or a ".join(name for it in PROPERTIES if it.id == id for name in it.needs)
            not_applicable[id] = next(filter(None, outcomes), f"needs a {needs}")
        else:
            holds.add(id)
    return Report(frozenset(holds), broken, not_applicable)


def _judge(it, subject, drawn, seed):
    """The smallest counterexample, or why there is no verdict, or None where the property holds."""
    unclear = None
    for number, case in enumerate(drawn):
        try:
            it.test(subject, case, np.random.default_rng([seed, number]))
        except Broken as fault:
            if isinstance(fault, BadCall) and subject.fails:
                unclear = f"a call of the {subject.name} fails, see call"
                continue
            subject.fails |= it.id == "call"
            return Counterexample(it.id, subject.name, str(fault), subject.inputs | fault.arrays)
    return unclear


def _shown(name, value):
    start = f"{name} = "
    return start + np.array2string(np.asarray(value), prefix=start, precision=4, threshold=60, separator=", ")
