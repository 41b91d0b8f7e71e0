"""Softmax(q kᵀ + b) v, head by head and a few tokens at a time: the scores of all tokens are never there together."""

from collections import namedtuple

import numpy as np

from ..kernels.jit import jit
from .elementary import HIDDEN, softened
from .instructions import BLOCK, FLOAT32, address_of, floats, int8s, int64s
from .linking import linked
from .operands import SPAN, Operand
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
def attended(rank, ranks, q_td, k_sd, v_sd, sight, H, o_td):
    """o_td = what each head of each token brings home; this thread does its share of sentences and heads."""
    items, X = len(sight.spans_b4) * H, sight.line_hx.shape[1]
    arrays = address_of(q_td), address_of(k_sd), address_of(v_sd), address_of(o_td), q_td.shape[1]
    seen = address_of(sight.position_t), address_of(sight.position_s), address_of(sight.mask_s), address_of(sight.line_hx), X
    for item in range(rank * items // ranks, (rank + 1) * items // ranks):
        t0, t1, s0, s1 = sight.spans_b4[item // H]
        _head(t0, t1, s0, s1, item % H, H, *arrays, *seen, int(sight.causal))


@linked(int, int, int, int, int, int, int, int, int, int, int, int, int, int, int, int, int)
def _head(t0, t1, s0, s1, h, H, q, k, v, o, D, position_t, position_s, mask_s, line, X, causal):
    """One head of one sentence: tokens t0 : t1 look at tokens s0 : s1."""
    K, S, column = D // H, s1 - s0, h * (D // H)
    ld = (S + BLOCK - 1) // BLOCK * BLOCK
    keys, values = np.empty(ld * K, np.int32), np.empty((min(S, SPAN) + 1) * BLOCK, np.int32)
    for s in range(0, S, BLOCK):
        panel_of_rows(FLOAT32, k + 4 * ((s0 + s) * D + column), 4 * D, 0, K, min(BLOCK, S - s), address_of(keys) + 4 * s * K)
    score, total_t, nought = np.empty(TOKENS * ld, np.float32), np.empty(TOKENS, np.float32), np.zeros(ld, np.float32)
    masked = not int8s(mask_s + s0, S).all()
    for t in range(t0, t1, TOKENS):
        count = min(TOKENS, t1 - t)
        query = Operand(q + 4 * (t * D + column), 4 * D, K, 0, 0, 0, count, K)
        for s in range(0, S, BLOCK):
            multiplied(FLOAT32, query, 0, K, address_of(keys) + 4 * s * K, NOWHERE, s, BLOCK, 0, address_of(score), ld)
        for i in range(count):
            own, row = int64s(position_t + 8 * (t + i), 1)[0], address_of(score) + 4 * i * ld
            bias = _seen(floats(row, S), own, position_s + 8 * s0, mask_s + s0, line + 4 * h * X, X, causal != 0, masked)
            total_t[i] = softened(row, bias if bias else address_of(nought), S)
        look = Operand(address_of(score), 4 * ld, S, 0, 0, 0, count, S)
        _bring(look, v + 4 * s0 * D, D, column, K, t == t0, address_of(values), o + 4 * t * D)
        _share(o + 4 * (t * D + column), D, K, total_t[:count], S)


@jit()
def _bring(look, v, D, column, K, first, values, o):
    """The values that are looked at, in proportion; they are put in order once where one panel holds them."""
    S = look.K
    for c in range(column, column + K, BLOCK):
        N = min(BLOCK, column + K - c)
        for start in range(0, S, SPAN):
            stop = min(start + SPAN, S)
            if first or S > SPAN or K > BLOCK:
                panel_of(FLOAT32, Weight(v, 0, D), start, stop, c, N, values)
            multiplied(FLOAT32, look, start, stop, values, NOWHERE, c, N, start > 0, o, D)


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
