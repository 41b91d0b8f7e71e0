"""Attention as matrix products, those of all sentences side by side, with the softmax in place between them."""

import numpy as np

from .jit import REASSOCIATE, jit

__all__ = [
    "attend",
    "attend_within",
    "attend_within_vjp",
    "attention_weights",
    "merge_heads",
    "merge_heads_vjp",
    "split_heads",
    "split_heads_vjp",
]


def split_heads(x_td, w_dhk):
    """See equations.split_heads. One GEMM for all heads."""
    D, H, K = w_dhk.shape
    return (x_td @ w_dhk.reshape(D, H * K)).reshape(-1, H, K)


def split_heads_vjp(dq_thk, q_thk, x_td, w_dhk):
    """See equations.split_heads_vjp. Two GEMMs for all heads."""
    D, H, K = w_dhk.shape
    dq = dq_thk.reshape(-1, H * K)
    return dq @ w_dhk.reshape(D, H * K).T, (x_td.T @ dq).reshape(D, H, K)


def attention_weights(q_thk, k_shk, bias_hts):
    """See equations.attention_weights. One GEMM a head."""
    score_hts = q_thk.transpose(1, 0, 2) @ k_shk.transpose(1, 2, 0)
    _look(score_hts[None], [bias_hts])
    return score_hts


def attend(look_hts, v_shk):
    """See equations.attend. One GEMM a head."""
    return np.ascontiguousarray((look_hts @ v_shk.transpose(1, 0, 2)).transpose(1, 0, 2))


def attend_within(q_thk, keys, values, biases, keeps=None):
    """See equations.attend_within. Sentences filled up to one length; one GEMM a head and sentence, from one call."""
    lengths = _lengths(biases)
    q_bhtk, k_bhsk, v_bhsk = (_side_by_side(*each) for each in zip((q_thk, keys, values), lengths, strict=True))
    look_bhts = _look(q_bhtk @ k_bhsk.transpose(0, 1, 3, 2), biases)
    _keep(look_bhts, keeps)
    return _end_to_end(look_bhts @ v_bhsk, lengths[0])


def attend_within_vjp(do_thk, o_thk, q_thk, keys, values, biases, keeps=None):
    """See equations.attend_within_vjp. Five GEMMs a head and sentence, from five calls."""
    lengths = _lengths(biases)
    t, s, _ = lengths
    do_bhtk, q_bhtk = _side_by_side(do_thk, t), _side_by_side(q_thk, t)
    k_bhsk, v_bhsk = _side_by_side(keys, s), _side_by_side(values, s)
    look_bhts = _look(q_bhtk @ k_bhsk.transpose(0, 1, 3, 2), biases)
    dlook_bhts = do_bhtk @ v_bhsk.transpose(0, 1, 3, 2)
    _keep(dlook_bhts, keeps)
    kept_bhts = look_bhts if keeps is None else _keep(look_bhts.copy(), keeps)
    dv_shk = _end_to_end(kept_bhts.transpose(0, 1, 3, 2) @ do_bhtk, s)
    _to_scores(dlook_bhts, look_bhts)
    dq_thk = _end_to_end(dlook_bhts @ k_bhsk, t)
    dk_shk = _end_to_end(dlook_bhts.transpose(0, 1, 3, 2) @ q_bhtk, s)
    edges = np.cumsum(s)[:-1]
    dbiases = [_own(dscore_hts, bias_hts) for dscore_hts, bias_hts in zip(dlook_bhts, biases, strict=True)]
    return dq_thk, np.split(dk_shk, edges), np.split(dv_shk, edges), dbiases


def merge_heads(o_thk, wo_hkd):
    """See equations.merge_heads. One GEMM for all heads."""
    H, K, D = wo_hkd.shape
    return o_thk.reshape(-1, H * K) @ wo_hkd.reshape(H * K, D)


def merge_heads_vjp(dy_td, y_td, o_thk, wo_hkd):
    """See equations.merge_heads_vjp. Two GEMMs for all heads."""
    H, K, D = wo_hkd.shape
    do = dy_td @ wo_hkd.reshape(H * K, D).T
    return do.reshape(-1, H, K), (o_thk.reshape(-1, H * K).T @ dy_td).reshape(H, K, D)


def _lengths(biases):
    """How many tokens look in each sentence, and at how many keys and values."""
    t, s = (np.array([bias_hts.shape[axis] for bias_hts in biases]) for axis in (1, 2))
    return t, s, s


def _look(score_bhts, biases):
    """Scores of all sentences to weights, in place."""
    for b, bias_hts in enumerate(biases):
        _below_the_top(score_bhts, b, np.ascontiguousarray(bias_hts))
    np.exp(score_bhts, out=score_bhts)
    _shares(score_bhts)
    return score_bhts


def _keep(look_bhts, keeps):
    for look_hts, keep_hts in zip(look_bhts, keeps or (), strict=False):
        look_hts[:, : keep_hts.shape[1], : keep_hts.shape[2]] *= keep_hts
    return look_bhts


def _own(dscore_hts, bias_hts):
    dbias_hts = dscore_hts[:, : bias_hts.shape[1], : bias_hts.shape[2]]
    repeated = tuple(axis for axis, length in enumerate(bias_hts.shape) if length == 1)
    return dbias_hts.sum(axis=repeated, keepdims=True)


def _side_by_side(x_thk, lengths):
    """A row's sentences, or a list of them, as (B, H, T, K), filled up with zeros."""
    x_thk = np.concatenate(x_thk) if isinstance(x_thk, list) else x_thk
    return _filled(np.ascontiguousarray(x_thk), lengths, int(lengths.max(initial=0)))


@jit()
def _filled(x_thk, lengths, longest):
    _, H, K = x_thk.shape
    x_bhtk = np.zeros((len(lengths), H, longest, K), x_thk.dtype)
    start = 0
    for b in range(len(lengths)):
        for t in range(lengths[b]):
            for h in range(H):
                x_bhtk[b, h, t] = x_thk[start + t, h]
        start += lengths[b]
    return x_bhtk


@jit()
def _end_to_end(x_bhtk, lengths):
    _, H, _, K = x_bhtk.shape
    x_thk = np.empty((lengths.sum(), H, K), x_bhtk.dtype)
    start = 0
    for b in range(len(lengths)):
        for t in range(lengths[b]):
            for h in range(H):
                x_thk[start + t, h] = x_bhtk[b, h, t]
        start += lengths[b]
    return x_thk


@jit(fastmath=REASSOCIATE)
def _below_the_top(score_bhts, b, bias_hts):
    """One sentence's biases added and each row's largest score taken off; behind its end everything is -infinity."""
    _, H, longest_T, longest_S = score_bhts.shape
    _, T, S = bias_hts.shape
    score_hts = score_bhts[b]
    for h in range(H):
        own = min(h, len(bias_hts) - 1)
        for t in range(T):
            top = score_hts.dtype.type(-np.inf)
            for s in range(S):
                score_hts[h, t, s] += bias_hts[own, t, s]
                top = max(top, score_hts[h, t, s])
            for s in range(S):
                score_hts[h, t, s] -= top
            score_hts[h, t, S:longest_S] = -np.inf
        score_hts[h, T:longest_T] = -np.inf


@jit(fastmath=REASSOCIATE)
def _shares(exp_bhts):
    B, H, T, S = exp_bhts.shape
    for b in range(B):
        for h in range(H):
            for t in range(T):
                total = exp_bhts.dtype.type(0)
                for s in range(S):
                    total += exp_bhts[b, h, t, s]
                share = 1 / total if total else total
                for s in range(S):
                    exp_bhts[b, h, t, s] *= share


@jit(fastmath=REASSOCIATE)
def _to_scores(dlook_bhts, look_bhts):
    """Gradients of weights to those of scores, in place."""
    B, H, T, S = look_bhts.shape
    for b in range(B):
        for h in range(H):
            for t in range(T):
                along = look_bhts.dtype.type(0)
                for s in range(S):
                    along += look_bhts[b, h, t, s] * dlook_bhts[b, h, t, s]
                for s in range(S):
                    dlook_bhts[b, h, t, s] = look_bhts[b, h, t, s] * (dlook_bhts[b, h, t, s] - along)
