"""Keep the stream at unit scale."""

import numpy as np

__all__ = ["rms_norm"]


def rms_norm(x_td, norm_d, eps):
    """Divide each token by its root mean square, then scale each feature; no mean is taken off, nothing is added.

        y = g x / sqrt(mean(x^2) + eps)

    Source: T5's layer norm; Zhang and Sennrich 2019, eq. 4.
    """
    dtype = np.promote_types(x_td.dtype, np.float32)
    square_t1 = np.mean(np.square(x_td, dtype=dtype), axis=-1, keepdims=True)
    return (x_td / np.sqrt(square_t1 + dtype.type(eps))).astype(x_td.dtype) * norm_d
