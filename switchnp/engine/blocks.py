"""Whole layers over a row of tokens, as programs for the pool: every thread does its share of columns, tokens or heads.

`room` is the address of bytes enough for any Operand of the program (`operands.room_for`).
"""

from collections import namedtuple

import numpy as np

from ..kernels.jit import REASSOCIATE, jit
from .attention import attended
from .dots import dotted
from .experts import has_zeros, hidden
from .instructions import address_of
from .operands import SPAN, operand_of, prepare, some_rows
from .pool import meet
from .products import multiply, share
from .weight import expert

__all__ = ["Experts", "asked", "cross_attention", "dense", "head", "home", "mixture", "normed", "projected"]


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
    attended(rank, ranks, kind, q_td, k_sd, v_sd, sight, H, o_td)
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
def dense(rank, ranks, barrier, kind, x_td, norm_d, eps, wi, wi_linear, wo, gated, activation, n_td, h_tf, g_tf, room):
    """x_td += FFN(norm(x_td))."""
    n = _normed(rank, ranks, barrier, kind, x_td, norm_d, eps, n_td, room)
    F = h_tf.shape[1]
    f0, f1 = share(rank, ranks, F)
    hidden(kind, n, wi, wi_linear, gated, activation, f0, f1, address_of(h_tf), address_of(g_tf), F)
    meet(barrier, ranks)
    h = _operand(rank, ranks, barrier, kind, h_tf, room)
    _columns(rank, ranks, kind, h, wo, x_td, has_zeros(activation, gated), True)


Experts = namedtuple("Experts", "wi wi_linear wo gated activation")
"""The matrices of all experts of a layer, one behind the other."""


@jit()
def mixture(rank, ranks, barrier, kind, n_td, token_i, start_e, gate_i, experts, n_id, h_if, g_if, y_id, y_td, room):
    """y_td[token] = gate Expert(n_td[token]) for tokens that are sorted by expert."""
    count, D = len(token_i), n_td.shape[1]
    for i in range(rank * count // ranks, (rank + 1) * count // ranks):
        n_id[i] = n_td[token_i[i]]
    n = _operand(rank, ranks, barrier, kind, n_id, room)
    _all_hidden(rank, ranks, kind, n, start_e, experts, h_if, g_if)
    meet(barrier, ranks)
    h = _operand(rank, ranks, barrier, kind, h_if, room)
    for e in range(len(start_e) - 1):
        rows, wo = some_rows(h, start_e[e], start_e[e + 1]), expert(kind, experts.wo, e, h.K)
        sparse = has_zeros(experts.activation, experts.gated)
        _columns(rank, ranks, kind, rows, wo, y_id[start_e[e] : start_e[e + 1]], sparse, False)
    c0, c1 = share(rank, ranks, D)
    for i in range(count):
        for d in range(c0, c1):
            y_td[token_i[i], d] = gate_i[i] * y_id[i, d]


@jit()
def _all_hidden(rank, ranks, kind, n, start_e, experts, h_if, g_if):
    F, gated = h_if.shape[1], experts.gated
    f0, f1 = share(rank, ranks, F)
    for e in range(len(start_e) - 1):
        first, last = start_e[e], start_e[e + 1]
        wi, linear = expert(kind, experts.wi, e, n.K), expert(kind, experts.wi_linear, e, n.K)
        h, g = address_of(h_if) + 4 * first * F, address_of(g_if) + (4 * first * F if gated else 0)
        if first < last:
            hidden(kind, some_rows(n, first, last), wi, linear, gated, experts.activation, f0, f1, h, g, F)


@jit()
def head(rank, ranks, barrier, kind, x_td, weight, logits_tv, room):
    """logits_tv = x_td · the rows of a table."""
    operand = _operand(rank, ranks, barrier, kind, x_td, room)
    T, V = logits_tv.shape
    v0, v1 = share(rank, ranks, V)
    if T:
        dotted(kind, operand, weight, v0, v1, address_of(logits_tv), V)
