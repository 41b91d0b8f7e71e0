"""Every token looks at every other token of its sentence."""

import numpy as np

from .position import unbroadcast
from .routing import softmax, softmax_vjp

__all__ = [
    "attend",
    "attend_vjp",
    "attend_within",
    "attend_within_vjp",
    "attention_weights",
    "attention_weights_vjp",
    "merge_heads",
    "merge_heads_vjp",
    "split_heads",
    "split_heads_vjp",
]


def split_heads(x_td, w_dhk):
    """One projection into H heads of width K: queries, keys and values are all made so.

        q_h = x W_h

    Source: Vaswani et al. 2017, §3.2.2; H K need not be D.
    """
    return np.einsum("td,dhk->thk", x_td, w_dhk)


def split_heads_vjp(dq_thk, q_thk, x_td, w_dhk):
    """dx = dq W^T, dW = x^T dq."""
    return np.einsum("thk,dhk->td", dq_thk, w_dhk), np.einsum("td,thk->dhk", x_td, dq_thk)


def attention_weights(q_thk, k_shk, bias_hts):
    """How much of its attention each head of token t gives to each token s.

        a = softmax(q k^T + b)

    Rows sum to 1. T5 does not divide by sqrt(K); that factor is part of the first values of W_q.

    Source: transformers 5.23 (scaling 1.0).
    """
    return softmax(np.einsum("thk,shk->hts", q_thk, k_shk) + bias_hts)


def attention_weights_vjp(dlook_hts, look_hts, q_thk, k_shk, bias_hts):
    """Through the softmax to the scores; then dq = ds k, dk = ds^T q, db = ds."""
    (dscore_hts,) = softmax_vjp(dlook_hts, look_hts, None)
    dq_thk = np.einsum("hts,shk->thk", dscore_hts, k_shk)
    dk_shk = np.einsum("hts,thk->shk", dscore_hts, q_thk)
    return dq_thk, dk_shk, unbroadcast(dscore_hts, bias_hts)


def attend(look_hts, v_shk):
    """What each head brings home: the values it looked at, in proportion.

        o_h = a v

    Source: Vaswani et al. 2017, eq. 1.
    """
    return np.einsum("hts,shk->thk", look_hts, v_shk)


def attend_vjp(do_thk, o_thk, look_hts, v_shk):
    """da = do v^T, dv = a^T do."""
    return np.einsum("thk,shk->hts", do_thk, v_shk), np.einsum("hts,thk->shk", look_hts, do_thk)


def attend_within(q_thk, k_shk, v_shk, biases, keeps=None):
    """Sentences that lie end to end in one row do not see each other: each attends over its own keys and values alone.

        o = (softmax(q k^T + b) keep) v    for one sentence after the other

    Source: T5 (Raffel et al. 2020), §2.1 and packing; the dropout is that of transformers 5.23.

    biases      a sentence's (H, T, S) or (1, T, S) each: so many of the row's tokens are its own
    keeps       dropout: a sentence's (H, T, S) each, of 0 and 1 / (1 - rate)
    """
    sentences = zip(_apart(q_thk, biases, 1), _apart(k_shk, biases, 2), biases, strict=True)
    looks = [attention_weights(*sentence) for sentence in sentences]
    if keeps is not None:
        looks = [look_hts * keep_hts for look_hts, keep_hts in zip(looks, keeps, strict=True)]
    values = _apart(v_shk, biases, 2)
    return np.concatenate([attend(look_hts, v_shk) for look_hts, v_shk in zip(looks, values, strict=True)])


def attend_within_vjp(do_thk, o_thk, q_thk, k_shk, v_shk, biases, keeps=None):
    """attend_vjp and attention_weights_vjp for one sentence after the other; what a softmax said is worked out again."""
    keeps = [1] * len(biases) if keeps is None else keeps
    own = [_apart(x_thk, biases, axis) for x_thk, axis in ((do_thk, 1), (q_thk, 1), (k_shk, 2), (v_shk, 2))]
    mirrored = (_attended_vjp(*sentence) for sentence in zip(*own, biases, keeps, strict=True))
    dqueries, dkeys, dvalues, dbiases = zip(*mirrored, strict=True)
    return np.concatenate(dqueries), np.concatenate(dkeys), np.concatenate(dvalues), list(dbiases)


def _apart(x_thk, biases, axis):
    """A row, a sentence at a time."""
    return np.split(x_thk, np.cumsum([bias_hts.shape[axis] for bias_hts in biases])[:-1])


def _attended_vjp(do_thk, q_thk, k_shk, v_shk, bias_hts, keep_hts):
    look_hts = attention_weights(q_thk, k_shk, bias_hts)
    dkept_hts, dv_shk = attend_vjp(do_thk, None, look_hts * keep_hts, v_shk)
    dq_thk, dk_shk, dbias_hts = attention_weights_vjp(dkept_hts * keep_hts, look_hts, q_thk, k_shk, bias_hts)
    return dq_thk, dk_shk, dv_shk, dbias_hts


def merge_heads(o_thk, wo_hkd):
    """All heads back into one vector.

        y = concat_h(o_h) W_o

    Source: Vaswani et al. 2017, §3.2.2.
    """
    return np.einsum("thk,hkd->td", o_thk, wo_hkd)


def merge_heads_vjp(dy_td, y_td, o_thk, wo_hkd):
    """do = dy W^T, dW = o^T dy."""
    return np.einsum("td,hkd->thk", dy_td, wo_hkd), np.einsum("thk,td->hkd", o_thk, dy_td)
