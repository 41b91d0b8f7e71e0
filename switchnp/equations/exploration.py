"""Trying other experts than the best, in training: the policies of appendix C."""

import numpy as np

__all__ = ["input_dropout", "input_jitter", "logit_jitter", "sampled_expert"]


def input_jitter(x_td, eps, rng):
    """The router sees each number a little larger or smaller; on average it sees the truth.

        x U(1 - eps, 1 + eps)

    The experts see x. (In float32 transformers show them the jittered x too: `Routing`'s "leaking jitter".)

    Source: Switch, appendix C; mesh-tf's input_jitter. E11; in the router's precision (§2.4).
    """
    dtype = np.promote_types(x_td.dtype, np.float32)
    return np.multiply(x_td, rng.uniform(1 - eps, 1 + eps, x_td.shape).astype(dtype), dtype=dtype)


def logit_jitter(h_te, eps, rng):
    """Noise is added to the logits, where the paper's text multiplies the input. Softmax cancels the 1.

        h + U(1 - eps, 1 + eps)

    Source: Switch, fig. 15 (the pseudo-code; no code of its authors does so).
    """
    return h_te + rng.uniform(1 - eps, 1 + eps, h_te.shape).astype(h_te.dtype)


def input_dropout(x_td, rate, rng):
    """The router does not see some numbers, and sees the others larger; on average it sees the truth.

        x [U(0, 1) < 1 - rate] / (1 - rate)

    Source: Switch, appendix C; mesh-tf's input_dropout.
    """
    seen_td = rng.uniform(0, 1, x_td.shape) < 1 - rate
    dtype = np.promote_types(x_td.dtype, np.float32)
    return np.where(seen_td, np.divide(x_td, dtype.type(1 - rate), dtype=dtype), dtype.type(0))


def sampled_expert(h_te, temperature, rng):
    """An expert at random, each as often as its probability says; at a temperature of 0 the best.

        argmax_i (h_i + temperature G_i),    G = -log(-log U(0, 1))

    The temperature scales the noise; p_i exactly at 1.

    Source: Switch, appendix C; mesh-tf's sample policy.
    """
    draw_te = rng.uniform(np.finfo(np.float32).tiny, 1, h_te.shape)
    return (h_te - temperature * np.log(-np.log(draw_te))).argmax(axis=-1)
