"""One query over keys and values that were written down before, some here and some there.

Words go side by side by fours, each along the lanes of its key; what they bring home stays in registers till the last word.
"""

import numpy as np

from ..kernels.jit import jit
from .elementary import softened
from .instructions import F32, FLOAT32, I64, LANES, SIZES, WIDENED, address_of, floats, instruction, int64s, keep
from .linking import linked
from .weight import weight_at

__all__ = ["recalled"]

WORDS = 4
"""How many words' keys are met side by side."""
COLUMNS = 4 * LANES
"""How many numbers of the values are added up side by side, while there are so many."""


@linked(int, int, int, int, int, int, int, int, int)
def recalled(kind, q, K, S, places, keys, values, bias, o):
    """o (K) = the values of S words, whose `places` are bytes counted from keys and values, weighed as q meets their keys.

    kind    FLOAT32, or WIDENED where keys and values are bfloat16
    bias    the address of what each score has added; behind it and up to a whole register is something to read
    """
    whole, weight_s = K // LANES * LANES, np.empty(S + LANES, np.float32)
    if kind == FLOAT32:
        _float32_met(q, keys, places, S, whole, address_of(weight_s))
    else:
        _widened_met(q, keys, places, S, whole, address_of(weight_s))
    q_k, o_k, place_s = floats(q, K), floats(o, K), int64s(places, S)
    for k in range(whole, K):
        for s in range(S):
            weight_s[s] += q_k[k] * weight_at(kind, keys + place_s[s], k)
    total = softened(address_of(weight_s), bias, S)
    _brought(kind, address_of(weight_s), values, places, S, K, o)
    for k in range(K):
        o_k[k] = o_k[k] / total if S else np.float32(0)
    keep(weight_s)


@jit()
def _brought(kind, weights, values, places, S, K, o):
    """o (K) = the sum of each word's weight times its value."""
    many, whole = K // COLUMNS * COLUMNS, K // LANES * LANES
    if kind == FLOAT32:
        _float32_many(weights, values, places, S, 0, many, o)
        _float32_few(weights, values, places, S, many, whole, o)
    else:
        _widened_many(weights, values, places, S, 0, many, o)
        _widened_few(weights, values, places, S, many, whole, o)
    o_k, weight_s, place_s = floats(o, K), floats(weights, S), int64s(places, S)
    for k in range(whole, K):
        o_k[k] = 0
        for s in range(S):
            o_k[k] += weight_s[s] * weight_at(kind, values + place_s[s], k)


def _meeting(kind):
    @instruction(6)
    def met(b, q, keys, places, S, whole, scores):
        """Scores of whole registers of q and each key; up to WORDS - 1 behind the last are written too."""

        def four(s, _):
            words = b.within(s, WORDS, S)
            rows = [b.at(keys, b.load(b.at(places, b.times(word, 8)), I64, align=8)) for word in words]

            def along(k, totals):
                q_k = b.load(b.at(q, b.times(k, 4)), F32, LANES)
                found = [b.widened(b.at(row, b.times(k, SIZES[kind])), kind) for row in rows]
                return [b.multiply_add(total, q_k, key) for total, key in zip(totals, found, strict=True)]

            totals = b.loop(whole, LANES, along, [b.zeros(F32)] * WORDS)
            b.store(b.sums(totals), b.at(scores, b.times(s, 4)))

        b.loop(S, WORDS, four)

    return met


def _bringing(kind, registers):
    @instruction(7)
    def brought(b, weights, values, places, S, first, stop, o):
        """Columns first : stop of o, some registers at a time."""

        def columns(c, _):
            at = b.at(first, c)

            def word(s, totals):
                row = b.at(values, b.load(b.at(places, b.times(s, 8)), I64, align=8), b.times(at, SIZES[kind]))
                weight = b.splat(b.load(b.at(weights, b.times(s, 4)), F32))
                found = [b.widened(b.at(row, v * LANES * SIZES[kind]), kind) for v in range(registers)]
                return [b.multiply_add(total, weight, value) for total, value in zip(totals, found, strict=True)]

            for v, total in enumerate(b.loop(S, 1, word, [b.zeros(F32)] * registers)):
                b.store(total, b.at(o, b.times(at, 4), 4 * LANES * v))

        b.loop(b.llvm.sub(stop, first), registers * LANES, columns)

    return brought


_float32_met, _widened_met = _meeting(FLOAT32), _meeting(WIDENED)
_float32_many, _widened_many = _bringing(FLOAT32, 4), _bringing(WIDENED, 4)
_float32_few, _widened_few = _bringing(FLOAT32, 1), _bringing(WIDENED, 1)
