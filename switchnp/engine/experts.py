"""What a dense layer, or an expert, has inside."""

from ..kernels.jit import jit
from .elementary import RELU, activated
from .instructions import floats
from .linking import linked
from .operands import Operand
from .products import multiply
from .weight import Weight

__all__ = ["has_zeros", "hidden"]


@linked(int, Operand, Weight, Weight, int, int, int, int, int, int, int)
def hidden(kind, x, wi, wi_linear, gated, activation, f0, f1, h, g, F):
    """h (M, F)[:, f0:f1] = act(x wi), times x wi_linear where gated; g is room for that."""
    multiply(kind, x, wi, 0, x.K, f0, f1, 0, 0, h, F)
    if gated:
        multiply(kind, x, wi_linear, 0, x.K, f0, f1, 0, 0, g, F)
    for m in range(x.M):
        h_f = floats(h + 4 * (m * F + f0), f1 - f0)
        activated(activation, h_f)
        if gated:
            g_f = floats(g + 4 * (m * F + f0), f1 - f0)
            for f in range(f1 - f0):
                h_f[f] *= g_f[f]


@jit()
def has_zeros(activation, gated):
    """Are many hidden units exactly 0?"""
    return activation == RELU and not gated
