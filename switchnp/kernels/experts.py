"""Tokens sorted by expert, one dense layer for each expert that has any: idle experts cost nothing."""

import numpy as np

from .feedforward import SLOPES, kept
from .jit import jit

__all__ = ["gated_mixture", "gated_mixture_vjp", "mixture", "mixture_vjp"]


def mixture(x_td, expert_t, slot_t, gate_t, wi_edf, wo_efd, C, activation, keep_tf=None):
    """See equations.mixture. Kept tokens sorted by expert, two GEMMs for each live one."""
    y_td = np.zeros_like(x_td)
    for e, own, keep in _queues(expert_t, slot_t, len(wi_edf), keep_tf):
        h_tf = kept(activation(x_td[own] @ wi_edf[e]), keep)
        y_td[own] = gate_t[own, None] * (h_tf @ wo_efd[e])
    return y_td


def mixture_vjp(dy_td, y_td, x_td, expert_t, slot_t, gate_t, wi_edf, wo_efd, C, activation, keep_tf=None):
    """See equations.mixture_vjp. Five GEMMs for each live expert; the gate's gradient is dh h, for y = g h W_out."""
    dx_td, dgate_t, dwi_edf, dwo_efd = map(np.zeros_like, (x_td, gate_t, wi_edf, wo_efd))
    for e, own, keep in _queues(expert_t, slot_t, len(wi_edf), keep_tf):
        own_td, u_tf = x_td[own], x_td[own] @ wi_edf[e]
        h_tf = activation(u_tf)
        dh_tf, dwo_efd[e], dgate_t[own] = _from_the_answer(dy_td[own], gate_t[own], kept(h_tf, keep), wo_efd[e])
        (du_tf,) = SLOPES[activation.__name__](kept(dh_tf, keep), h_tf, u_tf)
        dwi_edf[e] = own_td.T @ du_tf
        dx_td[own] = du_tf @ wi_edf[e].T
    return dx_td, dgate_t, dwi_edf, dwo_efd


def gated_mixture(x_td, expert_t, slot_t, gate_t, wi0_edf, wi1_edf, wo_efd, C, activation, keep_tf=None):
    """See equations.gated_mixture. Kept tokens sorted by expert, three GEMMs for each live one."""
    y_td = np.zeros_like(x_td)
    for e, own, keep in _queues(expert_t, slot_t, len(wi0_edf), keep_tf):
        h_tf = activation(x_td[own] @ wi0_edf[e]) * (x_td[own] @ wi1_edf[e])
        y_td[own] = gate_t[own, None] * (kept(h_tf, keep) @ wo_efd[e])
    return y_td


def gated_mixture_vjp(dy_td, y_td, x_td, expert_t, slot_t, gate_t, wi0_edf, wi1_edf, wo_efd, C, activation, keep_tf=None):
    """See equations.gated_mixture_vjp. Eight GEMMs for each live expert."""
    dx_td, dgate_t, dwi0_edf, dwi1_edf, dwo_efd = map(np.zeros_like, (x_td, gate_t, wi0_edf, wi1_edf, wo_efd))
    for e, own, keep in _queues(expert_t, slot_t, len(wi0_edf), keep_tf):
        own_td = x_td[own]
        u_tf, linear_tf = own_td @ wi0_edf[e], own_td @ wi1_edf[e]
        act_tf = activation(u_tf)
        h_tf = kept(act_tf * linear_tf, keep)
        dh_tf, dwo_efd[e], dgate_t[own] = _from_the_answer(dy_td[own], gate_t[own], h_tf, wo_efd[e])
        dh_tf = kept(dh_tf, keep)
        (du_tf,), dlinear_tf = SLOPES[activation.__name__](dh_tf * linear_tf, act_tf, u_tf), dh_tf * act_tf
        dwi0_edf[e], dwi1_edf[e] = own_td.T @ du_tf, own_td.T @ dlinear_tf
        dx_td[own] = du_tf @ wi0_edf[e].T + dlinear_tf @ wi1_edf[e].T
    return dx_td, dgate_t, dwi0_edf, dwi1_edf, dwo_efd


def _from_the_answer(dy_td, gate_t, h_tf, wo_fd):
    """Gradients of the hidden numbers, of W_out and of the gates, of y = g h W_out."""
    dh_tf = dy_td @ wo_fd.T
    dgate_t = np.einsum("tf,tf->t", dh_tf, h_tf)
    return dh_tf * gate_t[:, None], h_tf.T @ (gate_t[:, None] * dy_td), dgate_t


def _queues(expert_t, slot_t, E, keep_tf):
    """Each live expert, its tokens, and what dropout leaves of what is hidden in it."""
    sorted_t, start_e = sorted_by_expert(expert_t, slot_t, E)
    queues = [(e, sorted_t[start_e[e] : start_e[e + 1]]) for e in np.flatnonzero(np.diff(start_e))]
    return [(e, own, None if keep_tf is None else keep_tf[own]) for e, own in queues]


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
