"""Every token looks at every other token of its sentence."""

import numpy as np

from .routing import softmax

__all__ = ["attend", "attention_weights", "merge_heads", "split_heads"]


def split_heads(x_td, w_dhk):
    """One projection into H heads of width K: queries, keys and values are all made so.

        q_h = x W_h

    Source: Vaswani et al. 2017, §3.2.2; H K need not be D.
    """
    return np.einsum("td,dhk->thk", x_td, w_dhk)


def attention_weights(q_thk, k_shk, bias_hts):
    """How much of its attention each head of token t gives to each token s.

        a = softmax(q k^T + b)

    Rows sum to 1. T5 does not divide by sqrt(K); that factor is part of the first values of W_q.

    Source: transformers 5.23 (scaling 1.0).
    """
    return softmax(np.einsum("thk,shk->hts", q_thk, k_shk) + bias_hts)


def attend(look_hts, v_shk):
    """What each head brings home: the values it looked at, in proportion.

        o_h = a v

    Source: Vaswani et al. 2017, eq. 1.
    """
    return np.einsum("hts,shk->thk", look_hts, v_shk)


def merge_heads(o_thk, wo_hkd):
    """All heads back into one vector.

        y = concat_h(o_h) W_o

    Source: Vaswani et al. 2017, §3.2.2.
    """
    return np.einsum("thk,hkd->td", o_thk, wo_hkd)
