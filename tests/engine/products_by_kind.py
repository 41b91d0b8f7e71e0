"""Random matrices of every kind, and products of them by the engine's parts, for tests."""

import ml_dtypes
import numpy as np

from switchnp.engine import dots, linking, operands, products, streams, tiles
from switchnp.engine.instructions import address_of
from switchnp.engine.weight import Weight
from switchnp.kernels.jit import jit

KINDS = {"float32": 0, "bfloat16": 1, "int8": 2, "bfloat16 in float32": 3}
TOLERANCE = {"float32": 1e-6, "bfloat16": 4e-3, "int8": 1.2e-2, "bfloat16 in float32": 1e-6}
"""Of the largest product of lengths."""


def matrix(rng, kind, rows, columns, scale_axis):
    """(as stored, scales, as it means)."""
    w = rng.normal(size=(rows, columns)).astype(np.float32)
    if kind == "float32":
        return w, np.ones(1, np.float32), w
    if kind == "int8":
        scale = (np.abs(w).max(scale_axis) / 127).astype(np.float32)
        spread = np.expand_dims(scale, scale_axis)
        whole = np.rint(w / spread).astype(np.int8)
        return whole, scale, whole * spread
    stored = w.astype(ml_dtypes.bfloat16)
    return stored, np.ones(1, np.float32), stored.astype(np.float32)


@jit()
def _by(way, kind, x, span, room, address, scale, columns, k0, k1, c0, c1, sparse, add, y):
    weight = Weight(address, scale, columns)
    operand = operands.operand_of(kind, address_of(x), len(x), x.shape[1], span, address_of(room))
    operands.prepare(kind, operand, 0, len(x))
    out, ld = address_of(y), y.shape[1]
    if way == 0:
        streams.stream(kind, operand, weight, k0, k1, c0, c1, sparse, add, out, ld)
    elif way == 1:
        tiles.tiled(kind, operand, weight, k0, k1, c0, c1, add, out, ld)
    elif way == 2:
        products.multiply(kind, operand, weight, k0, k1, c0, c1, sparse, add, out, ld)
    else:
        dots.dotted(kind, operand, weight, c0, c1, out, ld)


def product(way, kind, x, w, scale, rows, columns, y, span=operands.SPAN, sparse=False, add=False):
    """y[:, columns] = x · w[rows, columns] by "stream", "tile" or "multiply"; by "dots" x · w[columns] transposed."""
    linking.link()
    room = np.empty(operands.room_for(*x.shape), np.uint8)
    number = ("stream", "tile", "multiply", "dots").index(way)
    where = w.ctypes.data, scale.ctypes.data, w.shape[1], *rows, *columns
    _by(number, KINDS[kind], x, span, room, *where, sparse, add, y)
