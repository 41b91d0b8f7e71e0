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
    I64,
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
from .sums import settled
from .tiles import multiplied, panel_of_rows
from .weight import Weight, weight_at

__all__ = ["dotted"]

ROWS = 4
"""How many rows of the table run side by side."""
AHEAD = 16
"""So many rows later is what is asked for in advance."""
FEW = 8
"""So many inputs are multiplied row by row."""


def _made(kind, inputs):
    """y (inputs, ROWS) = x · rows, over whole steps of K."""

    def weights(b, row):
        if FOLDS[kind] == 1:
            return b.widened(row, kind)
        if kind == BFLOAT16:
            return b.load(row, F32, 16)
        flipped = b.llvm.xor(b.load(row, I8, 64), ir.Constant(ir.VectorType(I8, 64), [-128] * 64))
        return b.llvm.bitcast(flipped, ir.VectorType(I32, 16))

    @instruction(7)
    def dots(b, x, stride, row, row_stride, count, steps, y):
        b_ = b.llvm
        last = b_.sub(count, I64(1))
        chosen = [b_.select(b_.icmp_signed("<", I64(r), count), I64(r), last) for r in range(ROWS)]
        rows = [b.at(row, b_.mul(row_stride, r)) for r in chosen]

        def multiply(k, totals):
            at = b.times(k, LANES * FOLDS[kind] * SIZES[kind])
            registers = [weights(b, b.at(each, at)) for each in rows]
            for each in rows:
                b.prefetch(b.at(each, at, b.times(row_stride, AHEAD)))
            totals = list(totals)
            for m in range(inputs):
                x_m = b.load(b.at(x, b.times(stride, m), b.times(k, 4 * LANES)), lane(kind), LANES)
                for r in range(ROWS):
                    totals[m * ROWS + r] = b.dot(totals[m * ROWS + r], registers[r], x_m, kind)
            return totals

        totals = b.loop(steps, 1, multiply, [b.zeros(lane(kind))] * (inputs * ROWS))
        for i, total in enumerate(totals):
            b.store(b.sum(total), b.at(y, 4 * i))

    return dots


_float32_1, _float32_4 = _made(FLOAT32, 1), _made(FLOAT32, 4)
_bfloat16_1, _bfloat16_4 = _made(BFLOAT16, 1), _made(BFLOAT16, 4)
_int8_1, _int8_4 = _made(INT8, 1), _made(INT8, 4)
_widened_1, _widened_4 = _made(WIDENED, 1), _made(WIDENED, 4)


@jit()
def _rows(kind, alone, x, stride, row, row_stride, count, steps, y):
    if kind == FLOAT32:
        _float32_1(x, stride, row, row_stride, count, steps, y) if alone else _float32_4(
            x, stride, row, row_stride, count, steps, y
        )
    elif kind == BFLOAT16:
        _bfloat16_1(x, stride, row, row_stride, count, steps, y) if alone else _bfloat16_4(
            x, stride, row, row_stride, count, steps, y
        )
    elif kind == WIDENED:
        _widened_1(x, stride, row, row_stride, count, steps, y) if alone else _widened_4(
            x, stride, row, row_stride, count, steps, y
        )
    else:
        _int8_1(x, stride, row, row_stride, count, steps, y) if alone else _int8_4(x, stride, row, row_stride, count, steps, y)


@linked(16)
def dotted(kind, address, stride, span, scale, sums, x, M, K, rows, row_scale, columns, v0, v1, y, ldy):
    """y (M, ldy)[:, v0:v1] = x · w[v0:v1]ᵀ for a table (V, K): kind, an Operand, a Weight whose columns are K, v0, v1, y, ldy."""
    operand, weight = Operand(address, stride, span, scale, sums, x, M, K), Weight(rows, row_scale, columns)
    if M > FEW:
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
            steps = panel_of_rows(kind, weight.address + v * stride, stride, start, stop, N, address_of(panel))
            multiplied(kind, operand, start, steps, address_of(panel), weight, v, N, start > 0, y, ldy)


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
    whole = length // (LANES * FOLDS[kind])
    few = np.empty(4 * ROWS, np.int32)
    sums_n, float_n = int32s(sums, 4 * BLOCK), floats(sums, 4 * BLOCK)
    for n in range(0, N, ROWS):
        count, at = min(ROWS, N - n), row + n * stride
        _rows(kind, inputs == 1, x, x_stride, at, stride, count, whole, address_of(few))
        for m in range(inputs):
            for r in range(count):
                i = m * BLOCK + n + r
                sums_n[i] = few[m * ROWS + r]
                for k in range(whole * LANES * FOLDS[kind], length):
                    if FOLDS[kind] == 4:
                        sums_n[i] += np.int32(int8s(x + m * x_stride, length)[k]) * (
                            np.int32(int8s(at + r * stride, length)[k]) + 128
                        )
                    else:
                        float_n[i] += number_at(kind, x + m * x_stride, k) * weight_at(kind, at + r * stride, k)
