"""Whole layers over a row of tokens, as programs for the pool: every thread does its share of columns, tokens or heads.

`room` is the address of bytes enough for any Operand of the program (`operands.room_for`).
"""

import numpy as np

from ..kernels.jit import REASSOCIATE, jit
from .attention import attended
from .dots import dotted
from .elementary import RELU, activated
from .instructions import address_of
from .operands import SPAN, operand_of, prepare, some_rows
from .pool import meet
from .products import multiply, share
from .weight import expert

__all__ = ["asked", "cross_attention", "dense", "head", "home", "mixture", "normed", "projected"]


@jit(fastmath=REASSOCIATE)
def normed(x_d, norm_d, eps, n_d):
    """n_d = rms_norm(x_d) of one token."""
    square = np.float32(0)
    for d in range(len(x_d)):
        square += x_d[d] * x_d[d]
    scale = np.float32(1 / np.sqrt(square / np.float32(len(x_d)) + eps))
    for d in range(len(x_d)):
        n_d[d] = x_d[d] * scale * norm_d[d]


@jit()
def _operand(rank, ranks, barrier, kind, x_tk, room):
    """Everybody prepares some rows, and waits for the others."""
    T = len(x_tk)
    operand = operand_of(kind, address_of(x_tk), T, x_tk.shape[1], SPAN, room)
    prepare(kind, operand, rank * T // ranks, (rank + 1) * T // ranks)
    meet(barrier, ranks)
    return operand


@jit()
def _normed(rank, ranks, barrier, kind, x_td, norm_d, eps, n_td, room):
    T = len(x_td)
    for t in range(rank * T // ranks, (rank + 1) * T // ranks):
        normed(x_td[t], norm_d, eps, n_td[t])
    return _operand(rank, ranks, barrier, kind, n_td, room)


@jit()
def _columns(rank, ranks, kind, x, weight, y_tn, sparse, add):
    """This thread's columns of y_tn = (or += where `add`) x · w."""
    N = y_tn.shape[1]
    c0, c1 = share(rank, ranks, N)
    multiply(kind, x, weight, 0, x.K, c0, c1, sparse, add, address_of(y_tn), N)


@jit()
def asked(rank, ranks, barrier, kind, x_td, norm_d, eps, wq, wk, wv, n_td, q_td, k_td, v_td, room):
    """Queries, keys and values of norm(x_td)."""
    n = _normed(rank, ranks, barrier, kind, x_td, norm_d, eps, n_td, room)
    _columns(rank, ranks, kind, n, wq, q_td, False, False)
    _columns(rank, ranks, kind, n, wk, k_td, False, False)
    _columns(rank, ranks, kind, n, wv, v_td, False, False)


@jit()
def home(rank, ranks, barrier, kind, x_td, q_td, k_sd, v_sd, sight, H, o_td, wo, room):
    """x_td += what the heads bring home, put together."""
    attended(rank, ranks, q_td, k_sd, v_sd, sight, H, o_td)
    meet(barrier, ranks)
    o = _operand(rank, ranks, barrier, kind, o_td, room)
    _columns(rank, ranks, kind, o, wo, x_td, False, True)


@jit()
def cross_attention(rank, ranks, barrier, kind, x_td, norm_d, eps, wq, wo, sight, H, k_sd, v_sd, n_td, q_td, o_td, room):
    """x_td += Attention(norm(x_td) over keys and values that are there)."""
    n = _normed(rank, ranks, barrier, kind, x_td, norm_d, eps, n_td, room)
    _columns(rank, ranks, kind, n, wq, q_td, False, False)
    meet(barrier, ranks)
    home(rank, ranks, barrier, kind, x_td, q_td, k_sd, v_sd, sight, H, o_td, wo, room)


@jit()
def projected(rank, ranks, barrier, kind, x_sd, wk, wv, k_sd, v_sd, room):
    """Keys and values of a memory."""
    x = _operand(rank, ranks, barrier, kind, x_sd, room)
    _columns(rank, ranks, kind, x, wk, k_sd, False, False)
    _columns(rank, ranks, kind, x, wv, v_sd, False, False)


@jit()
def hidden(kind, x, wi, wi_linear, gated, activation, f0, f1, h_tf, g_tf):
    """h_tf[:, f0:f1] = act(x wi), times x wi_linear where gated."""
    F = h_tf.shape[1]
    multiply(kind, x, wi, 0, x.K, f0, f1, False, False, address_of(h_tf), F)
    activated(activation, h_tf, f0, f1)
    if gated:
        multiply(kind, x, wi_linear, 0, x.K, f0, f1, False, False, address_of(g_tf), F)
        for t in range(len(h_tf)):
            for f in range(f0, f1):
                h_tf[t, f] *= g_tf[t, f]


@jit()
def dense(rank, ranks, barrier, kind, x_td, norm_d, eps, wi, wi_linear, wo, gated, activation, n_td, h_tf, g_tf, room):
    """x_td += FFN(norm(x_td))."""
    n = _normed(rank, ranks, barrier, kind, x_td, norm_d, eps, n_td, room)
    f0, f1 = share(rank, ranks, h_tf.shape[1])
    hidden(kind, n, wi, wi_linear, gated, activation, f0, f1, h_tf, g_tf)
    meet(barrier, ranks)
    h = _operand(rank, ranks, barrier, kind, h_tf, room)
    _columns(rank, ranks, kind, h, wo, x_td, activation == RELU and not gated, True)


@jit()
def mixture(
    rank,
    ranks,
    barrier,
    kind,
    n_td,
    token_i,
    start_e,
    gate_i,
    wi,
    wi_linear,
    wo,
    gated,
    activation,
    n_id,
    h_if,
    g_if,
    y_id,
    y_td,
    room,
):
    """y_td[token] = gate Expert(n_td[token]) for tokens that are sorted by expert."""
    I, D, F = len(token_i), n_td.shape[1], h_if.shape[1]
    for i in range(rank * I // ranks, (rank + 1) * I // ranks):
        n_id[i] = n_td[token_i[i]]
    n = _operand(rank, ranks, barrier, kind, n_id, room)
    f0, f1 = share(rank, ranks, F)
    for e in range(len(start_e) - 1):
        first, last = start_e[e], start_e[e + 1]
        if first < last:
            x, h_tf, g_tf = some_rows(n, first, last), h_if[first:last], g_if[first:last]
            hidden(kind, x, expert(kind, wi, e, D), expert(kind, wi_linear, e, D), gated, activation, f0, f1, h_tf, g_tf)
    meet(barrier, ranks)
    h = _operand(rank, ranks, barrier, kind, h_if, room)
    for e in range(len(start_e) - 1):
        first, last = start_e[e], start_e[e + 1]
        if first < last:
            rows = some_rows(h, first, last)
            _columns(rank, ranks, kind, rows, expert(kind, wo, e, F), y_id[first:last], activation == RELU and not gated, False)
    c0, c1 = share(rank, ranks, D)
    for i in range(I):
        for d in range(c0, c1):
            y_td[token_i[i], d] = gate_i[i] * y_id[i, d]


@jit()
def head(rank, ranks, barrier, kind, x_td, weight, logits_tv, room):
    """logits_tv = x_td · the rows of a table."""
    o = _operand(rank, ranks, barrier, kind, x_td, room)
    T, V = logits_tv.shape
    v0, v1 = share(rank, ranks, V)
    own = o.address, o.stride, o.span, o.scale, o.sums, o.x, o.M, o.K
    if T:
        dotted(kind, *own, weight.address, weight.scale, weight.columns, v0, v1, address_of(logits_tv), V)
