"""Attention as matrix products, with the softmax in place between them."""

import numpy as np

from .jit import REASSOCIATE, jit

__all__ = ["attend", "attention_weights", "merge_heads", "split_heads"]


def split_heads(x_td, w_dhk):
    """See equations.split_heads. One GEMM for all heads."""
    D, H, K = w_dhk.shape
    return (x_td @ w_dhk.reshape(D, H * K)).reshape(-1, H, K)


def attention_weights(q_thk, k_shk, bias_hts):
    """See equations.attention_weights. One GEMM a head."""
    score_hts = q_thk.transpose(1, 0, 2) @ k_shk.transpose(1, 2, 0)
    _biased_softmax(score_hts, np.broadcast_to(bias_hts, score_hts.shape))
    return score_hts


def attend(look_hts, v_shk):
    """See equations.attend. One GEMM a head."""
    return np.ascontiguousarray((look_hts @ v_shk.transpose(1, 0, 2)).transpose(1, 0, 2))


def merge_heads(o_thk, wo_hkd):
    """See equations.merge_heads. One GEMM for all heads."""
    H, K, D = wo_hkd.shape
    return o_thk.reshape(-1, H * K) @ wo_hkd.reshape(H * K, D)


@jit(fastmath=REASSOCIATE)
def _biased_softmax(score_hts, bias_hts):
    H, T, S = score_hts.shape
    for h in range(H):
        for t in range(T):
            row_s = score_hts[h, t]
            top = row_s[0] + bias_hts[h, t, 0] if S else row_s.dtype.type(0)
            for s in range(S):
                row_s[s] += bias_hts[h, t, s]
                top = max(top, row_s[s])
            total = row_s.dtype.type(0)
            for s in range(S):
                row_s[s] = np.exp(row_s[s] - top)
                total += row_s[s]
            for s in range(S):
                row_s[s] /= total
