"""Gradients of learned distances, added up where they belong."""

import numpy as np

from .jit import jit

__all__ = ["position_bias_vjp"]


@jit()
def position_bias_vjp(dbias_hts, bias_hts, bucket_ts, bias_rh):
    """See equations.position_bias_vjp. One pass over the pairs of each head."""
    H, T, S = dbias_hts.shape
    dbias_rh = np.zeros(bias_rh.shape, bias_rh.dtype)
    for h in range(H):
        for t in range(T):
            for s in range(S):
                dbias_rh[bucket_ts[t, s], h] += dbias_hts[h, t, s]
    return (dbias_rh,)
