"""Tokens sorted by expert, one dense layer for each expert that has any: idle experts cost nothing."""

import numpy as np

from .jit import jit

__all__ = ["gated_mixture", "mixture"]


def mixture(x_td, expert_t, slot_t, gate_t, wi_edf, wo_efd, C, activation):
    """See equations.mixture. Kept tokens sorted by expert, two GEMMs for each live one."""
    y_td = np.zeros_like(x_td)
    for e, kept_t in _queues(expert_t, slot_t, len(wi_edf)):
        h_tf = activation(x_td[kept_t] @ wi_edf[e])
        y_td[kept_t] = gate_t[kept_t, None] * (h_tf @ wo_efd[e])
    return y_td


def gated_mixture(x_td, expert_t, slot_t, gate_t, wi0_edf, wi1_edf, wo_efd, C, activation):
    """See equations.gated_mixture. Kept tokens sorted by expert, three GEMMs for each live one."""
    y_td = np.zeros_like(x_td)
    for e, kept_t in _queues(expert_t, slot_t, len(wi0_edf)):
        queue_td = x_td[kept_t]
        h_tf = activation(queue_td @ wi0_edf[e]) * (queue_td @ wi1_edf[e])
        y_td[kept_t] = gate_t[kept_t, None] * (h_tf @ wo_efd[e])
    return y_td


def _queues(expert_t, slot_t, E):
    sorted_t, start_e = sorted_by_expert(expert_t, slot_t, E)
    live = np.flatnonzero(np.diff(start_e))
    return [(e, sorted_t[start_e[e] : start_e[e + 1]]) for e in live]


@jit()
def sorted_by_expert(expert_t, slot_t, E):
    T = len(expert_t)
    start_e = np.zeros(E + 1, np.int64)
    for t in range(T):
        if slot_t[t] >= 0:
            start_e[expert_t[t] + 1] += 1
    for e in range(E):
        start_e[e + 1] += start_e[e]
    next_e = start_e[:-1].copy()
    sorted_t = np.empty(start_e[E], np.int64)
    for t in range(T):
        if slot_t[t] >= 0:
            sorted_t[next_e[expert_t[t]]] = t
            next_e[expert_t[t]] += 1
    return sorted_t, start_e
