"""Is there room? Out to the experts, and home again."""

import math

import numpy as np

__all__ = ["combine", "dispatch", "expert_capacity", "pass_dropped", "seating", "slots"]

CAPACITIES = {
    "exact": lambda T, E, factor: T * factor / E,  # the paper; a queue of 2.5 seats slots 0, 1 and 2
    "ceil": lambda T, E, factor: math.ceil(T * factor / E),  # fastmoe, DeepSpeed
    "round": lambda T, E, factor: round(factor * T / E),  # flaxformer: half to even
    "floor": lambda T, E, factor: math.floor(T * factor / E),  # labml
    "floor up to T": lambda T, E, factor: min(T, math.floor(T * factor / E)),  # mesh-tf
    "floor to even": lambda T, E, factor: math.floor(T * factor / E) + math.floor(T * factor / E) % 2,  # nanoMoE
    "floor of ceil": lambda T, E, factor: math.floor(factor * math.ceil(T / E)),  # fairseq
    "floor of T / E": lambda T, E, factor: T // E,  # keras.io
}
"""How equation 3 is made a whole number, and who makes it so."""


def expert_capacity(T, E, factor, rule="ceil", minimum=1):
    """How many tokens of a group one expert takes.

        C = T / E * capacity factor

    The paper does not round; implementations differ, so the rule (`CAPACITIES`) and `minimum` are the caller's choice.

    Source: Switch, eq. 3.
    """
    return max(CAPACITIES[rule](T, E, factor), minimum)


def slots(expert_t, E, C):
    """Where each token sits in its expert's queue: first come, first served, and -1 once the queue is full.

        slot_t = number of earlier tokens with the same expert,    if below C

    Source: Switch, §2.2 and the exclusive cumulative sum of mesh-tf's moe.py.
    """
    asks_te = expert_t[:, None] == np.arange(E)
    before_te = np.cumsum(asks_te, axis=0) - asks_te
    slot_t = np.take_along_axis(before_te, expert_t[:, None], axis=-1)[:, 0]
    return np.where(slot_t < C, slot_t, -1)


def seating(expert_t, slot_t, E, C):
    """The queues as one array of zeros and ones: token t sits in slot c of expert e.

    Source: Switch, eq. 7 (the dispatch tensor).
    """
    asks_te = expert_t[:, None] == np.arange(E)
    sits_tc = slot_t[:, None] == np.arange(C)
    return np.einsum("te,tc->tec", asks_te, sits_tc)


def dispatch(x_td, expert_t, slot_t, E, C):
    """Out: every kept token into its slot of its expert's queue. Empty slots are zero.

        x_ecd = sum_t seat_tec x_td

    Source: Switch, eq. 7.
    """
    seat_tec = seating(expert_t, slot_t, E, C).astype(x_td.dtype)
    return np.einsum("tec,td->ecd", seat_tec, x_td)


def combine(y_ecd, expert_t, slot_t, gate_t):
    """Home: every kept token takes its slot's answer, scaled by its gate. A dropped token gets zero.

        y = p_i(x) E_i(x)

    Source: Switch, eq. 2.
    """
    E, C, _ = y_ecd.shape
    seat_tec = seating(expert_t, slot_t, E, C).astype(y_ecd.dtype)
    y_td = np.einsum("tec,ecd->td", seat_tec, y_ecd)
    return gate_t.astype(y_ecd.dtype)[:, None] * y_td


def pass_dropped(y_td, n_td, slot_t, gate_t):
    """Old transformers hand a dropped token its own normed input, scaled by its gate, where the paper hands it nothing.

        y = p_i(x) x    where x was dropped

    Source: transformers 4.25 to 4.51 (not the paper).
    """
    return np.where(slot_t[:, None] < 0, gate_t.astype(n_td.dtype)[:, None] * n_td, y_td)
