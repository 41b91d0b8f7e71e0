"""Many inputs times weights: a panel of 64 columns is put in order once and multiplied by all inputs, a few at a time.

A tile of sums, `HEIGHT` inputs by `WIDTH` registers, stays in registers from the first weight of a stretch to its last.
"""

import numpy as np

from ..kernels.jit import jit
from .instructions import BFLOAT16, BLOCK, F32, FLOAT32, FOLDS, I32, I64, INT8, LANES, WIDTH, address_of, instruction, lane
from .linking import linked
from .operands import SPAN, Operand, stretches_of
from .panels import panel_of, steps_of
from .sums import settled
from .weight import Weight

__all__ = ["multiplied", "tiled"]

HEIGHT = 6


def _made(kind):
    @instruction(8)
    def tile(b, x, stride, count, panel, steps, sums, sums_stride, add):
        """HEIGHT rows of BLOCK sums = or += the inputs at x · a panel; the last of `count` stands for who is not there."""
        b_ = b.llvm
        chosen = b.within(I64(0), HEIGHT, count)
        inputs = [b.at(x, b_.mul(stride, m)) for m in chosen]
        outputs = [b.at(sums, b_.mul(sums_stride, m)) for m in chosen]
        adds = b_.icmp_signed("!=", add, I64(0))
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

            places = [b.at(output, 4 * (left + v * LANES)) for output in outputs for v in range(WIDTH)]
            begin = [b_.select(adds, b.load(place, lane(kind), LANES, align=4), b.zeros(lane(kind))) for place in places]
            for total, place in zip(b.loop(steps, 1, multiply, begin), places, strict=True):
                b.store(total, place)

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
            stop = min(start + span, k1 - k0)
            panel_of(kind, weight, k0 + start, k0 + stop, c, N, address_of(panel))
            multiplied(kind, operand, start, stop, address_of(panel), weight, c, N, add != 0 or start > 0, y, ldy)


@linked(int, Operand, int, int, int, Weight, int, int, int, int, int)
def multiplied(kind, operand, start, stop, panel, weight, c, N, add, y, ldy):
    """Numbers start : stop of all inputs times a panel, = or += y (M, ldy)[:, c : c + N]."""
    sums, steps = np.empty(HEIGHT * BLOCK, np.int32), steps_of(kind, stop - start)
    x, s = operand.address + start * 4 // FOLDS[kind], start // operand.span
    straight, quads = kind != INT8 and N == BLOCK, kind == INT8 and FOLDS[INT8] == 4 and N == BLOCK
    for m in range(0, operand.M, HEIGHT):
        count, at, out = min(HEIGHT, operand.M - m), x + m * operand.stride, y + 4 * (m * ldy + c)
        to, stride = (out, 4 * ldy) if straight else (address_of(sums), 4 * BLOCK)
        _tile(kind, at, operand.stride, count, panel, steps, to, stride, add if straight else 0)
        if quads:
            stretches = stretches_of(operand)
            at = 4 * (m * stretches + s)
            _scale(to, count, out, 4 * ldy, operand.scale + at, operand.sums + at, 4 * stretches, weight.scale + 4 * c, add)
        elif not straight:
            for i in range(count):
                settled(kind, operand, m + i, s, weight, c, N, to + i * stride, add, out + 4 * i * ldy)


@jit()
def _tile(kind, x, stride, count, panel, steps, sums, sums_stride, add):
    if kind == BFLOAT16 and FOLDS[BFLOAT16] == 2:
        _bfloat16(x, stride, count, panel, steps, sums, sums_stride, add)
    elif kind == INT8 and FOLDS[INT8] == 4:
        _int8(x, stride, count, panel, steps, sums, sums_stride, add)
    else:
        _float32(x, stride, count, panel, steps, sums, sums_stride, add)
