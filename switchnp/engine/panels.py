"""64 columns of weights in the order in which a tile multiplies them.

A panel holds, step by step, what each lane multiplies: a float32, a pair of bfloat16 or a quad of int8 (as w + 128), or, where
the processor multiplies no pairs or quads, the same weights widened to float32.
"""

import numpy as np

from ..kernels.jit import jit
from .instructions import (
    BFLOAT16,
    BLOCK,
    FLOAT32,
    FOLDS,
    INT8,
    LANES,
    SIZES,
    floats,
    instruction,
    int8s,
    int32s,
    uint16s,
)
from .linking import linked
from .weight import Weight, weight_at

__all__ = ["panel_of", "panel_of_rows", "steps_of"]

AHEAD = 32
"""So many rows later is what is asked for in advance."""
FLIP = np.int8(-128)
"""Turns w into w + 128, seen as unsigned."""


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
def steps_of(kind, length):
    """How many steps a panel of so many rows has."""
    return (length + FOLDS[kind] - 1) // FOLDS[kind]


@linked(int, Weight, int, int, int, int, int)
def panel_of(kind, weight, k0, k1, c, N, panel):
    """Columns c : c + N of rows k0 : k1 in the order of a panel."""
    fold, size, columns = FOLDS[kind], SIZES[kind], weight.columns
    steps = steps_of(kind, k1 - k0)
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


@linked(int, int, int, int, int, int, int)
def panel_of_rows(kind, address, stride, k0, k1, rows, panel):
    """The same of a matrix that lies the other way: numbers k0 : k1 of up to BLOCK rows, `stride` bytes apart."""
    fold, size = FOLDS[kind], SIZES[kind]
    steps, whole = steps_of(kind, k1 - k0), (k1 - k0) // fold
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
