"""One pass over each row."""

import numpy as np

from .jit import REASSOCIATE, jit

__all__ = ["rms_norm", "rms_norm_vjp"]


@jit(fastmath=REASSOCIATE)
def rms_norm(x_td, norm_d, eps):
    """See equations.rms_norm. One token at a time, nothing is stored between."""
    T, D = x_td.shape
    y_td = np.empty_like(x_td)
    for t in range(T):
        square = x_td.dtype.type(0)
        for d in range(D):
            square += x_td[t, d] * x_td[t, d]
        scale = x_td.dtype.type(1 / np.sqrt(square / D + eps))
        for d in range(D):
            y_td[t, d] = x_td[t, d] * scale * norm_d[d]
    return y_td


@jit(fastmath=REASSOCIATE)
def rms_norm_vjp(dy_td, y_td, x_td, norm_d, eps):
    """See equations.rms_norm_vjp. Two passes over each token while it is at hand."""
    T, D = x_td.shape
    dx_td, dnorm_d = np.empty_like(x_td), np.zeros(D, norm_d.dtype)
    for t in range(T):
        square = along = x_td.dtype.type(0)
        for d in range(D):
            square += x_td[t, d] * x_td[t, d]
            along += x_td[t, d] * dy_td[t, d] * norm_d[d]
        r = x_td.dtype.type(1 / np.sqrt(square / D + eps))
        pull = r * r * along / x_td.dtype.type(D)
        for d in range(D):
            dx_td[t, d] = r * (dy_td[t, d] * norm_d[d] - pull * x_td[t, d])
            dnorm_d[d] += dy_td[t, d] * x_td[t, d] * r
    return dx_td, dnorm_d
