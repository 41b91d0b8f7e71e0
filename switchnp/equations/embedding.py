"""Words to vectors, and vectors back to words."""

import numpy as np

__all__ = ["embed", "embed_vjp", "head", "head_vjp", "unembed", "unembed_vjp"]


def embed(ids_t, embedding_vd):
    """Each word's vector: its row of the table, unscaled.

        x_t = W[id_t]

    Source: T5, transformers 5.23 (no scaling, no positions added).
    """
    return embedding_vd[ids_t]


def embed_vjp(dx_td, x_td, ids_t, embedding_vd):
    """dW[id] = sum of dx_t over the tokens with this id."""
    dembedding_vd = np.zeros_like(embedding_vd)
    np.add.at(dembedding_vd, ids_t, dx_td)
    return (dembedding_vd,)


def unembed(x_td, embedding_vd):
    """How well each word of the vocabulary would come next, by the table that words came in by.

        logits = (x d^-1/2) W^T

    Source: T5 with tied embeddings, transformers 5.23.
    """
    D = x_td.shape[1]
    return np.einsum("td,vd->tv", x_td * x_td.dtype.type(D**-0.5), embedding_vd)


def unembed_vjp(dlogits_tv, logits_tv, x_td, embedding_vd):
    """dx = d^-1/2 dlogits W, dW = dlogits^T (x d^-1/2)."""
    scale = x_td.dtype.type(x_td.shape[1] ** -0.5)
    dx_td, dembedding_vd = head_vjp(dlogits_tv, logits_tv, x_td * scale, embedding_vd)
    return dx_td * scale, dembedding_vd


def head(x_td, head_vd):
    """The same with a table of its own, which needs no scaling.

        logits = x W^T

    Source: T5 1.1 with untied embeddings, transformers 5.23.
    """
    return np.einsum("td,vd->tv", x_td, head_vd)


def head_vjp(dlogits_tv, logits_tv, x_td, head_vd):
    """dx = dlogits W, dW = dlogits^T x."""
    return np.einsum("tv,vd->td", dlogits_tv, head_vd), np.einsum("tv,td->vd", dlogits_tv, x_td)
