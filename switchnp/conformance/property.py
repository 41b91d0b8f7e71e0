"""A property: a claim of the paper, the test that finds a case against it, and what the tests are made of."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from .. import equations as eq
from .subject import Broken

__all__ = ["BOTH", "Property", "answered", "best_gate", "choice", "entering", "expert_answer", "probs", "same"]

BOTH = ("router", "layer")
TOLERANCE = 1e-4  # of the largest number compared, or of 1: float32 stays far below, a real fault far above


class Property(NamedTuple):
    """What is claimed, of what, and a test of (subject, case, rng) that raises Broken."""

    id: str
    claim: str
    needs: tuple[str, ...]
    test: Callable[..., None]


def entering(properties):
    """A decorator that enters a test into this list, under the id and the claim that it tests."""

    def claim(id, sentence, *needs):
        return lambda test: properties.append(Property(id, sentence, needs, test)) or test

    return claim


def same(name, actual, expected, meaning, tolerance=TOLERANCE):
    """Raise Broken, naming the entry that is farthest off, unless the two agree."""
    off = np.nan_to_num(np.abs(actual - expected), nan=np.inf)
    if (off > tolerance * (1 + np.abs(expected).max(initial=0))).any():
        where = np.unravel_index(off.argmax(), off.shape)
        entry = f"{name}[{', '.join(map(str, where))}]"
        arrays = {name: actual, f"expected_{name.rsplit('_', 1)[1]}": expected}
        raise Broken(f"{entry} is {actual[where]:.6g}, but {meaning} {expected[where]:.6g}", **arrays)


def probs(case):
    """Switch eq. 1."""
    return eq.router_probs(case.x_td, case.wr_de)


def best_gate(case):
    """The gate of Switch eq. 2 with k = 1."""
    return probs(case).max(axis=1)


def choice(case):
    """The expert of Switch eq. 2 with k = 1."""
    return eq.top1(eq.router_logits(case.x_td, case.wr_de))


def expert_answer(case):
    """E_i(x) of Switch eq. 2: what each token's expert says, before the gate."""
    expert_t = choice(case)
    h_tf = eq.relu(np.einsum("td,tdf->tf", case.x_td, case.wi_edf[expert_t]))
    return np.einsum("tf,tfd->td", h_tf, case.wo_efd[expert_t])


def answered(layer, case):
    """A layer's y_td, and which tokens an expert answered: those whose rows move when the experts' answers double."""
    doubled_td = layer(replace(case, wo_efd=2 * case.wo_efd))["y_td"]
    y_td = layer(case)["y_td"]
    return y_td, (np.abs(doubled_td - y_td) > 1e-6 * np.abs(y_td).max(axis=1, keepdims=True)).any(axis=1)
