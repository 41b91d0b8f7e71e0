"""The dense layer, which is also what each expert is."""

import math

import numpy as np

__all__ = [
    "ffn",
    "ffn_vjp",
    "gated_ffn",
    "gated_ffn_vjp",
    "gelu",
    "gelu_tanh",
    "gelu_tanh_vjp",
    "gelu_vjp",
    "relu",
    "relu_vjp",
    "silu",
    "silu_vjp",
]

_erf = np.frompyfunc(math.erf, 1, 1)


def relu(x_tf):
    """Keep what is positive.

        max(x, 0)

    Source: Switch, §2.1 (the dense layer is ReLU).
    """
    return np.maximum(x_tf, 0)


def relu_vjp(dy_tf, y_tf, x_tf):
    """dx = dy where x > 0."""
    return (np.where(x_tf > 0, dy_tf, 0),)


def gelu(x_tf):
    """Keep x as likely as a standard normal falls below it.

        x/2 (1 + erf(x / sqrt 2))

    Source: Hendrycks and Gimpel 2016, §2; transformers' "gelu".
    """
    half = x_tf.dtype.type(0.5)
    return half * x_tf * (1 + _erf(x_tf * math.sqrt(0.5)).astype(x_tf.dtype))


def gelu_vjp(dy_tf, y_tf, x_tf):
    """dx = dy (Phi(x) + x phi(x)), with the standard normal's distribution and density."""
    half, peak = x_tf.dtype.type(0.5), x_tf.dtype.type(1 / math.sqrt(2 * math.pi))
    below_tf = half * (1 + _erf(x_tf * math.sqrt(0.5)).astype(x_tf.dtype))
    return (dy_tf * (below_tf + x_tf * peak * np.exp(-half * x_tf * x_tf)),)


def gelu_tanh(x_tf):
    """The same by a hyperbolic tangent, as the original T5 1.1 and Switch-XXL have it.

        x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))

    Source: Hendrycks and Gimpel 2016, §2; transformers' "gelu_new".
    """
    half, slope = x_tf.dtype.type(0.5), x_tf.dtype.type(math.sqrt(2 / math.pi))
    return half * x_tf * (1 + np.tanh(slope * (x_tf + x_tf.dtype.type(0.044715) * x_tf * x_tf * x_tf)))


def gelu_tanh_vjp(dy_tf, y_tf, x_tf):
    """dx = dy ((1 + tanh u)/2 + x/2 (1 - tanh^2 u) u'), u = sqrt(2/pi) (x + 0.044715 x^3)."""
    half, slope, cubic = map(x_tf.dtype.type, (0.5, math.sqrt(2 / math.pi), 0.044715))
    tanh_tf = np.tanh(slope * (x_tf + cubic * x_tf * x_tf * x_tf))
    du_tf = slope * (1 + 3 * cubic * x_tf * x_tf)
    return (dy_tf * half * (1 + tanh_tf + x_tf * (1 - tanh_tf * tanh_tf) * du_tf),)


def silu(x_tf):
    """Keep x as far as its own logistic says.

        x / (1 + exp(-x))

    Source: Hendrycks and Gimpel 2016, §4; transformers' "silu".
    """
    half = x_tf.dtype.type(0.5)
    return x_tf * (half * (1 + np.tanh(half * x_tf)))


def silu_vjp(dy_tf, y_tf, x_tf):
    """dx = dy s (1 + x (1 - s)), s = 1 / (1 + exp(-x))."""
    half = x_tf.dtype.type(0.5)
    s_tf = half * (1 + np.tanh(half * x_tf))
    return (dy_tf * s_tf * (1 + x_tf * (1 - s_tf)),)


def ffn(x_td, wi_df, wo_fd, activation, keep_tf=None):
    """Up to F, through the activation, and back.

        y = act(x W_in) W_out

    Source: Switch, §2.1; dropout behind the activation as in transformers 5.23.

    keep_tf     dropout: 0 and 1 / (1 - rate)
    """
    h_tf = _kept(activation(np.einsum("td,df->tf", x_td, wi_df)), keep_tf)
    return np.einsum("tf,fd->td", h_tf, wo_fd)


def ffn_vjp(dy_td, y_td, x_td, wi_df, wo_fd, activation, keep_tf=None):
    """Back down through W_out, the activation, and W_in; what was hidden is worked out again."""
    u_tf = np.einsum("td,df->tf", x_td, wi_df)
    h_tf = activation(u_tf)
    dh_tf = _kept(np.einsum("td,fd->tf", dy_td, wo_fd), keep_tf)
    (du_tf,) = SLOPES[activation.__name__](dh_tf, h_tf, u_tf)
    dwo_fd = np.einsum("tf,td->fd", _kept(h_tf, keep_tf), dy_td)
    return np.einsum("tf,df->td", du_tf, wi_df), np.einsum("td,tf->df", x_td, du_tf), dwo_fd


def gated_ffn(x_td, wi0_df, wi1_df, wo_fd, activation, keep_tf=None):
    """The same with a linear branch that multiplies the activated one.

        y = (act(x W_0) * (x W_1)) W_out

    Source: Shazeer 2020, eq. 6 (GEGLU); Switch-XXL, flaxformer's ('gelu', 'linear').
    """
    h_tf = activation(np.einsum("td,df->tf", x_td, wi0_df)) * np.einsum("td,df->tf", x_td, wi1_df)
    return np.einsum("tf,fd->td", _kept(h_tf, keep_tf), wo_fd)


def gated_ffn_vjp(dy_td, y_td, x_td, wi0_df, wi1_df, wo_fd, activation, keep_tf=None):
    """The same; each branch hears the gradient times the other."""
    u_tf, linear_tf = np.einsum("td,df->tf", x_td, wi0_df), np.einsum("td,df->tf", x_td, wi1_df)
    act_tf = activation(u_tf)
    dh_tf = _kept(np.einsum("td,fd->tf", dy_td, wo_fd), keep_tf)
    dwo_fd = np.einsum("tf,td->fd", _kept(act_tf * linear_tf, keep_tf), dy_td)
    (du_tf,), dlinear_tf = SLOPES[activation.__name__](dh_tf * linear_tf, act_tf, u_tf), dh_tf * act_tf
    dx_td = np.einsum("tf,df->td", du_tf, wi0_df) + np.einsum("tf,df->td", dlinear_tf, wi1_df)
    return dx_td, np.einsum("td,tf->df", x_td, du_tf), np.einsum("td,tf->df", x_td, dlinear_tf), dwo_fd


def _kept(h_tf, keep_tf):
    return h_tf if keep_tf is None else h_tf * keep_tf


SLOPES = {"relu": relu_vjp, "gelu": gelu_vjp, "gelu_tanh": gelu_tanh_vjp, "silu": silu_vjp}
"""How each activation goes backwards, by its name."""
