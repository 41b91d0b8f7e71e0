"""Router and choice, one token at a time: a token's numbers do not depend on who is routed beside it."""

import numpy as np

from .jit import jit

__all__ = ["gate", "router_logits", "router_logits_vjp", "softmax", "softmax_vjp", "top1"]


@jit()
def router_logits(x_td, wr_de, br_e=None):
    """See equations.router_logits. Sums run over d in order, in lanes over e."""
    T, D = x_td.shape
    E = wr_de.shape[1]
    h_te = np.zeros((T, E), x_td.dtype)
    for t in range(T):
        for d in range(D):
            for e in range(E):
                h_te[t, e] += x_td[t, d] * wr_de[d, e]
    if br_e is not None:
        h_te += br_e
    return h_te


def router_logits_vjp(dh_te, h_te, x_td, wr_de, br_e=None):
    """See equations.router_logits_vjp. Two GEMMs."""
    return dh_te @ wr_de.T, x_td.T @ dh_te, None if br_e is None else dh_te.sum(axis=0)


@jit()
def softmax(h_te):
    """See equations.softmax. Three passes over each row."""
    T, E = h_te.shape
    p_te = np.empty_like(h_te)
    for t in range(T):
        top = h_te[t].max()
        total = h_te.dtype.type(0)
        for e in range(E):
            p_te[t, e] = np.exp(h_te[t, e] - top)
            total += p_te[t, e]
        for e in range(E):
            p_te[t, e] /= total
    return p_te


@jit()
def softmax_vjp(dp_te, p_te, h_te):
    """See equations.softmax_vjp. Two passes over each row."""
    T, E = p_te.shape
    dh_te = np.empty_like(p_te)
    for t in range(T):
        along = p_te.dtype.type(0)
        for e in range(E):
            along += p_te[t, e] * dp_te[t, e]
        for e in range(E):
            dh_te[t, e] = p_te[t, e] * (dp_te[t, e] - along)
    return (dh_te,)


@jit()
def top1(p_te):
    """See equations.top1. One pass; only more than the best so far replaces it."""
    T, E = p_te.shape
    expert_t = np.zeros(T, np.int64)
    for t in range(T):
        for e in range(1, E):
            if p_te[t, e] > p_te[t, expert_t[t]]:
                expert_t[t] = e
    return expert_t


@jit()
def gate(p_te, expert_t):
    """See equations.gate. One look-up a token."""
    T = len(expert_t)
    gate_t = np.empty(T, p_te.dtype)
    for t in range(T):
        gate_t[t] = p_te[t, expert_t[t]]
    return gate_t
