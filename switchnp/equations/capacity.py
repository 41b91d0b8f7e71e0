"""Is there room? Out to the experts, and home again."""

import math

import numpy as np

__all__ = [
    "combine",
    "combine_vjp",
    "dispatch",
    "dispatch_vjp",
    "expert_capacity",
    "pass_dropped",
    "pass_dropped_vjp",
    "seating",
    "slots",
]

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

    Gradient: none, it is a number of places.
    """
    return max(CAPACITIES[rule](T, E, factor), minimum)


def slots(expert_t, E, C):
    """Where each token sits in its expert's queue: first come, first served, and -1 once the queue is full.

        slot_t = number of earlier tokens with the same expert,    if below C

    Source: Switch, §2.2 and the exclusive cumulative sum of mesh-tf's moe.py.

    Gradient: none, a place in a queue is a whole number.
    """
    asks_te = expert_t[:, None] == np.arange(E)
    before_te = np.cumsum(asks_te, axis=0) - asks_te
    slot_t = np.take_along_axis(before_te, expert_t[:, None], axis=-1)[:, 0]
    return np.where(slot_t < C, slot_t, -1)


def seating(expert_t, slot_t, E, C):
    """The queues as one array of zeros and ones: token t sits in slot c of expert e.

    Source: Switch, eq. 7 (the dispatch tensor).

    Gradient: none, zeros and ones have no slope.
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


def dispatch_vjp(dx_ecd, x_ecd, x_td, expert_t, slot_t, E, C):
    """dx_td = sum_ec seat_tec dx_ecd: every slot's gradient back to its token."""
    seat_tec = seating(expert_t, slot_t, E, C).astype(x_td.dtype)
    return (np.einsum("tec,ecd->td", seat_tec, dx_ecd),)


def combine(y_ecd, expert_t, slot_t, gate_t):
    """Home: every kept token takes its slot's answer, scaled by its gate. A dropped token gets zero.

        y = p_i(x) E_i(x)

    Source: Switch, eq. 2.
    """
    E, C, _ = y_ecd.shape
    seat_tec = seating(expert_t, slot_t, E, C).astype(y_ecd.dtype)
    y_td = np.einsum("tec,ecd->td", seat_tec, y_ecd)
    return gate_t.astype(y_ecd.dtype)[:, None] * y_td


def combine_vjp(dy_td, y_td, y_ecd, expert_t, slot_t, gate_t):
    """dE_i = g dy in its slot, dg = dy E_i; a dropped token gives nothing to either."""
    E, C, _ = y_ecd.shape
    seat_tec = seating(expert_t, slot_t, E, C).astype(y_ecd.dtype)
    dslot_td = gate_t.astype(y_ecd.dtype)[:, None] * dy_td
    answer_td = np.einsum("tec,ecd->td", seat_tec, y_ecd)
    dgate_t = np.sum(dy_td * answer_td, axis=-1).astype(gate_t.dtype)
    return np.einsum("tec,td->ecd", seat_tec, dslot_td), dgate_t


def pass_dropped(y_td, n_td, slot_t, gate_t):
    """Old transformers hand a dropped token its own normed input, scaled by its gate, where the paper hands it nothing.

        y = p_i(x) x    where x was dropped

    Source: transformers 4.25 to 4.51 (not the paper).
    """
    return np.where(slot_t[:, None] < 0, gate_t.astype(n_td.dtype)[:, None] * n_td, y_td)


def pass_dropped_vjp(dpassed_td, passed_td, y_td, n_td, slot_t, gate_t):
    """To y where the token had a slot; where it had none to its input, scaled by the gate, and to the gate."""
    dropped_t1 = slot_t[:, None] < 0
    dlost_td = np.where(dropped_t1, dpassed_td, 0)
    dn_td = gate_t.astype(n_td.dtype)[:, None] * dlost_td
    dgate_t = np.sum(dlost_td * n_td, axis=-1).astype(gate_t.dtype)
    return np.where(dropped_t1, 0, dpassed_td), dn_td, dgate_t
