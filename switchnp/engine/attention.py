"""Softmax(q kᵀ + b) v, head by head and a few tokens at a time: the scores of all tokens are never there together.

Where weights are bfloat16 or int8, and the processor multiplies pairs of bfloat16, so are queries, keys, values and weights here;
scores and their softmax are float32.
"""

from collections import namedtuple

import numpy as np

from ..kernels.jit import jit
from .elementary import HIDDEN, softened
from .instructions import BFLOAT16, BLOCK, FLOAT32, FOLDS, INT8, SIZES, address_of, floats, int8s, int32s, int64s, uint16s
from .linking import linked
from .operands import SPAN, Operand, rounded
from .panels import panel_of, panel_of_rows
from .tiles import multiplied
from .weight import Weight

__all__ = ["Sight", "attended"]

TOKENS = 48
"""So many tokens look at once."""
NOWHERE = Weight(0, 0, 0)
"""Scales that float32 has not."""

Sight = namedtuple("Sight", "spans_b4 position_t position_s mask_s line_hx causal")
"""Who sees whom: one row of (first t, last t, first s, last s) a sentence, and the bias of each distance.

line_hx     what each head adds for a distance of x - X // 2, some more than there are; X is 0 where distances do not matter
"""


@jit()
def attended(rank, ranks, kind, q_td, k_sd, v_sd, sight, H, o_td):
    """o_td = what each head of each token brings home; this thread does its share of sentences and heads."""
    items, X = len(sight.spans_b4) * H, sight.line_hx.shape[1]
    inner = BFLOAT16 if kind in (BFLOAT16, INT8) and FOLDS[BFLOAT16] == 2 else FLOAT32
    arrays = inner, address_of(q_td), address_of(k_sd), address_of(v_sd), address_of(o_td), q_td.shape[1]
    seen = address_of(sight.position_t), address_of(sight.position_s), address_of(sight.mask_s), address_of(sight.line_hx), X
    for item in range(rank * items // ranks, (rank + 1) * items // ranks):
        t0, t1, s0, s1 = sight.spans_b4[item // H]
        _head(t0, t1, s0, s1, item % H, H, *arrays, *seen, int(sight.causal))


@linked(int, int, int, int, int, int, int, int, int, int, int, int, int, int, int, int, int, int)
def _head(t0, t1, s0, s1, h, H, kind, q, k, v, o, D, position_t, position_s, mask_s, line, X, causal):
    """One head of one sentence: tokens t0 : t1 look at tokens s0 : s1."""
    K, S, column = D // H, s1 - s0, 4 * h * (D // H)
    ld, width = (S + BLOCK - 1) // BLOCK * BLOCK, (K + BLOCK - 1) // BLOCK * BLOCK
    rows, narrow = np.empty(max(S, TOKENS) * (K + 1), np.float32), np.empty(TOKENS * ld, np.uint16)
    keys, values = np.empty(ld * (K + 1), np.int32), np.empty(width * (S + 2), np.int32)
    _keys(kind, k + 4 * s0 * D + column, D, S, K, address_of(rows), address_of(keys))
    _values(kind, v + 4 * s0 * D + column, D, S, K, address_of(rows), address_of(values))
    score, total_t, nought = np.empty(TOKENS * ld, np.float32), np.empty(TOKENS, np.float32), np.zeros(ld, np.float32)
    masked = not int8s(mask_s + s0, S).all()
    for t in range(t0, t1, TOKENS):
        count = min(TOKENS, t1 - t)
        query = _copied(kind, q + 4 * t * D + column, D, count, K, address_of(rows))
        for s in range(0, S, BLOCK):
            multiplied(kind, query, 0, K, address_of(keys) + 4 * s * (K + 1), NOWHERE, s, BLOCK, 0, address_of(score), ld)
        for i in range(count):
            own, row = int64s(position_t + 8 * (t + i), 1)[0], address_of(score) + 4 * i * ld
            bias = _seen(floats(row, S), own, position_s + 8 * s0, mask_s + s0, line + 4 * h * X, X, causal != 0, masked)
            total_t[i] = softened(row, bias if bias else address_of(nought), S)
        look = _copied(kind, address_of(score), ld, count, S, address_of(narrow))
        _bring(kind, look, K, address_of(values), o + 4 * t * D + column, D)
        _share(o + 4 * t * D + column, D, K, total_t[:count], S)


@jit()
def _copied(kind, address, ld, M, K, room):
    """The Operand of M rows of K numbers that are `ld` numbers apart: as they lie, or rounded to bfloat16 in a room."""
    if kind == FLOAT32:
        return Operand(address, 4 * ld, K, 0, 0, 0, M, K)
    even = (K + 1) // 2 * 2
    for m in range(M):
        rounded(int32s(address + 4 * m * ld, K), uint16s(room + 2 * m * even, even))
    return Operand(room, 2 * even, K, 0, 0, 0, M, K)


@jit()
def _keys(kind, k, D, S, K, room, panels):
    """Panels of BLOCK words, one behind the other."""
    rows = _copied(kind, k, D, S, K, room)
    for s in range(0, S, BLOCK):
        panel_of_rows(kind, rows.address + s * rows.stride, rows.stride, 0, K, min(BLOCK, S - s), panels + 4 * s * (K + 1))


@jit()
def _values(kind, v, D, S, K, room, panels):
    """Panels of BLOCK columns and SPAN words, all words of a column together."""
    rows = _copied(kind, v, D, S, K, room)
    for c in range(0, K, BLOCK):
        for start in range(0, S, SPAN):
            weight = Weight(rows.address, 0, rows.stride // SIZES[kind])
            panel_of(kind, weight, start, min(start + SPAN, S), c, min(BLOCK, K - c), panels + 4 * (c * (S + 2) + start * BLOCK))


@jit()
def _bring(kind, look, K, panels, o, D):
    """The values that are looked at, in proportion."""
    S = look.K
    for c in range(0, K, BLOCK):
        for start in range(0, S, SPAN):
            panel, stop = panels + 4 * (c * (S + 2) + start * BLOCK), min(start + SPAN, S)
            multiplied(kind, look, start, stop, panel, NOWHERE, c, min(BLOCK, K - c), start > 0, o, D)


@jit()
def _share(o, D, K, total_t, S):
    for t in range(len(total_t)):
        o_k = floats(o + 4 * t * D, K)
        for k in range(K):
            o_k[k] = o_k[k] / total_t[t] if S else np.float32(0)


@jit()
def _seen(score_s, own, position, mask, line, X, causal, masked):
    """Hide what must not be seen; where the bias of each score lies, or 0 where it has been added."""
    S, bias = len(score_s), 0
    position_s = int64s(position, S)
    straight = S > 0 and position_s[S - 1] - position_s[0] == S - 1
    if X and straight:
        bias = line + 4 * (X // 2 - own + position_s[0])
    elif X:
        line_x, middle = floats(line, X), X // 2 - own
        for s in range(S):
            score_s[s] += line_x[middle + position_s[s]]
    if causal and straight:
        score_s[max(own - position_s[0] + 1, 0) :] = HIDDEN
    elif causal:
        for s in range(S):
            score_s[s] = score_s[s] if position_s[s] <= own else HIDDEN
    if masked:
        mask_s = int8s(mask, S)
        for s in range(S):
            score_s[s] = score_s[s] if mask_s[s] else HIDDEN
    return bias
