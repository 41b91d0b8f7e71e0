"""Inputs times a matrix, the way that suits how many there are, and how threads share its columns."""

from ..kernels.jit import jit
from .instructions import BLOCK
from .linking import linked
from .operands import Operand
from .streams import stream
from .tiles import tiled
from .weight import Weight

__all__ = ["FEW", "multiply", "share"]

FEW = 18
"""Up to so many inputs a matrix is read as it lies."""


@linked(20)
def _multiply(
    kind, address, stride, span, scale, sums, x, M, K, rows, column_scale, columns, k0, k1, c0, c1, sparse, add, y, ldy
):
    operand, weight = Operand(address, stride, span, scale, sums, x, M, K), Weight(rows, column_scale, columns)
    if M <= FEW:
        stream(kind, operand, weight, k0, k1, c0, c1, sparse != 0, add != 0, y, ldy)
    else:
        tiled(kind, operand, weight, k0, k1, c0, c1, add != 0, y, ldy)


@jit()
def multiply(kind, operand, weight, k0, k1, c0, c1, sparse, add, y, ldy):
    """y (M, ldy)[:, c0:c1] = (or += where `add`) x · w[k0:k1, c0:c1]; input k meets row k0 + k.

    sparse      many inputs are 0, and their rows need not be read
    """
    o, w = operand, weight
    if c0 < c1 and o.M > 0:
        own = o.address, o.stride, o.span, o.scale, o.sums, o.x, o.M, o.K
        _multiply(kind, *own, w.address, w.scale, w.columns, k0, k1, c0, c1, int(sparse), int(add), y, ldy)


@jit()
def share(rank, ranks, N):
    """This thread's columns of N, in whole blocks."""
    blocks = (N + BLOCK - 1) // BLOCK
    return rank * blocks // ranks * BLOCK, min(N, (rank + 1) * blocks // ranks * BLOCK)
