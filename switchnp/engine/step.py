"""One more word of every voice, from the embedding to the logits: one compiled program, with no Python inside.

Every thread has some heads and some stretches of the hidden units, whose share of a layer's output it adds up alone; at the end of a
layer all meet, and each adds all shares to its own copy of the stream. The shares do not depend on how many threads there
are, so neither do the bits.
"""

from collections import namedtuple

import numpy as np

from ..kernels.jit import jit
from .blocks import hidden, normed
from .dots import dotted
from .elementary import HIDDEN, RELU, dot, softened
from .instructions import BLOCK, LANES, address_of, floats, keep
from .operands import SPAN, operand_of, prepare, some_rows
from .pool import meet
from .products import multiply
from .weight import Weight, expert

__all__ = ["COLUMNS", "STRETCHES", "Numbers", "spoken"]

COLUMNS = (
    "norm", "wq", "wk", "wv", "wo", "cross_norm", "cross_wq", "cross_wo", "ffn_norm", "wi", "wi_linear", "ffn_wo", "router", "router_bias",
    "sparse", "bias",
)  # fmt: skip
"""What a row of the table of blocks has: addresses (with that of the scale behind it where it is a matrix), and flags."""
NORM, WQ, WK, WV, WO, CROSS_NORM, CROSS_WQ, CROSS_WO, FFN_NORM, WI, WI_LINEAR, FFN_WO, ROUTER, ROUTER_BIAS, SPARSE, BIAS = range(
    0, 2 * len(COLUMNS), 2
)
STRETCHES = 8
"""The hidden units are cut in so many."""

Numbers = namedtuple("Numbers", "kind B D F H K E V T S eps gated activation tied")
"""B voices with T words behind them, S words of the memory; the rest is the Config's."""


@jit()
def _matrix(row, column, columns):
    return Weight(row[column], row[column + 1], columns)


@jit()
def unit_of(H, K):
    """So many heads have a whole number of blocks of columns, or all have."""
    unit = 1
    while unit < H and unit * K % BLOCK:
        unit += 1
    return unit


@jit()
def spoken(rank, ranks, barrier, n, table, last_norm_d, head, x_bd, line_bt, keys, values, capacity, bias_hx, spans_b2, memory_keys,
           memory_values, mask_s, share_pbd, q_bn, o_bn, h_bf, g_bf, logits_bv):  # fmt: skip
    """logits_bv = what each voice would say after the words whose embeddings are x_bd."""
    unit = unit_of(n.H, n.K)
    units = (n.H + unit - 1) // unit
    x_bd, n_bd = x_bd.copy(), np.empty_like(x_bd)
    room = np.empty(n.B * (4 * max(n.D, n.F, n.H * n.K) + 64) * 2 + 1024, np.uint8)
    N, turn = n.H * n.K, 0
    own = rank * units // ranks, (rank + 1) * units // ranks
    for block in range(len(table)):
        row = table[block]
        _self(
            n,
            row,
            block,
            own,
            unit,
            x_bd,
            n_bd,
            line_bt,
            keys,
            values,
            capacity,
            bias_hx,
            q_bn,
            o_bn,
            share_pbd[turn],
            address_of(room),
        )
        turn = _gathered(barrier, ranks, share_pbd, turn, units, x_bd)
        at = 4 * block * n.S * N
        _cross(
            n,
            row,
            own,
            unit,
            x_bd,
            n_bd,
            spans_b2,
            memory_keys + at,
            memory_values + at,
            mask_s,
            q_bn,
            o_bn,
            share_pbd[turn],
            address_of(room),
        )
        turn = _gathered(barrier, ranks, share_pbd, turn, units, x_bd)
        _feedforward(rank, ranks, n, row, x_bd, n_bd, h_bf, g_bf, share_pbd[turn], address_of(room))
        turn = _gathered(barrier, ranks, share_pbd, turn, STRETCHES, x_bd)
    factor = np.float32(1 / np.sqrt(n.D)) if n.tied else np.float32(1)
    for b in range(n.B):
        normed(x_bd[b], last_norm_d, n.eps, n_bd[b])
    for b in range(n.B):
        for d in range(n.D):
            n_bd[b, d] *= factor
    o = operand_of(n.kind, address_of(n_bd), n.B, n.D, SPAN, address_of(room))
    prepare(n.kind, o, 0, n.B)
    blocks = (n.V + BLOCK - 1) // BLOCK
    v0, v1 = rank * blocks // ranks * BLOCK, min(n.V, (rank + 1) * blocks // ranks * BLOCK)
    heard = o.address, o.stride, o.span, o.scale, o.sums, o.x, o.M, o.K
    dotted(n.kind, *heard, head.address, head.scale, head.columns, v0, v1, address_of(logits_bv), n.V)
    keep(n_bd)
    keep(room)


@jit()
def _gathered(barrier, ranks, share_pbd, turn, count, x_bd):
    """Wait for all shares, and add them up in their order."""
    meet(barrier, ranks)
    for b in range(len(x_bd)):
        for d in range(x_bd.shape[1]):
            total = share_pbd[turn, 0, b, d]
            for p in range(1, count):
                total += share_pbd[turn, p, b, d]
            x_bd[b, d] += total
    return 1 - turn


@jit()
def _listening(n, x_bd, norm, n_bd, room):
    norm_d = floats(norm, n.D)
    for b in range(n.B):
        normed(x_bd[b], norm_d, n.eps, n_bd[b])
    operand = operand_of(n.kind, address_of(n_bd), n.B, n.D, SPAN, room)
    prepare(n.kind, operand, 0, n.B)
    return operand


@jit()
def _self(n, row, block, own, unit, x_bd, n_bd, line_bt, keys, values, capacity, bias_hx, q_bn, o_bn, share_pbd, room):
    N = n.H * n.K
    c0, c1 = own[0] * unit * n.K, min(own[1] * unit * n.K, N)
    heard = _listening(n, x_bd, row[NORM], n_bd, room)
    layer = 4 * block * capacity[0] * capacity[1] * N
    newest = layer + 4 * n.T * capacity[1] * N
    multiply(n.kind, heard, _matrix(row, WQ, N), 0, n.D, c0, c1, False, False, address_of(q_bn), N)
    multiply(n.kind, heard, _matrix(row, WK, N), 0, n.D, c0, c1, False, False, keys + newest, N)
    multiply(n.kind, heard, _matrix(row, WV, N), 0, n.D, c0, c1, False, False, values + newest, N)
    address_s, weight_s, nought = (
        np.empty(n.T + 1, np.int64),
        np.empty(n.T + LANES, np.float32),
        np.zeros(n.T + LANES, np.float32),
    )
    for b in range(n.B):
        for s in range(n.T):
            address_s[s] = layer + 4 * (s * capacity[1] + line_bt[b, s]) * N
        address_s[n.T] = newest + 4 * b * N
        for h in range(c0 // n.K, c1 // n.K):
            at, q_k = 4 * h * n.K, q_bn[b, h * n.K : (h + 1) * n.K]
            for s in range(n.T + 1):
                weight_s[s] = dot(q_k, floats(keys + address_s[s] + at, n.K))
                if row[BIAS]:
                    weight_s[s] += bias_hx[h, n.T - s]
            total = softened(address_of(weight_s), address_of(nought), n.T + 1)
            o_k = o_bn[b, h * n.K : (h + 1) * n.K]
            o_k[:] = 0
            for s in range(n.T + 1):
                _add(o_k, weight_s[s] / total, floats(values + address_s[s] + at, n.K))
    _home(n, row, WO, own, unit, o_bn, share_pbd, room)


@jit()
def _cross(n, row, own, unit, x_bd, n_bd, spans_b2, keys, values, mask_s, q_bn, o_bn, share_pbd, room):
    N = n.H * n.K
    c0, c1 = own[0] * unit * n.K, min(own[1] * unit * n.K, N)
    heard = _listening(n, x_bd, row[CROSS_NORM], n_bd, room)
    multiply(n.kind, heard, _matrix(row, CROSS_WQ, N), 0, n.D, c0, c1, False, False, address_of(q_bn), N)
    weight_s, nought = np.empty(n.S + LANES, np.float32), np.zeros(n.S + LANES, np.float32)
    for b in range(n.B):
        s0, s1 = spans_b2[b]
        for h in range(c0 // n.K, c1 // n.K):
            q_k, o_k = q_bn[b, h * n.K : (h + 1) * n.K], o_bn[b, h * n.K : (h + 1) * n.K]
            at = 4 * (h * n.S + s0) * n.K
            for s in range(s1 - s0):
                score = dot(q_k, floats(keys + at + 4 * s * n.K, n.K))
                weight_s[s] = score if mask_s[s0 + s] else HIDDEN
            total = softened(address_of(weight_s), address_of(nought), s1 - s0)
            o_k[:] = 0
            for s in range(s1 - s0):
                _add(o_k, weight_s[s] / total, floats(values + at + 4 * s * n.K, n.K))
    _home(n, row, CROSS_WO, own, unit, o_bn, share_pbd, room)


@jit()
def _home(n, row, column, own, unit, o_bn, share_pbd, room):
    """Each unit of heads' share of what they bring home."""
    N = n.H * n.K
    for u in range(own[0], own[1]):
        first, last = u * unit * n.K, min((u + 1) * unit * n.K, N)
        own_bk = np.ascontiguousarray(o_bn[:, first:last])
        operand = operand_of(n.kind, address_of(own_bk), n.B, last - first, SPAN, room)
        prepare(n.kind, operand, 0, n.B)
        multiply(n.kind, operand, _matrix(row, column, n.D), first, last, 0, n.D, False, False, address_of(share_pbd[u]), n.D)
        keep(own_bk)


@jit(fastmath={"contract"})
def _add(o_k, weight, v_k):
    for k in range(len(o_k)):
        o_k[k] += weight * v_k[k]


@jit()
def _feedforward(rank, ranks, n, row, x_bd, n_bd, h_bf, g_bf, share_pbd, room):
    """Each stretch's share of the dense layer, or of the expert of each voice, times its gate."""
    norm_d = floats(row[FFN_NORM], n.D)
    for b in range(n.B):
        normed(x_bd[b], norm_d, n.eps, n_bd[b])
    E = n.E if row[SPARSE] else 1
    order_b, start_e, gate_b = np.arange(n.B), np.zeros(E + 1, np.int64), np.ones(n.B, np.float32)
    start_e[1:] = n.B
    if row[SPARSE]:
        _routed(n, row, n_bd, order_b, start_e, gate_b)
    sorted_bd = n_bd[order_b]
    heard = operand_of(n.kind, address_of(sorted_bd), n.B, n.D, SPAN, room)
    prepare(n.kind, heard, 0, n.B)
    length = ((n.F + STRETCHES - 1) // STRETCHES + BLOCK - 1) // BLOCK * BLOCK
    p0, p1 = rank * STRETCHES // ranks, (rank + 1) * STRETCHES // ranks
    wi, linear, wo = _matrix(row, WI, n.F), _matrix(row, WI_LINEAR, n.F), _matrix(row, FFN_WO, n.D)
    y_bd = np.empty((n.B, n.D), np.float32)
    for e in range(E):
        first, last = start_e[e], start_e[e + 1]
        if first == last:
            continue
        f0, f1 = min(p0 * length, n.F), min(p1 * length, n.F)
        h_tf, g_tf = h_bf[first:last], g_bf[first : last if n.gated else first]
        x = some_rows(heard, first, last)
        hidden(n.kind, x, expert(n.kind, wi, e, n.D), expert(n.kind, linear, e, n.D), n.gated, n.activation, f0, f1, h_tf, g_tf)
    inside = room + n.B * (4 * n.D + 64) + 8 * n.B * (n.D // 16 + 2)
    for p in range(p0, p1):
        f0, f1 = min(p * length, n.F), min((p + 1) * length, n.F)
        if f0 == f1:
            share_pbd[p] = 0
            continue
        own_bf = np.ascontiguousarray(h_bf[: n.B, f0:f1])
        h = operand_of(n.kind, address_of(own_bf), n.B, f1 - f0, SPAN, inside)
        prepare(n.kind, h, 0, n.B)
        for e in range(E):
            first, last = start_e[e], start_e[e + 1]
            if first < last:
                sparse = n.activation == RELU and not n.gated
                out = address_of(y_bd) + 4 * first * n.D
                multiply(n.kind, some_rows(h, first, last), expert(n.kind, wo, e, n.F), f0, f1, 0, n.D, sparse, False, out, n.D)
        for i in range(n.B):
            for d in range(n.D):
                share_pbd[p, order_b[i], d] = gate_b[i] * y_bd[i, d]
        keep(own_bf)
    keep(sorted_bd)


@jit()
def _routed(n, row, n_bd, order_b, start_e, gate_b):
    """Voices sorted by the expert that each one's router chooses, and its gate."""
    router, logit_e = floats(row[ROUTER], n.D * n.E), np.empty(n.E, np.float32)
    expert_b, probability_b = np.empty(n.B, np.int64), np.empty(n.B, np.float32)
    start_e[:] = 0
    for b in range(n.B):
        for e in range(n.E):
            logit_e[e] = dot(n_bd[b], router[e * n.D : (e + 1) * n.D])
        if row[ROUTER_BIAS]:
            logit_e += floats(row[ROUTER_BIAS], n.E)
        best = 0
        for e in range(1, n.E):
            best = e if logit_e[e] > logit_e[best] else best
        total = np.float32(0)
        for e in range(n.E):
            total += np.float32(np.exp(logit_e[e] - logit_e[best]))
        expert_b[b], probability_b[b] = best, np.float32(1) / total
        start_e[best + 1] += 1
    for e in range(n.E):
        start_e[e + 1] += start_e[e]
    next_e = start_e[:-1].copy()
    for b in range(n.B):
        i = next_e[expert_b[b]]
        order_b[i], gate_b[i] = b, probability_b[b]
        next_e[expert_b[b]] += 1
