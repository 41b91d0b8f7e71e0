"""The output table as one matrix product."""

__all__ = ["head", "unembed"]


def unembed(x_td, embedding_vd):
    """See equations.unembed. One GEMM."""
    return (x_td * x_td.dtype.type(x_td.shape[1] ** -0.5)) @ embedding_vd.T


def head(x_td, head_vd):
    """See equations.head. One GEMM."""
    return x_td @ head_vd.T
