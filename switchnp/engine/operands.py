"""What goes into a product, as its weights want it: float32, rounded to bfloat16, or int8 with a scale for each stretch.

In int8 each input is cut in stretches of `span` numbers, and each of them is a whole number of -127 … 127 times the scale of
its stretch. Where the processor multiplies quads, weights are read as unsigned (w + 128), and 128 times a stretch's sum is taken
away afterwards. The portable way does the same sums in float32, which is exact: a stretch has at most `SPAN` numbers, and
127 · 127 · SPAN is below 2^24.
"""

from collections import namedtuple

import numpy as np
from llvmlite import ir

from ..kernels.jit import jit
from .instructions import (
    BFLOAT16,
    F32,
    FOLDS,
    I8,
    I32,
    INT8,
    LANES,
    ROUND,
    address_of,
    floats,
    instruction,
    int8s,
    int32s,
    keep,
    uint16s,
)
from .linking import linked
from .weight import bits_of, from_bfloat16

__all__ = ["SPAN", "Operand", "number_at", "operand_of", "prepare", "room_for", "rounded", "some_rows", "stretches_of"]

SPAN = 1024

Operand = namedtuple("Operand", "address stride span scale sums x M K")
"""M inputs of K numbers, by addresses.

address, stride   where the first input starts as weights want it, and how many bytes from one to the next
span              how many numbers a stretch has
scale, sums       (M, stretches): the scale, and the sum of the whole numbers, of each stretch of an int8 input
x                 the inputs as they were, (M, K) in float32
"""


def room_for(M, K):
    """Bytes for `operand_of`, whatever the kind."""
    return M * (4 * K + 64) + 8 * M * (K // 16 + 2)


@jit()
def operand_of(kind, x, M, K, span, room):
    """The Operand of inputs at the address x, whose numbers will be at the address `room` once they are prepared."""
    if kind == INT8:
        stride = (K + 3) // 4 * 4 if FOLDS[INT8] == 4 else 4 * K
        scale = room + (M * stride + 63) // 64 * 64
        return Operand(room, stride, span, scale, scale + 4 * M * ((K + span - 1) // span), x, M, K)
    if kind == BFLOAT16 and FOLDS[BFLOAT16] == 2:
        return Operand(room, (K + 1) // 2 * 4, K, 0, 0, x, M, K)
    return Operand(x, 4 * K, K, 0, 0, x, M, K)


@jit()
def stretches_of(operand):
    """How many stretches each input has."""
    return (operand.K + operand.span - 1) // operand.span


@linked(int, Operand, int, int)
def prepare(kind, operand, m0, m1):
    """Bring inputs m0 … m1 - 1 into the form that the weights want."""
    K = operand.K
    for m in range(m0, m1):
        x_k, at = floats(operand.x + 4 * m * K, K), operand.address + m * operand.stride
        if kind == BFLOAT16 and FOLDS[BFLOAT16] == 2:
            rounded(int32s(operand.x + 4 * m * K, K), uint16s(at, operand.stride // 2))
        elif kind == INT8:
            stretches = stretches_of(operand)
            scale_s, sum_s = (
                floats(operand.scale + 4 * m * stretches, stretches),
                int32s(operand.sums + 4 * m * stretches, stretches),
            )
            if FOLDS[INT8] == 4:
                _quantized(x_k, operand.span, scale_s, sum_s, int8s(at, operand.stride))
            else:
                _quantized(x_k, operand.span, scale_s, sum_s, floats(at, K))


@jit()
def rounded(bits_k, y_k):
    """To bfloat16, to the nearest, of two as near to the even one."""
    for k in range(len(bits_k)):
        bits = np.uint32(bits_k[k])
        y_k[k] = np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))
    if len(y_k) > len(bits_k):
        y_k[-1] = 0


@instruction(3)
def _largest(b, x, count, found):
    """The largest size of `count` numbers, whole registers of them."""
    b_, positive = b.llvm, b.splat(I32(0x7FFFFFFF))

    def larger(k, carried):
        bits = b_.and_(b.load(b.at(x, b.times(k, 4)), I32, LANES), positive)
        size = b_.bitcast(bits, carried[0].type)
        return [b_.select(b_.fcmp_ordered(">", size, carried[0]), size, carried[0])]

    (sizes,) = b.loop(count, LANES, larger, [b.zeros(F32)])
    b.store(b.largest(sizes), found)


@instruction(5)
def _whole(b, x, count, steps, y, total):
    """Numbers times `steps` to the nearest whole ones, as weights want them, and their sum; whole registers."""
    b_, steps = b.llvm, b.splat(b.load(steps, F32))
    rounding, zero = b.splat(ir.Constant(F32, float(ROUND))), b.splat(I32(int(ROUND.view(np.int32))))
    kind = ir.VectorType(I8 if FOLDS[INT8] == 4 else F32, LANES)

    def nearest(k, carried):
        rounded = b_.fadd(b_.fmul(b.load(b.at(x, b.times(k, 4)), F32, LANES), steps), rounding)
        whole = b_.sub(b_.bitcast(rounded, zero.type), zero)
        b.store(b_.trunc(whole, kind) if FOLDS[INT8] == 4 else b_.sitofp(whole, kind), b.at(y, b.times(k, 4 // FOLDS[INT8])))
        return [b_.add(carried[0], whole)]

    (totals,) = b.loop(count, LANES, nearest, [b.zeros(I32)])
    b.store(b.sum(totals), total)


@jit()
def _quantized(x_k, span, scale_s, sum_s, y_k):
    found = np.empty(2, np.float32)
    for s in range(len(scale_s)):
        start, stop = s * span, min((s + 1) * span, len(x_k))
        count = (stop - start) // LANES * LANES
        x, y, total = address_of(x_k) + 4 * start, address_of(y_k) + 4 // FOLDS[INT8] * start, address_of(sum_s) + 4 * s
        _largest(x, count, address_of(found))
        for k in range(start + count, stop):
            found[0] = max(found[0], abs(x_k[k]))
        scale_s[s] = found[0] / np.float32(127)
        found[1] = np.float32(127) / found[0] if found[0] > 0 else np.float32(0)
        _whole(x, count, address_of(found) + 4, y, total)
        for k in range(start + count, stop):
            whole = bits_of(x_k[k] * found[1] + ROUND) - bits_of(ROUND)
            y_k[k] = whole
            sum_s[s] += whole
    keep(found)
    y_k[len(x_k) :] = 0


@jit()
def some_rows(operand, first, last):
    """Inputs first … last - 1 of an Operand."""
    o = operand
    shift = 4 * first * stretches_of(o)
    return Operand(
        o.address + first * o.stride, o.stride, o.span, o.scale + shift, o.sums + shift, o.x + 4 * first * o.K, last - first, o.K
    )


@jit()
def number_at(kind, address, k):
    """Number k of an input that is float32 or bfloat16."""
    return from_bfloat16(uint16s(address, k + 1)[k]) if FOLDS[kind] == 2 else floats(address, k + 1)[k]
