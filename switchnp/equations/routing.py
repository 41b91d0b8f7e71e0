"""Which expert?"""

import numpy as np

__all__ = [
    "gate",
    "gate_vjp",
    "router_logits",
    "router_logits_vjp",
    "router_probs",
    "router_probs_vjp",
    "softmax",
    "softmax_vjp",
    "top1",
]


def router_logits(x_td, wr_de, br_e=None):
    """How loudly each token asks for each expert, before the requests are weighed against each other.

        h(x) = W_r x (+ b)

    Source: Switch, eq. 1. The bias is Hugging Face's router_bias; the paper and all released models have none.

    wr_de   router weights W_r
    return  h_te, never below float32 ("selective precision", Switch §2.4)
    """
    dtype = np.promote_types(x_td.dtype, np.float32)
    h_te = np.einsum("td,de->te", x_td, wr_de, dtype=dtype)
    return h_te if br_e is None else h_te + br_e


def router_logits_vjp(dh_te, h_te, x_td, wr_de, br_e=None):
    """dx = dh W^T, dW = x^T dh, db = sum_t dh."""
    dx_td = np.einsum("te,de->td", dh_te, wr_de).astype(x_td.dtype)
    return dx_td, np.einsum("td,te->de", x_td, dh_te), None if br_e is None else dh_te.sum(axis=0)


def softmax(h_te):
    """Scores to shares: positive, with rows that sum to 1. The largest is taken off first, so that none overflows.

        p_i = exp(h_i) / sum_j exp(h_j)

    Source: Switch, eq. 1.
    """
    exp_te = np.exp(h_te - h_te.max(axis=-1, keepdims=True, initial=-np.inf))
    return exp_te / exp_te.sum(axis=-1, keepdims=True)


def softmax_vjp(dp_te, p_te, h_te):
    """dh_i = p_i (dp_i - sum_j p_j dp_j): rows sum to 0, and an expert that was not chosen is heard too."""
    return (p_te * (dp_te - np.sum(p_te * dp_te, axis=-1, keepdims=True)),)


def router_probs(x_td, wr_de, br_e=None):
    """How strongly each token asks for each expert.

        p_i(x) = exp(h_i) / sum_j exp(h_j),    h = W_r x

    Source: Switch, eq. 1.
    """
    return softmax(router_logits(x_td, wr_de, br_e))


def router_probs_vjp(dp_te, p_te, x_td, wr_de, br_e=None):
    """softmax_vjp, then router_logits_vjp."""
    (dh_te,) = softmax_vjp(dp_te, p_te, None)
    return router_logits_vjp(dh_te, None, x_td, wr_de, br_e)


def top1(p_te):
    """The one expert that each token asks for most; the lowest number where two are equal.

        i = argmax_i p_i(x)

    Source: Switch, eq. 2 with k = 1.

    Gradient: none, a choice jumps; the router learns by the gate.
    """
    return p_te.argmax(axis=-1)


def gate(p_te, expert_t):
    """How much of its expert's answer each token takes: the probability itself, not renormalised.

        g = p_i(x)

    Source: Switch, eq. 2.
    """
    return np.take_along_axis(p_te, expert_t[:, None], axis=-1)[:, 0]


def gate_vjp(dgate_t, gate_t, p_te, expert_t):
    """dp_i = dg for the chosen expert, 0 for all others; softmax_vjp then tells the others. This is how top-1 learns."""
    dp_te = np.zeros_like(p_te)
    np.put_along_axis(dp_te, expert_t[:, None], dgate_t.astype(p_te.dtype)[:, None], axis=-1)
    return (dp_te,)
