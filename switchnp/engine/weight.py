"""One matrix of weights, where it lies."""

from collections import namedtuple

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from ..kernels.jit import jit
from .instructions import FLOAT32, SIZES, floats, int8s, uint16s

__all__ = ["Weight", "bits_of", "expert", "from_bfloat16", "weight_at"]

Weight = namedtuple("Weight", "address scale columns")
"""A matrix (K, N), row after row.

address    of its first number
scale      of the first of the float32 by which int8 is multiplied, one a column (one a row where rows are multiplied)
columns    N
"""


@jit()
def expert(kind, weight, e, K):
    """The matrix of one expert among those that lie one behind the other."""
    return Weight(weight.address + e * K * weight.columns * SIZES[kind], weight.scale + 4 * e * weight.columns, weight.columns)


@intrinsic
def _float_of(typing, bits):
    def codegen(context, builder, signature, values):
        return builder.bitcast(values[0], ir.FloatType())

    return types.float32(types.uint32), codegen


@intrinsic
def bits_of(typing, number):
    """The 32 bits of a float32, as int32."""

    def codegen(context, builder, signature, values):
        return builder.bitcast(values[0], ir.IntType(32))

    return types.int32(types.float32), codegen


@jit()
def from_bfloat16(bits):
    """The float32 of which these are the upper half."""
    return _float_of(np.uint32(bits) << np.uint32(16))


@jit()
def weight_at(kind, address, i):
    """Weight i behind an address, before its scale, as float32."""
    if kind == FLOAT32:
        return floats(address, i + 1)[i]
    if SIZES[kind] == 2:
        return from_bfloat16(uint16s(address, i + 1)[i])
    return np.float32(int8s(address, i + 1)[i])
