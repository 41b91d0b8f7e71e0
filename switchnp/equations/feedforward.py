"""The dense layer, which is also what each expert is."""

import math

import numpy as np

__all__ = ["ffn", "gated_ffn", "gelu", "gelu_tanh", "relu", "silu"]

_erf = np.frompyfunc(math.erf, 1, 1)


def relu(x_tf):
    """Keep what is positive.

        max(x, 0)

    Source: Switch, §2.1 (the dense layer is ReLU).
    """
    return np.maximum(x_tf, 0)


def gelu(x_tf):
    """Keep x as likely as a standard normal falls below it.

        x/2 (1 + erf(x / sqrt 2))

    Source: Hendrycks and Gimpel 2016, §2; transformers' "gelu".
    """
    half = x_tf.dtype.type(0.5)
    return half * x_tf * (1 + _erf(x_tf * math.sqrt(0.5)).astype(x_tf.dtype))


def gelu_tanh(x_tf):
    """The same by a hyperbolic tangent, as the original T5 1.1 and Switch-XXL have it.

        x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))

    Source: Hendrycks and Gimpel 2016, §2; transformers' "gelu_new".
    """
    half, slope = x_tf.dtype.type(0.5), x_tf.dtype.type(math.sqrt(2 / math.pi))
    return half * x_tf * (1 + np.tanh(slope * (x_tf + x_tf.dtype.type(0.044715) * x_tf * x_tf * x_tf)))


def silu(x_tf):
    """Keep x as far as its own logistic says.

        x / (1 + exp(-x))

    Source: Hendrycks and Gimpel 2016, §4; transformers' "silu".
    """
    half = x_tf.dtype.type(0.5)
    return x_tf * (half * (1 + np.tanh(half * x_tf)))


def ffn(x_td, wi_df, wo_fd, activation):
    """Up to F, through the activation, and back.

        y = act(x W_in) W_out

    Source: Switch, §2.1.
    """
    h_tf = activation(np.einsum("td,df->tf", x_td, wi_df))
    return np.einsum("tf,fd->td", h_tf, wo_fd)


def gated_ffn(x_td, wi0_df, wi1_df, wo_fd, activation):
    """The same with a linear branch that multiplies the activated one.

        y = (act(x W_0) * (x W_1)) W_out

    Source: Shazeer 2020, eq. 6 (GEGLU); Switch-XXL, flaxformer's ('gelu', 'linear').
    """
    h_tf = activation(np.einsum("td,df->tf", x_td, wi0_df)) * np.einsum("td,df->tf", x_td, wi1_df)
    return np.einsum("tf,fd->td", h_tf, wo_fd)
