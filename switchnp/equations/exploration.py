"""Trying other experts than the best, in training: the policies of appendix C."""

import numpy as np

__all__ = [
    "input_dropout",
    "input_dropout_vjp",
    "input_jitter",
    "input_jitter_vjp",
    "logit_jitter",
    "logit_jitter_vjp",
    "sampled_expert",
]


def input_jitter(x_td, eps, rng):
    """The router sees each number a little larger or smaller; on average it sees the truth.

        x U(1 - eps, 1 + eps)

    The experts see x. (In float32 transformers show them the jittered x too: `Routing`'s "leaking jitter".)

    Source: Switch, appendix C; mesh-tf's input_jitter. E11; in the router's precision (§2.4).
    """
    dtype = np.promote_types(x_td.dtype, np.float32)
    return np.multiply(x_td, rng.uniform(1 - eps, 1 + eps, x_td.shape).astype(dtype), dtype=dtype)


def input_jitter_vjp(dy_td, y_td, x_td, eps, rng):
    """dx = dy times the factor that was drawn, which is y / x; 1, its mean, where x is 0 and nobody can tell."""
    factor_td = np.divide(y_td, x_td, out=np.ones_like(y_td), where=x_td != 0)
    return ((dy_td * factor_td).astype(x_td.dtype),)


def logit_jitter(h_te, eps, rng):
    """Noise is added to the logits, where the paper's text multiplies the input. Softmax cancels the 1.

        h + U(1 - eps, 1 + eps)

    Source: Switch, fig. 15 (the pseudo-code; no code of its authors does so).
    """
    return h_te + rng.uniform(1 - eps, 1 + eps, h_te.shape).astype(h_te.dtype)


def logit_jitter_vjp(dy_te, y_te, h_te, eps, rng):
    """dh = dy: what was added is a constant."""
    return (dy_te,)


def input_dropout(x_td, rate, rng):
    """The router does not see some numbers, and sees the others larger; on average it sees the truth.

        x [U(0, 1) < 1 - rate] / (1 - rate)

    Source: Switch, appendix C; mesh-tf's input_dropout.
    """
    seen_td = rng.uniform(0, 1, x_td.shape) < 1 - rate
    dtype = np.promote_types(x_td.dtype, np.float32)
    return np.where(seen_td, np.divide(x_td, dtype.type(1 - rate), dtype=dtype), dtype.type(0))


def input_dropout_vjp(dy_td, y_td, x_td, rate, rng):
    """dx = dy / (1 - rate) where the router saw x, else 0."""
    return (np.where(y_td != 0, dy_td / y_td.dtype.type(1 - rate), 0).astype(x_td.dtype),)


def sampled_expert(h_te, temperature, rng):
    """An expert at random, each as often as its probability says; at a temperature of 0 the best.

        argmax_i (h_i + temperature G_i),    G = -log(-log U(0, 1))

    The temperature scales the noise; p_i exactly at 1.

    Source: Switch, appendix C; mesh-tf's sample policy.

    Gradient: none, a choice jumps; the router learns by the gate.
    """
    draw_te = rng.uniform(np.finfo(np.float32).tiny, 1, h_te.shape)
    return (h_te - temperature * np.log(-np.log(draw_te))).argmax(axis=-1)
