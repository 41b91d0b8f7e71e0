"""One more word of every voice, from the embedding to the logits: one compiled program, with no Python inside.

Every thread has some heads and some stretches of the hidden units, whose share of a layer's output it adds up alone; at the end
of a layer all meet, and each adds all shares to its own copy of the stream. The shares do not depend on how many threads
there are, so neither do the bits.
"""

from collections import namedtuple

import numpy as np

from ..kernels.jit import jit
from .blocks import normed
from .dots import dotted
from .elementary import HIDDEN, dot
from .experts import has_zeros, hidden
from .instructions import BLOCK, FLOAT32, LANES, SIZES, address_of, floats, keep
from .operands import SPAN, operand_of, prepare, some_rows
from .pool import meet
from .products import multiply, share
from .recall import recalled
from .weight import Weight, expert

__all__ = ["STRETCHES", "Memory", "Numbers", "Rooms", "spoken", "unit_of"]

NORM, WQ, WK, WV, WO, CROSS_NORM, CROSS_WQ, CROSS_WO, FFN_NORM, WI, WI_LINEAR, FFN_WO = range(0, 24, 2)
ROUTER, ROUTER_BIAS, SPARSE, BIASED = range(24, 32, 2)
"""What a row of the table of blocks has, each in two places: an address and that of its scale, or a flag and nothing."""
STRETCHES = 8
"""The hidden units are cut in so many."""

Numbers = namedtuple("Numbers", "kind B D F H K E V T S gated activation eps tied")
"""B voices with T words behind them, S words of the memory; the rest is the Config's."""

Memory = namedtuple("Memory", "place_t2 line_bt bias_hx spans_b2 heard_keys heard_values heard_kind mask_s")
"""What the voices remember.

place_t2        where each moment's rows lie, and how many bytes further those of the next block; keys of a row, then its values
line_bt         in which row of its moment each word of each voice lies
bias_hx         what each head adds for a word x places back
spans_b2        which words of the memory each voice looks at
heard_keys      address of (blocks, H, S, K), bfloat16 where `heard_kind` is WIDENED, else float32; so heard_values
mask_s          false where a word of the memory must not be looked at
"""

Rooms = namedtuple("Rooms", "share_pbd q_bn o_bn h_bf g_bf")
"""What all threads write parts of; share_pbd is there twice, for those who read it late."""


@jit()
def unit_of(H, K):
    """So many heads share what they bring home: an eighth, and a whole number of blocks of columns, or all."""
    unit = (H + 7) // 8
    while unit < H and unit * K % BLOCK:
        unit += 1
    return unit


@jit()
def spoken(rank, ranks, barrier, n, table, last_norm_d, head, x_bd, memory, rooms, logits_bv):
    """logits_bv = what each voice would say after the words whose embeddings are x_bd."""
    unit = unit_of(n.H, n.K)
    units, turn = (n.H + unit - 1) // unit, 0
    own = rank * units // ranks * unit, min((rank + 1) * units // ranks * unit, n.H)
    x_bd, n_bd = x_bd.copy(), np.empty_like(x_bd)
    room = np.empty(n.B * (4 * max(n.D, n.F, n.H * n.K) + 64) * 2 + 1024, np.uint8)
    for block in range(len(table)):
        row = table[block]
        _self(n, row, block, own, x_bd, n_bd, memory, rooms, address_of(room))
        _home(n, row, WO, own, unit, rooms.o_bn, rooms.share_pbd[turn], address_of(room))
        turn = _gathered(barrier, ranks, rooms.share_pbd, turn, units, x_bd)
        _cross(n, row, block, own, x_bd, n_bd, memory, rooms, address_of(room))
        _home(n, row, CROSS_WO, own, unit, rooms.o_bn, rooms.share_pbd[turn], address_of(room))
        turn = _gathered(barrier, ranks, rooms.share_pbd, turn, units, x_bd)
        _feedforward(rank, ranks, n, row, x_bd, n_bd, rooms, rooms.share_pbd[turn], address_of(room))
        turn = _gathered(barrier, ranks, rooms.share_pbd, turn, STRETCHES, x_bd)
    heard = _listening(
        n, x_bd, address_of(last_norm_d), n_bd, np.float32(1 / np.sqrt(n.D)) if n.tied else np.float32(1), address_of(room)
    )
    v0, v1 = share(rank, ranks, n.V)
    dotted(n.kind, heard, head, v0, v1, address_of(logits_bv), n.V)
    keep(n_bd)
    keep(room)


@jit()
def _gathered(barrier, ranks, share_pbd, turn, count, x_bd):
    """Wait for all shares, and add them up in their order."""
    meet(barrier, ranks)
    for b in range(len(x_bd)):
        x_d = x_bd[b]
        for p in range(count):
            share_d = share_pbd[turn, p, b]
            for d in range(len(x_d)):
                x_d[d] += share_d[d]
    return 1 - turn


@jit()
def _listening(n, x_bd, norm, n_bd, factor, room):
    """The Operand factor norm(x_bd)."""
    norm_d = floats(norm, n.D)
    for b in range(n.B):
        normed(x_bd[b], norm_d, n.eps, n_bd[b])
        for d in range(n.D):
            n_bd[b, d] *= factor
    return _prepared(n, address_of(n_bd), n.D, room)


@jit()
def _prepared(n, x, K, room):
    operand = operand_of(n.kind, x, n.B, K, SPAN, room)
    prepare(n.kind, operand, 0, n.B)
    return operand


@jit()
def _matrix(row, column, columns):
    return Weight(row[column], row[column + 1], columns)


@jit()
def _self(n, row, block, own, x_bd, n_bd, memory, rooms, room):
    """What each head of this thread finds in its voice's own words; the newest is written down first."""
    N, c0, c1 = n.H * n.K, own[0] * n.K, own[1] * n.K
    heard = _listening(n, x_bd, row[NORM], n_bd, np.float32(1), room)
    newest = memory.place_t2[n.T, 0] + block * memory.place_t2[n.T, 1]
    multiply(n.kind, heard, _matrix(row, WQ, N), 0, n.D, c0, c1, 0, 0, address_of(rooms.q_bn), N)
    multiply(n.kind, heard, _matrix(row, WK, N), 0, n.D, c0, c1, 0, 0, newest, 2 * N)
    multiply(n.kind, heard, _matrix(row, WV, N), 0, n.D, c0, c1, 0, 0, newest + 4 * N, 2 * N)
    place_s, bias_s = np.empty(n.T + 1, np.int64), np.zeros(n.T + LANES, np.float32)
    for b in range(n.B):
        for s in range(n.T):
            place_s[s] = memory.place_t2[s, 0] + block * memory.place_t2[s, 1] + 8 * memory.line_bt[b, s] * N
        place_s[n.T] = newest + 8 * b * N
        for h in range(own[0], own[1]):
            for s in range(n.T + 1 if row[BIASED] else 0):
                bias_s[s] = memory.bias_hx[h, n.T - s]
            at, q, places, bias = 4 * h * n.K, 4 * (b * N + h * n.K), address_of(place_s), address_of(bias_s)
            o = address_of(rooms.o_bn) + q
            recalled(FLOAT32, address_of(rooms.q_bn) + q, n.K, n.T + 1, places, at, at + 4 * N, bias, o)


@jit()
def _cross(n, row, block, own, x_bd, n_bd, memory, rooms, room):
    """What each head of this thread finds in the memory of its voice's prompt."""
    N, c0, c1 = n.H * n.K, own[0] * n.K, own[1] * n.K
    heard = _listening(n, x_bd, row[CROSS_NORM], n_bd, np.float32(1), room)
    multiply(n.kind, heard, _matrix(row, CROSS_WQ, N), 0, n.D, c0, c1, 0, 0, address_of(rooms.q_bn), N)
    place_s, bias_s = np.empty(n.S, np.int64), np.empty(n.S + LANES, np.float32)
    kind, size = memory.heard_kind, SIZES[memory.heard_kind]
    for s in range(n.S):
        place_s[s] = size * s * n.K
    for b in range(n.B):
        s0, s1 = memory.spans_b2[b]
        for s in range(s0, s1):
            bias_s[s - s0] = np.float32(0) if memory.mask_s[s] else HIDDEN
        for h in range(own[0], own[1]):
            at, q = size * ((block * n.H + h) * n.S + s0) * n.K, 4 * (b * N + h * n.K)
            keys, values, places, bias = memory.heard_keys + at, memory.heard_values + at, address_of(place_s), address_of(bias_s)
            recalled(kind, address_of(rooms.q_bn) + q, n.K, s1 - s0, places, keys, values, bias, address_of(rooms.o_bn) + q)


@jit()
def _home(n, row, column, own, unit, o_bn, share_pbd, room):
    """Each unit of heads' share of what they bring home."""
    for h in range(own[0], own[1], unit):
        first, last = h * n.K, min(h + unit, n.H) * n.K
        own_bk = np.ascontiguousarray(o_bn[:, first:last])
        operand = _prepared(n, address_of(own_bk), last - first, room)
        out = address_of(share_pbd[h // unit])
        multiply(n.kind, operand, _matrix(row, column, n.D), first, last, 0, n.D, 0, 0, out, n.D)
        keep(own_bk)


@jit()
def _feedforward(rank, ranks, n, row, x_bd, n_bd, rooms, share_pbd, room):
    """Each stretch's share of the dense layer, or of the expert of each voice, times its gate."""
    norm_d, E = floats(row[FFN_NORM], n.D), n.E if row[SPARSE] else 1
    for b in range(n.B):
        normed(x_bd[b], norm_d, n.eps, n_bd[b])
    order_b, start_e, gate_b = np.arange(n.B), np.full(E + 1, n.B), np.ones(n.B, np.float32)
    start_e[0] = 0
    if row[SPARSE]:
        _routed(n, row, n_bd, order_b, start_e, gate_b)
    sorted_bd = n_bd[order_b]
    heard, half = _prepared(n, address_of(sorted_bd), n.D, room), n.B * (4 * n.D + 64) + 8 * n.B * (n.D // 16 + 2)
    length = ((n.F + STRETCHES - 1) // STRETCHES + BLOCK - 1) // BLOCK * BLOCK
    p0, p1 = rank * STRETCHES // ranks, (rank + 1) * STRETCHES // ranks
    _experts_hidden(n, row, heard, start_e, min(p0 * length, n.F), min(p1 * length, n.F), rooms)
    for p in range(p0, p1):
        _stretch(
            n, row, min(p * length, n.F), min((p + 1) * length, n.F), order_b, start_e, gate_b, rooms, share_pbd[p], room + half
        )
    keep(sorted_bd)


@jit()
def _experts_hidden(n, row, heard, start_e, f0, f1, rooms):
    wi, linear = _matrix(row, WI, n.F), _matrix(row, WI_LINEAR, n.F)
    for e in range(len(start_e) - 1):
        first, last = start_e[e], start_e[e + 1]
        h, g = address_of(rooms.h_bf) + 4 * first * n.F, address_of(rooms.g_bf) + (4 * first * n.F if n.gated else 0)
        if first < last:
            own = expert(n.kind, wi, e, n.D), expert(n.kind, linear, e, n.D)
            hidden(n.kind, some_rows(heard, first, last), own[0], own[1], n.gated, n.activation, f0, f1, h, g, n.F)


@jit()
def _stretch(n, row, f0, f1, order_b, start_e, gate_b, rooms, share_bd, room):
    """The share of hidden units f0 : f1."""
    if f0 == f1:
        share_bd[:] = 0
        return
    own_bf, y_bd, wo = np.ascontiguousarray(rooms.h_bf[:, f0:f1]), np.empty((n.B, n.D), np.float32), _matrix(row, FFN_WO, n.D)
    h = _prepared(n, address_of(own_bf), f1 - f0, room)
    for e in range(len(start_e) - 1):
        first, last = start_e[e], start_e[e + 1]
        if first < last:
            rows, out = some_rows(h, first, last), address_of(y_bd) + 4 * first * n.D
            sparse = has_zeros(n.activation, n.gated)
            multiply(n.kind, rows, expert(n.kind, wo, e, n.F), f0, f1, 0, n.D, sparse, 0, out, n.D)
    for i in range(n.B):
        for d in range(n.D):
            share_bd[order_b[i], d] = gate_b[i] * y_bd[i, d]
    keep(own_bf)


@jit()
def _routed(n, row, n_bd, order_b, start_e, gate_b):
    """Voices sorted by the expert that each one's router chooses, and its gate."""
    router, logit_e = floats(row[ROUTER], n.D * n.E), np.empty(n.E, np.float32)
    expert_b, probability_b = np.empty(n.B, np.int64), np.empty(n.B, np.float32)
    for b in range(n.B):
        for e in range(n.E):
            logit_e[e] = dot(n_bd[b], router[e * n.D : (e + 1) * n.D])
            if row[ROUTER_BIAS]:
                logit_e[e] += floats(row[ROUTER_BIAS], n.E)[e]
        expert_b[b] = np.argmax(logit_e)
        total = np.float32(0)
        for e in range(n.E):
            total += np.float32(np.exp(logit_e[e] - logit_e[expert_b[b]]))
        probability_b[b] = np.float32(1) / total
    start_e[:] = 0
    for b in range(n.B):
        start_e[expert_b[b] + 1] += 1
    for e in range(n.E):
        start_e[e + 1] += start_e[e]
    next_e = start_e[:-1].copy()
    for b in range(n.B):
        i = next_e[expert_b[b]]
        order_b[i], gate_b[i] = b, probability_b[b]
        next_e[expert_b[b]] += 1
