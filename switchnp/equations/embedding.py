"""Words to vectors, and vectors back to words."""

import numpy as np

__all__ = ["embed", "head", "unembed"]


def embed(ids_t, embedding_vd):
    """Each word's vector: its row of the table, unscaled.

        x_t = W[id_t]

    Source: T5, transformers 5.23 (no scaling, no positions added).
    """
    return embedding_vd[ids_t]


def unembed(x_td, embedding_vd):
    """How well each word of the vocabulary would come next, by the table that words came in by.

        logits = (x d^-1/2) W^T

    Source: T5 with tied embeddings, transformers 5.23.
    """
    D = x_td.shape[1]
    return np.einsum("td,vd->tv", x_td * x_td.dtype.type(D**-0.5), embedding_vd)


def head(x_td, head_vd):
    """The same with a table of its own, which needs no scaling.

        logits = x W^T

    Source: T5 1.1 with untied embeddings, transformers 5.23.
    """
    return np.einsum("td,vd->tv", x_td, head_vd)
