"""exp and the activations, as arithmetic that the compiler spreads over a register's lanes."""

import math

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from ..kernels.jit import jit
from .instructions import F32, I32, LANES, ROUND, address_of, floats, instruction

__all__ = ["ACTIVATIONS", "HIDDEN", "RELU", "activated", "dot", "exp", "log_total", "softened"]

HIDDEN = np.float32(-3e38)
"""The score of what must not be seen."""
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


@jit(fastmath={"reassoc", "contract"})
def dot(q_k, k_k):
    """The sum of products."""
    total = np.float32(0)
    for k in range(len(q_k)):
        total += q_k[k] * k_k[k]
    return total


def _exp(b, x):
    """See exp; in a register."""
    b_ = b.llvm

    def constant(number):
        return b.splat(ir.Constant(F32, float(number)))

    x = b_.select(b_.fcmp_ordered(">", x, constant(_LOWEST)), x, constant(_LOWEST))
    rounded = b.multiply_add(constant(ROUND), x, constant(_LOG2E))
    n = b_.fsub(rounded, constant(ROUND))
    r = b.multiply_add(b.multiply_add(x, n, constant(-_LN2_HIGH)), n, constant(-_LN2_LOW))
    y = constant(_SERIES[7])
    for term in _SERIES[6::-1]:
        y = b.multiply_add(constant(term), y, r)
    whole = b_.bitcast(rounded, ir.VectorType(I32, LANES))
    power = b_.shl(b_.add(whole, b.splat(I32(127 - 0x4B400000))), b.splat(I32(23)))
    return b_.fmul(y, b_.bitcast(power, y.type))


@instruction(4)
def _soften(b, score, bias, count, found):
    """score = e^(score + bias - the highest); their sum and the highest at `found`; count is whole registers."""
    b_ = b.llvm

    def raise_top(s, carried):
        at = b.at(score, b.times(s, 4))
        value = b_.fadd(b.load(at, F32, LANES), b.load(b.at(bias, b.times(s, 4)), F32, LANES))
        b.store(value, at)
        return [b_.select(b_.fcmp_ordered(">", value, carried[0]), value, carried[0])]

    (tops,) = b.loop(count, LANES, raise_top, [b.splat(ir.Constant(F32, float(HIDDEN)))])
    top = b.largest(tops)
    b.store(top, b.at(found, 4))
    top = b.splat(top)

    def lift(s, carried):
        at = b.at(score, b.times(s, 4))
        value = _exp(b, b_.fsub(b.load(at, F32, LANES), top))
        b.store(value, at)
        return [b_.fadd(carried[0], value)]

    (totals,) = b.loop(count, LANES, lift, [b.zeros(F32)])
    b.store(b.sum(totals), found)


@jit()
def softened(score, bias, S):
    """S scores at an address to e^(score + bias - the highest), in place, and their sum; where all are HIDDEN all count alike.

    Behind the scores, up to a whole register, is room; behind the biases something to read, whatever it is.
    """
    return _softened(score, bias, S)[0]


@jit()
def log_total(score, bias, S):
    """log sum e^(score + bias) of S scores at an address, which become what `softened` makes of them."""
    total, top = _softened(score, bias, S)
    return top + np.float32(np.log(total))


@jit()
def _softened(score, bias, S):
    count = (S + LANES - 1) // LANES * LANES
    floats(score, count)[S:] = -np.inf
    found = np.empty(2, np.float32)
    _soften(score, bias, count, address_of(found))
    return found[0], found[1]


@jit(fastmath={"contract", "nsz"})
def activated(activation, x_f):
    """x_f through an activation, in place."""
    half, one = np.float32(0.5), np.float32(1)
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
