"""Inputs times a matrix, the way that suits how many there are, and how threads share its columns."""

from ..kernels.jit import jit
from .instructions import BLOCK
from .linking import linked
from .operands import Operand
from .streams import stream
from .tiles import tiled
from .weight import Weight

__all__ = ["FEW", "multiply", "share"]

FEW = 64
"""Up to so many inputs a matrix is read as it lies."""


@linked(int, Operand, Weight, int, int, int, int, int, int, int, int)
def multiply(kind, operand, weight, k0, k1, c0, c1, sparse, add, y, ldy):
    """y (M, ldy)[:, c0:c1] = (or += where `add`) x · w[k0:k1, c0:c1]; input k meets row k0 + k.

    sparse      many inputs are 0, and their rows need not be read
    """
    if c0 < c1 and operand.M > FEW:
        tiled(kind, operand, weight, k0, k1, c0, c1, add, y, ldy)
    elif c0 < c1 and operand.M:
        stream(kind, operand, weight, k0, k1, c0, c1, sparse != 0, add != 0, y, ldy)


@jit()
def share(rank, ranks, N):
    """This thread's columns of N, in whole blocks."""
    blocks = (N + BLOCK - 1) // BLOCK
    return rank * blocks // ranks * BLOCK, min(N, (rank + 1) * blocks // ranks * BLOCK)
