"""Queues by counting, whoever comes first."""

import numpy as np

from .jit import jit

__all__ = ["left_behind_slots", "queue_slots"]


@jit()
def queue_slots(expert_tn, asks_tn, order_t, E, C):
    """See equations.queue_slots. One counter per expert, choice after choice."""
    T, N = expert_tn.shape
    taken_e = np.zeros(E, np.int64)
    slot_tn = np.full((T, N), -1)
    for n in range(N):
        for t in order_t:
            e = expert_tn[t, n]
            if asks_tn[t, n] and taken_e[e] < C:
                slot_tn[t, n] = taken_e[e]
                taken_e[e] += 1
    return slot_tn


@jit()
def left_behind_slots(expert_tn, E, C):
    """See equations.left_behind_slots. One counter per expert; who sits is passed over."""
    T, N = expert_tn.shape
    taken_e = np.zeros(E, np.int64)
    slot_tn = np.full((T, N), -1)
    sits_t = np.zeros(T, np.bool_)
    for n in range(N):
        for t in range(T):
            e = expert_tn[t, n]
            if not sits_t[t] and taken_e[e] < C:
                slot_tn[t, n] = taken_e[e]
                taken_e[e] += 1
                sits_t[t] = True
    return slot_tn
