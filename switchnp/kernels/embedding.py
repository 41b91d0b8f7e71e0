"""The output table as one matrix product; gradients of words that came in, added up row by row."""

import numpy as np

from .jit import jit

__all__ = ["embed_vjp", "head", "head_vjp", "unembed", "unembed_vjp"]


@jit()
def embed_vjp(dx_td, x_td, ids_t, embedding_vd):
    """See equations.embed_vjp. One pass over the tokens."""
    T, D = dx_td.shape
    dembedding_vd = np.zeros(embedding_vd.shape, embedding_vd.dtype)
    for t in range(T):
        for d in range(D):
            dembedding_vd[ids_t[t], d] += dx_td[t, d]
    return (dembedding_vd,)


def unembed(x_td, embedding_vd):
    """See equations.unembed. One GEMM."""
    return (x_td * x_td.dtype.type(x_td.shape[1] ** -0.5)) @ embedding_vd.T


def unembed_vjp(dlogits_tv, logits_tv, x_td, embedding_vd):
    """See equations.unembed_vjp. Two GEMMs."""
    scale = x_td.dtype.type(x_td.shape[1] ** -0.5)
    return (dlogits_tv @ embedding_vd) * scale, dlogits_tv.T @ (x_td * scale)


def head(x_td, head_vd):
    """See equations.head. One GEMM."""
    return x_td @ head_vd.T


def head_vjp(dlogits_tv, logits_tv, x_td, head_vd):
    """See equations.head_vjp. Two GEMMs."""
    return dlogits_tv @ head_vd, dlogits_tv.T @ x_td
