"""From the sums that registers held to numbers: put in order, scaled, added to what was there."""

import numpy as np

from ..kernels.jit import jit
from .instructions import FOLDS, INT8, floats, int32s
from .linking import linked
from .operands import Operand, stretches_of
from .weight import Weight

__all__ = ["in_order", "settled"]


@linked(int, Operand, int, int, Weight, int, int, int, int, int)
def settled(kind, operand, m, s, weight, c, N, sums, add, y):
    """The N numbers at the address y = (or += where `add`) the sums at the address `sums`, scaled.

    Sums are int32 where quads of int8 were multiplied, else float32; they are those of input m, stretch s, columns c : c + N.
    """
    out_n = floats(y, N)
    if kind != INT8:
        _plain(floats(sums, N), add != 0, out_n)
        return
    i = m * stretches_of(operand) + s
    scale, scale_n = floats(operand.scale, i + 1)[i], floats(weight.scale + 4 * c, N)
    if FOLDS[INT8] == 4:
        _scaled(int32s(sums, N), np.int32(128) * int32s(operand.sums, i + 1)[i], scale, scale_n, add != 0, out_n)
    else:
        _scaled(floats(sums, N), np.float32(0), scale, scale_n, add != 0, out_n)


@jit()
def in_order(fold, step, N, sums, ordered):
    """Undo `punpckl` and `punpckh`: each step's sums lie in `fold` registers, of which each 128 bits hold four columns."""
    line_n, ordered_n = int32s(sums, N), int32s(ordered, N)
    whole = N // step * step
    for half in range(0, whole, 16 * fold):
        for quarter in range(4):
            for register in range(fold):
                for lane in range(4):
                    column = half + quarter * 4 * fold + register * 4 + lane
                    ordered_n[column] = line_n[half + register * 16 + quarter * 4 + lane]
    for n in range(whole, N):
        ordered_n[n] = line_n[n]


@jit()
def _scaled(line_n, shift, scale, scale_n, add, out_n):
    if add:
        for n in range(len(line_n)):
            out_n[n] += scale * scale_n[n] * np.float32(line_n[n] - shift)
    else:
        for n in range(len(line_n)):
            out_n[n] = scale * scale_n[n] * np.float32(line_n[n] - shift)


@jit()
def _plain(line_n, add, out_n):
    if add:
        for n in range(len(line_n)):
            out_n[n] += line_n[n]
    else:
        for n in range(len(line_n)):
            out_n[n] = line_n[n]
