"""Queues by counting; out and home by index instead of by einsum."""

import numpy as np

from .jit import jit

__all__ = ["combine", "dispatch", "slots"]


@jit()
def slots(expert_t, E, C):
    """See equations.slots. One counter per expert."""
    T = len(expert_t)
    taken_e = np.zeros(E, np.int64)
    slot_t = np.full(T, -1)
    for t in range(T):
        e = expert_t[t]
        if taken_e[e] < C:
            slot_t[t] = taken_e[e]
            taken_e[e] += 1
    return slot_t


@jit()
def dispatch(x_td, expert_t, slot_t, E, C):
    """See equations.dispatch. One copy a kept token."""
    T, D = x_td.shape
    x_ecd = np.zeros((E, C, D), x_td.dtype)
    for t in range(T):
        if slot_t[t] >= 0:
            x_ecd[expert_t[t], slot_t[t]] = x_td[t]
    return x_ecd


@jit()
def combine(y_ecd, expert_t, slot_t, gate_t):
    """See equations.combine. One scaled copy a kept token."""
    T = len(expert_t)
    D = y_ecd.shape[2]
    y_td = np.zeros((T, D), y_ecd.dtype)
    for t in range(T):
        if slot_t[t] >= 0:
            y_td[t] = gate_t[t] * y_ecd[expert_t[t], slot_t[t]]
    return y_td
