"""A few inputs times many weights, as fast as memory gives the weights: y += sum_r x_r w_r over rows w_r of a matrix (K, N).

Several rows run side by side, each from its first column to its last, so that memory is read in long straight lines. Where the
processor multiplies pairs or quads at once, two or four rows are interleaved in registers as they come; the sums then stand
in the order that the interleaving makes, until `settled`. The same columns of the next rows are asked for in advance, except
where the processor sees by itself what comes: rows of float32 that follow each other, under one input.
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
    I16,
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
from .operands import number_at
from .sums import in_order, settled
from .weight import weight_at

__all__ = ["stream"]

ROWS = (8, 8, 16 if FOLDS[INT8] == 4 else 8, 8)
"""How many rows run side by side under several inputs; under one it is eight."""
STEPS = tuple(64 if fold > 1 else 2 * LANES for fold in FOLDS)
"""How many columns a step takes."""


def _interleaved(b, rows, start, kind):
    """What a lane multiplies: rows at the same columns, lane by lane, in registers side by side."""
    if kind == BFLOAT16:
        halves = [[b.load(b.at(row, start, 64 * half), I16, 32) for row in rows] for half in range(2)]
        return [
            b.llvm.bitcast(b.shuffle(*pair, _zipped(32, 8, high)), ir.VectorType(F32, 16)) for pair in halves for high in (0, 1)
        ]
    flip = ir.Constant(ir.VectorType(I8, 64), [-128] * 64)
    rows = [b.llvm.xor(b.load(b.at(row, start), I8, 64), flip) for row in rows]
    pairs = [[b.shuffle(rows[i], rows[i + 1], _zipped(64, 16, high)) for i in (0, 2)] for high in (0, 1)]
    pairs = [[b.llvm.bitcast(half, ir.VectorType(I16, 32)) for half in pair] for pair in pairs]
    quads = [b.shuffle(*pair, _zipped(32, 8, high)) for pair in pairs for high in (0, 1)]
    return [b.llvm.bitcast(quad, ir.VectorType(I32, 16)) for quad in quads]


def _zipped(count, part, high):
    """The lower or upper halves of every 128 bits of two vectors, zipped."""
    starts = range(high * part // 2, count, part)
    return [i + side for start in starts for i in range(start, start + part // 2) for side in (0, count)]


def _weights(b, rows, j, kind):
    """One list of registers for each input."""
    start, fold = b.times(j, SIZES[kind]), FOLDS[kind]
    if fold > 1:
        return [_interleaved(b, rows[r : r + fold], start, kind) for r in range(0, len(rows), fold)]
    return [[b.widened(b.at(row, start, v * LANES * SIZES[kind]), kind) for v in range(2)] for row in rows]


def _inputs(b, row, groups, kind):
    return [b.splat(b.load(b.at(row, 4 * r), lane(kind))) for r in range(groups)]


def _asked_for(b, rows, j, kind):
    for row in rows:
        for byte in range(0, STEPS[kind] * SIZES[kind], 64):
            b.prefetch(b.at(row, b.times(j, SIZES[kind]), byte))


def _made(kind, alone, ahead=True):
    rows = 8 if alone else ROWS[kind]
    groups = rows // FOLDS[kind]

    @instruction(7)
    def step(b, y, ldy, x, ldx, M, table, N):
        """y[m] += x[m] · the rows whose addresses are in `table`, behind which are those of the next rows."""
        lines, coming = ([b.load(b.at(table, 8 * (r + first)), I64, align=8) for r in range(rows)] for first in (0, rows))
        hoisted = _inputs(b, x, groups, kind) if alone else None

        def columns(j, _):
            registers = _weights(b, lines, j, kind)
            _asked_for(b, coming if ahead else [], j, kind)

            def one(m, _):
                row = b.at(y, b.times(ldy, m), b.times(j, 4))
                sums = [b.load(b.at(row, 4 * LANES * v), lane(kind), LANES, align=4) for v in range(len(registers[0]))]
                for register, x_r in zip(registers, hoisted or _inputs(b, b.at(x, b.times(ldx, m)), groups, kind), strict=True):
                    sums = [b.dot(total, weights, x_r, kind) for total, weights in zip(sums, register, strict=True)]
                for v, total in enumerate(sums):
                    b.store(total, b.at(row, 4 * LANES * v))

            one(I64(0), ()) if alone else b.loop(M, 1, one)

        b.loop(N, STEPS[kind], columns)

    return step


_float32_one, _float32_scattered, _float32 = _made(FLOAT32, True, ahead=False), _made(FLOAT32, True), _made(FLOAT32, False)
_bfloat16_one, _bfloat16 = _made(BFLOAT16, True), _made(BFLOAT16, False)
_int8_one, _int8 = _made(INT8, True), _made(INT8, False)
_widened_one, _widened = _made(WIDENED, True), _made(WIDENED, False)


@jit()
def _steps(kind, sparse, y, ldy, x, ldx, M, table, N):
    if kind == FLOAT32 and M > 1:
        _float32(y, ldy, x, ldx, M, table, N)
    elif kind == FLOAT32:
        _float32_scattered(y, ldy, x, ldx, M, table, N) if sparse else _float32_one(y, ldy, x, ldx, M, table, N)
    elif kind == BFLOAT16:
        _bfloat16_one(y, ldy, x, ldx, M, table, N) if M == 1 else _bfloat16(y, ldy, x, ldx, M, table, N)
    elif kind == WIDENED:
        _widened_one(y, ldy, x, ldx, M, table, N) if M == 1 else _widened(y, ldy, x, ldx, M, table, N)
    else:
        _int8_one(y, ldy, x, ldx, M, table, N) if M == 1 else _int8(y, ldy, x, ldx, M, table, N)


@jit()
def stream(kind, operand, weight, k0, k1, c0, c1, sparse, add, y, ldy):
    """y (M, ldy)[:, c0:c1] = (or += where `add`) x · w[k0:k1, c0:c1], in strips of columns whose sums stay near.

    sparse      pass over rows whose input is 0 for all: exact, as such a row adds nothing
    """
    M, fold = operand.M, FOLDS[kind]
    strip = c1 - c0 if M == 1 else min(max(8192 // M // BLOCK, 1) * BLOCK, c1 - c0)
    live_k = np.empty(k1 - k0 if sparse else 0, np.int64)
    sums, ordered = np.empty(M * (strip + 16), np.int32), np.empty(strip if fold > 1 else 0, np.int32)
    for start in range(0, k1 - k0, operand.span):
        stop = min(start + operand.span, k1 - k0)
        live = _live_rows(operand, start, stop, live_k) if sparse else stop - start
        scattered = sparse and 8 * live < 7 * (stop - start)
        live = live if scattered else stop - start
        for c in range(c0, c1, strip):
            N = min(strip, c1 - c)
            sums[:] = 0
            _added(kind, operand, weight, k0, start, live_k, live, scattered, c, N, address_of(sums), 4 * (strip + 16))
            for m in range(M):
                line = address_of(sums) + 4 * m * (strip + 16)
                if fold > 1:
                    in_order(fold, STEPS[kind], N, line, address_of(ordered))
                    line = address_of(ordered)
                settled(kind, operand, m, start // operand.span, weight, c, N, line, add or start > 0, y + 4 * (m * ldy + c))


@jit()
def _live_rows(operand, start, stop, live_k):
    count = 0
    x_k = floats(operand.x, operand.M * operand.K)
    for k in range(start, stop):
        for m in range(operand.M):
            if x_k[m * operand.K + k] != 0:
                live_k[count] = k
                count += 1
                break
    return count


@jit()
def _added(kind, operand, weight, k0, start, live_k, count, sparse, c, N, sums, ldsums):
    """sums += x · w for the live rows of a stretch, a few rows at a time."""
    M, part = operand.M, 4 // FOLDS[kind]
    rows = 8 if M == 1 else ROWS[kind]
    whole = N // STEPS[kind] * STEPS[kind]
    table = np.empty(2 * rows, np.int64)
    inputs = np.zeros(M * 4 * rows, np.uint8)
    for first in range(0, count, rows):
        for r in range(2 * rows):
            i = min(first + r, count - 1)
            k = live_k[i] if sparse else start + i
            table[r] = weight.address + ((k0 + k) * weight.columns + c) * SIZES[kind]
        address, stride = operand.address + (start + first) * part, operand.stride
        if sparse or first + rows > count:
            _gathered(operand, part, live_k, sparse, start, first, min(rows, count - first), 4 * rows, address_of(inputs))
            address, stride = address_of(inputs), 4 * rows
        _steps(kind, sparse, sums, ldsums, address, stride, M, address_of(table), whole)
        if whole < N:
            _rest(kind, M, address, stride, table, rows, whole, N, sums, ldsums)


@jit()
def _gathered(operand, part, live_k, sparse, start, first, count, width, inputs):
    """The inputs of the next rows side by side, and 0 where there are no more rows."""
    for m in range(operand.M):
        from_k, to_r = int8s(operand.address + m * operand.stride, operand.stride), int8s(inputs + m * width, width)
        to_r[:] = 0
        for r in range(count):
            k = live_k[first + r] if sparse else start + first + r
            for byte in range(part):
                to_r[r * part + byte] = from_k[k * part + byte]


@jit()
def _rest(kind, M, address, stride, table, rows, whole, N, sums, ldsums):
    """The last columns, which fill no step, one by one."""
    for m in range(M):
        total_n, whole_n = floats(sums + m * ldsums, N), int32s(sums + m * ldsums, N)
        for r in range(rows):
            for c in range(whole, N):
                if FOLDS[kind] == 4:
                    whole_n[c] += np.int32(int8s(address + m * stride, rows)[r]) * (np.int32(int8s(table[r], N)[c]) + 128)
                else:
                    total_n[c] += number_at(kind, address + m * stride, r) * weight_at(kind, table[r], c)
