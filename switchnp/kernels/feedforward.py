"""Dense layers as matrix products, with the activation in one pass between them."""

import math

import numpy as np

from .jit import jit

__all__ = ["ffn", "ffn_vjp", "gated_ffn", "gated_ffn_vjp", "gelu", "gelu_tanh_vjp", "gelu_vjp", "relu", "relu_vjp", "silu_vjp"]


def ffn(x_td, wi_df, wo_fd, activation, keep_tf=None):
    """See equations.ffn. Two GEMMs."""
    return kept(activation(x_td @ wi_df), keep_tf) @ wo_fd


def ffn_vjp(dy_td, y_td, x_td, wi_df, wo_fd, activation, keep_tf=None):
    """See equations.ffn_vjp. Five GEMMs, one of them for what was hidden."""
    u_tf = x_td @ wi_df
    h_tf = activation(u_tf)
    (du_tf,) = SLOPES[activation.__name__](kept(dy_td @ wo_fd.T, keep_tf), h_tf, u_tf)
    return du_tf @ wi_df.T, x_td.T @ du_tf, kept(h_tf, keep_tf).T @ dy_td


def gated_ffn(x_td, wi0_df, wi1_df, wo_fd, activation, keep_tf=None):
    """See equations.gated_ffn. Three GEMMs."""
    h_tf = activation(x_td @ wi0_df)
    h_tf *= x_td @ wi1_df
    return kept(h_tf, keep_tf) @ wo_fd


def gated_ffn_vjp(dy_td, y_td, x_td, wi0_df, wi1_df, wo_fd, activation, keep_tf=None):
    """See equations.gated_ffn_vjp. Eight GEMMs, two of them for what was hidden."""
    u_tf, linear_tf = x_td @ wi0_df, x_td @ wi1_df
    act_tf = activation(u_tf)
    dh_tf = kept(dy_td @ wo_fd.T, keep_tf)
    (du_tf,), dlinear_tf = SLOPES[activation.__name__](dh_tf * linear_tf, act_tf, u_tf), dh_tf * act_tf
    dx_td = du_tf @ wi0_df.T + dlinear_tf @ wi1_df.T
    return dx_td, x_td.T @ du_tf, x_td.T @ dlinear_tf, kept(act_tf * linear_tf, keep_tf).T @ dy_td


def kept(h_tf, keep_tf):
    """What is left of hidden numbers where there is dropout."""
    return h_tf if keep_tf is None else h_tf * keep_tf


@jit()
def relu(x_tf):
    """See equations.relu. One pass."""
    T, F = x_tf.shape
    y_tf = np.empty_like(x_tf)
    for t in range(T):
        for f in range(F):
            y_tf[t, f] = 0 if x_tf[t, f] <= 0 else x_tf[t, f]
    return y_tf


@jit()
def gelu(x_tf):
    """See equations.gelu. NumPy has no erf; the compiler has."""
    T, F = x_tf.shape
    y_tf = np.empty_like(x_tf)
    for t in range(T):
        for f in range(F):
            y_tf[t, f] = x_tf[t, f] / 2 * (1 + math.erf(x_tf[t, f] * math.sqrt(0.5)))
    return y_tf


@jit()
def relu_vjp(dy_tf, y_tf, x_tf):
    """See equations.relu_vjp. One pass."""
    T, F = x_tf.shape
    dx_tf = np.empty_like(dy_tf)
    for t in range(T):
        for f in range(F):
            dx_tf[t, f] = dy_tf[t, f] if x_tf[t, f] > 0 else 0
    return (dx_tf,)


@jit()
def gelu_vjp(dy_tf, y_tf, x_tf):
    """See equations.gelu_vjp. One pass."""
    T, F = x_tf.shape
    dx_tf = np.empty_like(dy_tf)
    for t in range(T):
        for f in range(F):
            x = x_tf[t, f]
            below = (1 + math.erf(x * math.sqrt(0.5))) / 2
            dx_tf[t, f] = dy_tf[t, f] * (below + x * math.exp(-x * x / 2) / math.sqrt(2 * math.pi))
    return (dx_tf,)


@jit()
def gelu_tanh_vjp(dy_tf, y_tf, x_tf):
    """See equations.gelu_tanh_vjp. One pass."""
    T, F = x_tf.shape
    dx_tf = np.empty_like(dy_tf)
    slope = math.sqrt(2 / math.pi)
    for t in range(T):
        for f in range(F):
            x = x_tf[t, f]
            tanh = math.tanh(slope * (x + 0.044715 * x * x * x))
            turn = x * (1 - tanh * tanh) * slope * (1 + 3 * 0.044715 * x * x)
            dx_tf[t, f] = dy_tf[t, f] * (1 + tanh + turn) / 2
    return (dx_tf,)


@jit()
def silu_vjp(dy_tf, y_tf, x_tf):
    """See equations.silu_vjp. One pass."""
    T, F = x_tf.shape
    dx_tf = np.empty_like(dy_tf)
    for t in range(T):
        for f in range(F):
            x = x_tf[t, f]
            s = (1 + math.tanh(x / 2)) / 2
            dx_tf[t, f] = dy_tf[t, f] * s * (1 + x * (1 - s))
    return (dx_tf,)


SLOPES = {"relu": relu_vjp, "gelu": gelu_vjp, "gelu_tanh": gelu_tanh_vjp, "silu": silu_vjp}
"""How each activation goes backwards, by its name."""
