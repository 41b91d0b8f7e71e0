"""exp and the activations, as arithmetic that the compiler spreads over a register's lanes."""

import math

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from ..kernels.jit import jit

__all__ = ["ACTIVATIONS", "RELU", "activated", "exp"]

ACTIVATIONS = ("none", "relu", "gelu", "gelu_tanh", "silu")
NONE, RELU, GELU, GELU_TANH, SILU = range(5)

_LN2_HIGH, _LN2_LOW, _LOG2E = np.float32(0.693359375), np.float32(-2.12194440e-4), np.float32(1.44269504)
_LOWEST, _HIGHEST = np.float32(-87.3), np.float32(88.3)
_SERIES = tuple(np.float32(1 / math.factorial(n)) for n in range(8))


@intrinsic
def _as_float(typing, bits):
    def codegen(context, builder, signature, values):
        return builder.bitcast(values[0], ir.FloatType())

    return types.float32(types.int32), codegen


@jit(inline="always")
def exp(x):
    """e^x of a float32 within 2 units in the last place: 2^n times a series of what is left, n = round(x / ln 2)."""
    x = min(max(x, _LOWEST), _HIGHEST)
    n = np.floor(x * _LOG2E + np.float32(0.5))
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    y = _SERIES[7]
    y = y * r + _SERIES[6]
    y = y * r + _SERIES[5]
    y = y * r + _SERIES[4]
    y = y * r + _SERIES[3]
    y = y * r + _SERIES[2]
    y = y * r + _SERIES[1]
    y = y * r + _SERIES[0]
    return y * _as_float((np.int32(n) + np.int32(127)) << np.int32(23))


@jit(fastmath={"contract", "nsz"})
def activated(activation, x_tf, f0, f1):
    """x_tf[:, f0:f1] through an activation, in place."""
    half, one = np.float32(0.5), np.float32(1)
    for t in range(len(x_tf)):
        x_f = x_tf[t, f0:f1]
        if activation == RELU:
            for f in range(len(x_f)):
                x_f[f] = x_f[f] if x_f[f] > 0 else np.float32(0)
        elif activation == GELU:
            for f in range(len(x_f)):
                x_f[f] = half * x_f[f] * (one + np.float32(math.erf(x_f[f] * np.float32(math.sqrt(0.5)))))
        elif activation == GELU_TANH:
            for f in range(len(x_f)):
                x = x_f[f]
                slope = np.float32(2 * math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x)
                x_f[f] = x - x / (exp(slope) + one)
        elif activation == SILU:
            for f in range(len(x_f)):
                x_f[f] = x_f[f] / (one + exp(-x_f[f]))
