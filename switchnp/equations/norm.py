"""Keep the stream at unit scale."""

import numpy as np

__all__ = ["rms_norm", "rms_norm_vjp"]


def rms_norm(x_td, norm_d, eps):
    """Divide each token by its root mean square, then scale each feature; no mean is taken off, nothing is added.

        y = g x / sqrt(mean(x^2) + eps)

    Source: T5's layer norm; Zhang and Sennrich 2019, eq. 4.
    """
    dtype = np.promote_types(x_td.dtype, np.float32)
    square_t1 = np.mean(np.square(x_td, dtype=dtype), axis=-1, keepdims=True)
    return (x_td / np.sqrt(square_t1 + dtype.type(eps))).astype(x_td.dtype) * norm_d


def rms_norm_vjp(dy_td, y_td, x_td, norm_d, eps):
    """With r = 1 / sqrt(mean(x^2) + eps): dx = r (g dy - r^2 x mean(x g dy)), dg = sum_t dy x r."""
    dtype = np.promote_types(x_td.dtype, np.float32)
    square_t1 = np.mean(np.square(x_td, dtype=dtype), axis=-1, keepdims=True)
    r_t1 = (1 / np.sqrt(square_t1 + dtype.type(eps))).astype(x_td.dtype)
    dn_td = dy_td * norm_d
    along_t1 = np.mean(x_td * dn_td, axis=-1, keepdims=True)
    return r_t1 * (dn_td - r_t1 * r_t1 * along_t1 * x_td), np.sum(dy_td * x_td * r_t1, axis=0)
