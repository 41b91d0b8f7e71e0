"""Inputs times the rows of a table (V, K): what the output head does. A row is read once, lanes run along it.

A few inputs are multiplied row by row; many turn 64 rows at a time into a panel.
"""

import numpy as np
from llvmlite import ir

from ..kernels.jit import jit
from .instructions import (
    BFLOAT16,
    BLOCK,
    F32,
    FLOAT32,
    FOLDS,
    I8,
    I32,
    INT8,
    LANES,
    SIZES,
    WIDENED,
    address_of,
    floats,
    instruction,
    int8s,
    int32s,
    lane,
)
from .linking import linked
from .operands import Operand, number_at
from .panels import panel_of_rows
from .sums import settled
from .tiles import multiplied
from .weight import Weight, weight_at

__all__ = ["dotted"]

ROWS = 4
"""How many rows of the table run side by side."""
AHEAD = 16
"""So many rows later is what is asked for in advance."""
FEW = 8
"""So many inputs are multiplied row by row."""


def _weights(b, row, kind):
    if FOLDS[kind] == 1:
        return b.widened(row, kind)
    if kind == BFLOAT16:
        return b.load(row, F32, 16)
    flipped = b.llvm.xor(b.load(row, I8, 64), ir.Constant(ir.VectorType(I8, 64), [-128] * 64))
    return b.llvm.bitcast(flipped, ir.VectorType(I32, 16))


def _made(kind, inputs):
    """y (inputs, N) = x · N rows, over whole steps of K; up to ROWS - 1 numbers behind the last are written too."""

    @instruction(8)
    def several(b, x, stride, row, row_stride, N, steps, y, ldy):
        def four(n, _):
            rows = [b.at(row, b.times(row_stride, each)) for each in b.within(n, ROWS, N)]

            def multiply(k, totals):
                at = b.times(k, LANES * FOLDS[kind] * SIZES[kind])
                registers = [_weights(b, b.at(each, at), kind) for each in rows]
                for each in rows:
                    b.prefetch(b.at(each, at, b.times(row_stride, AHEAD)))
                inputs_k = [b.load(b.at(x, b.times(stride, m), b.times(k, 4 * LANES)), lane(kind), LANES) for m in range(inputs)]
                pairs = [(register, x_k) for x_k in inputs_k for register in registers]
                return [b.dot(total, *pair, kind) for total, pair in zip(totals, pairs, strict=True)]

            totals = b.loop(steps, 1, multiply, [b.zeros(lane(kind))] * (inputs * ROWS))
            for m in range(inputs):
                b.store(b.sums(totals[m * ROWS : (m + 1) * ROWS]), b.at(y, b.times(ldy, m), b.times(n, 4)))

        b.loop(N, ROWS, four)

    return several


_float32_1, _float32_4 = _made(FLOAT32, 1), _made(FLOAT32, 4)
_bfloat16_1, _bfloat16_4 = _made(BFLOAT16, 1), _made(BFLOAT16, 4)
_int8_1, _int8_4 = _made(INT8, 1), _made(INT8, 4)
_widened_1, _widened_4 = _made(WIDENED, 1), _made(WIDENED, 4)


@jit()
def _one(kind, x, stride, row, row_stride, N, steps, y, ldy):
    if kind == FLOAT32:
        _float32_1(x, stride, row, row_stride, N, steps, y, ldy)
    elif kind == BFLOAT16:
        _bfloat16_1(x, stride, row, row_stride, N, steps, y, ldy)
    elif kind == WIDENED:
        _widened_1(x, stride, row, row_stride, N, steps, y, ldy)
    else:
        _int8_1(x, stride, row, row_stride, N, steps, y, ldy)


@jit()
def _four(kind, x, stride, row, row_stride, N, steps, y, ldy):
    if kind == FLOAT32:
        _float32_4(x, stride, row, row_stride, N, steps, y, ldy)
    elif kind == BFLOAT16:
        _bfloat16_4(x, stride, row, row_stride, N, steps, y, ldy)
    elif kind == WIDENED:
        _widened_4(x, stride, row, row_stride, N, steps, y, ldy)
    else:
        _int8_4(x, stride, row, row_stride, N, steps, y, ldy)


@linked(int, Operand, Weight, int, int, int, int)
def dotted(kind, operand, weight, v0, v1, y, ldy):
    """y (M, ldy)[:, v0:v1] = x · w[v0:v1]ᵀ for a table (V, K), whose `weight.columns` are K."""
    if operand.M > FEW:
        _by_panels(kind, operand, weight, v0, v1, y, ldy)
    else:
        _by_rows(kind, operand, weight, v0, v1, y, ldy)


@jit()
def _by_panels(kind, operand, weight, v0, v1, y, ldy):
    panel = np.empty((operand.K + 4) * BLOCK, np.int32)
    stride = weight.columns * SIZES[kind]
    for v in range(v0, v1, BLOCK):
        N = min(BLOCK, v1 - v)
        for start in range(0, operand.K, operand.span):
            stop = min(start + operand.span, operand.K)
            panel_of_rows(kind, weight.address + v * stride, stride, start, stop, N, address_of(panel))
            multiplied(kind, operand, start, stop, address_of(panel), weight, v, N, start > 0, y, ldy)


@jit()
def _by_rows(kind, operand, weight, v0, v1, y, ldy):
    """A block of rows at a time, inputs by fours, or one by one where there are fewer."""
    part, stride = 4 // FOLDS[kind], weight.columns * SIZES[kind]
    sums = np.empty(4 * BLOCK, np.int32)
    for v in range(v0, v1, BLOCK):
        N = min(BLOCK, v1 - v)
        for start in range(0, operand.K, operand.span):
            length = min(operand.span, operand.K - start)
            m = 0
            while m < operand.M:
                inputs = 4 if operand.M - m >= 4 else 1
                x = operand.address + m * operand.stride + start * part
                row = weight.address + v * stride + start * SIZES[kind]
                _block(kind, inputs, x, operand.stride, row, stride, N, length, address_of(sums))
                for i in range(inputs):
                    line, out = address_of(sums) + 4 * i * BLOCK, y + 4 * ((m + i) * ldy + v)
                    settled(kind, operand, m + i, start // operand.span, weight, v, N, line, start > 0, out)
                m += inputs


@jit()
def _block(kind, inputs, x, x_stride, row, stride, N, length, sums):
    """sums (inputs, BLOCK) = x · N rows."""
    steps = length // (LANES * FOLDS[kind])
    if inputs == 1:
        _one(kind, x, x_stride, row, stride, N, steps, sums, 4 * BLOCK)
    else:
        _four(kind, x, x_stride, row, stride, N, steps, sums, 4 * BLOCK)
    whole = steps * LANES * FOLDS[kind]
    for m in range(inputs if whole < length else 0):
        for n in range(N):
            _end(kind, x + m * x_stride, row + n * stride, whole, length, sums + 4 * (m * BLOCK + n))


@jit()
def _end(kind, x, row, whole, length, total):
    """What is left behind the last whole step, one by one."""
    for k in range(whole, length):
        if FOLDS[kind] == 4:
            int32s(total, 1)[0] += np.int32(int8s(x, length)[k]) * (np.int32(int8s(row, length)[k]) + 128)
        else:
            floats(total, 1)[0] += number_at(kind, x, k) * weight_at(kind, row, k)
