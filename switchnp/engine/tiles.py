"""Many inputs times weights: a panel of 64 columns is put in order once and multiplied by all inputs, a few at a time.

A tile of sums, `HEIGHT` inputs by `WIDTH` registers, stays in registers from the first weight of a stretch to its last. Panels
hold what a lane multiplies side by side: a float32, a pair of bfloat16 or a quad of int8 (as w + 128), or, where the
processor multiplies no pairs or quads, the same weights widened to float32.
"""

import numpy as np

from ..kernels.jit import jit
from .instructions import (
    BFLOAT16,
    BLOCK,
    F32,
    FLOAT32,
    FOLDS,
    I32,
    I64,
    INT8,
    LANES,
    SIZES,
    WIDTH,
    address_of,
    floats,
    instruction,
    int8s,
    int32s,
    lane,
    uint16s,
)
from .operands import SPAN
from .sums import settled
from .weight import weight_at

__all__ = ["multiplied", "panel_of", "panel_of_rows", "tiled"]

HEIGHT = 6
AHEAD = 32
"""So many rows later is what is asked for in advance."""
FLIP = np.int8(-128)
"""Turns w into w + 128, seen as unsigned."""


def _made(kind):
    @instruction(7)
    def tile(b, x, stride, count, panel, steps, sums, sums_stride):
        """HEIGHT rows of BLOCK sums = the inputs at x · a panel; the last of `count` stands for those that are not there."""
        b_ = b.llvm
        last = b_.sub(count, I64(1))
        chosen = [b_.select(b_.icmp_signed("<", I64(m), count), I64(m), last) for m in range(HEIGHT)]
        inputs = [b.at(x, b_.mul(stride, m)) for m in chosen]
        outputs = [b.at(sums, b_.mul(sums_stride, m)) for m in chosen]
        for left in range(0, BLOCK, WIDTH * LANES):

            def multiply(k, totals, left=left):
                row = b.at(panel, b.times(k, 4 * BLOCK), 4 * left)
                weights = [b.load(b.at(row, 4 * LANES * v), lane(kind), LANES, align=16) for v in range(WIDTH)]
                totals = list(totals)
                for m in range(HEIGHT):
                    x_m = b.splat(b.load(b.at(inputs[m], b.times(k, 4)), lane(kind)))
                    for v in range(WIDTH):
                        totals[m * WIDTH + v] = b.dot(totals[m * WIDTH + v], weights[v], x_m, kind)
                return totals

            totals = b.loop(steps, 1, multiply, [b.zeros(lane(kind))] * (HEIGHT * WIDTH))
            for i, total in enumerate(totals):
                b.store(total, b.at(outputs[i // WIDTH], 4 * (left + i % WIDTH * LANES)))

    return tile


_float32, _bfloat16, _int8 = _made(FLOAT32), _made(BFLOAT16), _made(INT8)


@instruction(9)
def _scale(b, sums, count, y, ldy, scale, sum_, step, columns, add):
    """See sums.settled: whole blocks of quads, `count` inputs together."""
    b_ = b.llvm
    adds = b_.icmp_signed("!=", add, I64(0))

    def one(m, _):
        at = b.times(step, m)
        scale_m = b.splat(b.load(b.at(scale, at), F32))
        shift_m = b.splat(b_.shl(b.load(b.at(sum_, at), I32), I32(7)))
        for left in range(0, BLOCK, LANES):
            total = b_.sub(b.load(b.at(sums, b.times(m, 4 * BLOCK), 4 * left), I32, LANES), shift_m)
            factor = b_.fmul(b.load(b.at(columns, 4 * left), F32, LANES), scale_m)
            out = b.at(y, b.times(ldy, m), 4 * left)
            before = b_.select(adds, b.load(out, F32, LANES), b.zeros(F32))
            b.store(b_.fadd(before, b_.fmul(b_.sitofp(total, factor.type), factor)), out)

    b.loop(count, 1, one)


@jit()
def tiled(kind, operand, weight, k0, k1, c0, c1, add, y, ldy):
    """y (M, ldy)[:, c0:c1] = (or += where `add`) x · w[k0:k1, c0:c1], panel by panel."""
    span = min(operand.span, SPAN)
    panel = np.empty((span + 4) * BLOCK, np.int32)
    for c in range(c0, c1, BLOCK):
        N = min(BLOCK, c1 - c)
        for start in range(0, k1 - k0, span):
            steps = panel_of(kind, weight, k0 + start, k0 + min(start + span, k1 - k0), c, N, address_of(panel))
            multiplied(kind, operand, start, steps, address_of(panel), weight, c, N, add or start > 0, y, ldy)


@jit()
def multiplied(kind, operand, start, steps, panel, weight, c, N, add, y, ldy):
    """All inputs from their number `start` on times a panel, into y (M, ldy)[:, c : c + N]."""
    sums = np.empty(HEIGHT * BLOCK, np.int32)
    x = operand.address + start * 4 // FOLDS[kind]
    straight = kind != INT8 and N == BLOCK and not add
    for m in range(0, operand.M, HEIGHT):
        count, at = min(HEIGHT, operand.M - m), x + m * operand.stride
        to, stride = (y + 4 * (m * ldy + c), 4 * ldy) if straight else (address_of(sums), 4 * BLOCK)
        if kind == BFLOAT16 and FOLDS[BFLOAT16] == 2:
            _bfloat16(at, operand.stride, count, panel, steps, to, stride)
        elif kind == INT8 and FOLDS[INT8] == 4:
            _int8(at, operand.stride, count, panel, steps, to, stride)
        else:
            _float32(at, operand.stride, count, panel, steps, to, stride)
        if kind == INT8 and FOLDS[INT8] == 4 and N == BLOCK:
            stretches = (operand.K + operand.span - 1) // operand.span
            at = 4 * (m * stretches + start // operand.span)
            out = y + 4 * (m * ldy + c)
            _scale(to, count, out, 4 * ldy, operand.scale + at, operand.sums + at, 4 * stretches, weight.scale + 4 * c, int(add))
            continue
        for i in range(0 if straight else count):
            line, out = address_of(sums) + 4 * i * BLOCK, y + 4 * ((m + i) * ldy + c)
            settled(kind, operand, m + i, start // operand.span, weight, c, N, line, add, out)


def _widening(kind):
    @instruction(2)
    def widen(b, panel, row):
        """A block of weights as float32."""
        for n in range(0, BLOCK, LANES):
            b.store(b.widened(b.at(row, n * SIZES[kind]), kind), b.at(panel, 4 * n))

    return widen


_widen_float32, _widen_bfloat16, _widen_int8 = _widening(FLOAT32), _widening(BFLOAT16), _widening(INT8)


@jit()
def _widen(kind, panel, row):
    if kind == FLOAT32:
        _widen_float32(panel, row)
    elif SIZES[kind] == 2:
        _widen_bfloat16(panel, row)
    else:
        _widen_int8(panel, row)


@instruction(1)
def _ask_for_line(b, address):
    b.prefetch(address)


@jit()
def _ask_for(address, size):
    """Have these bytes brought near."""
    for byte in range(0, size, 64):
        _ask_for_line(address + byte)


@jit()
def panel_of(kind, weight, k0, k1, c, N, panel):
    """Columns c : c + N of rows k0 : k1 in the order of a panel; returns its number of steps."""
    fold, size, columns = FOLDS[kind], SIZES[kind], weight.columns
    steps = (k1 - k0 + fold - 1) // fold
    if N < BLOCK or steps * fold > k1 - k0:
        int32s(panel, steps * BLOCK)[:] = 0
    for step in range(steps):
        at, row = panel + step * 4 * BLOCK, weight.address + ((k0 + step * fold) * columns + c) * size
        for r in range(fold):
            _ask_for(row + (AHEAD + r) * columns * size, BLOCK * size)
        if fold == 1 and N == BLOCK:
            _widen(kind, at, row)
        elif fold == 1:
            for n in range(N):
                floats(at, N)[n] = weight_at(kind, row, n)
        elif N == BLOCK and (step + 1) * fold <= k1 - k0:
            _zip(kind, at, row, columns * size)
        else:
            for r in range(min(fold, k1 - k0 - step * fold)):
                _scatter(kind, at + r * size, row + r * columns * size, N)
    return steps


@jit()
def _zip(kind, panel, row, stride):
    """Two rows of bfloat16 or four of int8, column by column."""
    if kind == BFLOAT16:
        a_n, b_n, pairs = uint16s(row, BLOCK), uint16s(row + stride, BLOCK), uint16s(panel, 2 * BLOCK)
        for n in range(BLOCK):
            pairs[2 * n] = a_n[n]
            pairs[2 * n + 1] = b_n[n]
        return
    a_n, b_n, c_n, d_n = (
        int8s(row, BLOCK),
        int8s(row + stride, BLOCK),
        int8s(row + 2 * stride, BLOCK),
        int8s(row + 3 * stride, BLOCK),
    )
    quads = int8s(panel, 4 * BLOCK)
    for n in range(BLOCK):
        quads[4 * n] = a_n[n] ^ FLIP
        quads[4 * n + 1] = b_n[n] ^ FLIP
        quads[4 * n + 2] = c_n[n] ^ FLIP
        quads[4 * n + 3] = d_n[n] ^ FLIP


@jit()
def _scatter(kind, panel, row, N):
    """One row of a pair or quad."""
    for n in range(N):
        if kind == BFLOAT16:
            uint16s(panel, 2 * N)[2 * n] = uint16s(row, N)[n]
        else:
            int8s(panel, 4 * N)[4 * n] = int8s(row, N)[n] ^ FLIP


@jit()
def panel_of_rows(kind, address, stride, k0, k1, rows, panel):
    """The same of a matrix that lies the other way: numbers k0 : k1 of up to BLOCK rows, `stride` bytes apart."""
    fold, size = FOLDS[kind], SIZES[kind]
    steps, whole = (k1 - k0 + fold - 1) // fold, (k1 - k0) // fold
    if rows < BLOCK or steps > whole:
        int32s(panel, steps * BLOCK)[:] = 0
    flip = np.int32(-2139062144 if fold == 4 else 0)
    for n in range(rows):
        row = address + n * stride + k0 * size
        if size * fold == 4:
            line_k, panel_k = int32s(row, whole), int32s(panel + 4 * n, whole * BLOCK)
            for k in range(whole):
                panel_k[k * BLOCK] = line_k[k] ^ flip
        else:
            for k in range(whole):
                floats(panel + 4 * n, whole * BLOCK)[k * BLOCK] = weight_at(kind, row, k)
        for k in range(whole * fold, k1 - k0):
            _scatter(kind, panel + 4 * (BLOCK * whole + n) + (k - whole * fold) * size, row + k * size, 1)
    return steps
