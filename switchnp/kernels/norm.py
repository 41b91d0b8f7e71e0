"""One pass over each row."""

import numpy as np

from .jit import REASSOCIATE, jit

__all__ = ["rms_norm"]


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
