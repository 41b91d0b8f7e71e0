"""Dense layers as matrix products, with the activation in one pass between them."""

import math

import numpy as np

from .jit import jit

__all__ = ["ffn", "gated_ffn", "gelu"]


def ffn(x_td, wi_df, wo_fd, activation):
    """See equations.ffn. Two GEMMs."""
    return activation(x_td @ wi_df) @ wo_fd


def gated_ffn(x_td, wi0_df, wi1_df, wo_fd, activation):
    """See equations.gated_ffn. Three GEMMs."""
    h_tf = activation(x_td @ wi0_df)
    h_tf *= x_td @ wi1_df
    return h_tf @ wo_fd


@jit()
def gelu(x_tf):
    """See equations.gelu. NumPy has no erf; the compiler has."""
    T, F = x_tf.shape
    y_tf = np.empty_like(x_tf)
    for t in range(T):
        for f in range(F):
            y_tf[t, f] = x_tf[t, f] / 2 * (1 + math.erf(x_tf[t, f] * math.sqrt(0.5)))
    return y_tf
