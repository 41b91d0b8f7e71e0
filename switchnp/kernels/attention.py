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
    return _look(score_hts[None], *_distinct([bias_hts]))[0]


def attend(look_hts, v_shk):
    """See equations.attend. One GEMM a head."""
    return np.ascontiguousarray((look_hts @ v_shk.transpose(1, 0, 2)).transpose(1, 0, 2))


def attend_within(q_thk, k_shk, v_shk, biases, keeps=None):
    """See equations.attend_within. Sentences of about one length side by side; one GEMM a head and sentence, from one call."""
    o_thk = np.empty_like(q_thk)
    for own, own_t, own_s in _shelves(biases):
        rows = q_thk[own_t], k_shk[own_s], v_shk[own_s]
        o_thk[own_t] = _attended(*rows, [biases[b] for b in own], keeps and [keeps[b] for b in own])
    return o_thk


def attend_within_vjp(do_thk, o_thk, q_thk, k_shk, v_shk, biases, keeps=None):
    """See equations.attend_within_vjp. Five GEMMs a head and sentence, from five calls."""
    dq_thk, dk_shk, dv_shk, dbiases = np.empty_like(q_thk), np.empty_like(k_shk), np.empty_like(v_shk), [None] * len(biases)
    for own, own_t, own_s in _shelves(biases):
        rows = do_thk[own_t], q_thk[own_t], k_shk[own_s], v_shk[own_s]
        mirrored = _attended_vjp(*rows, [biases[b] for b in own], keeps and [keeps[b] for b in own])
        dq_thk[own_t], dk_shk[own_s], dv_shk[own_s], own_dbiases = mirrored
        for b, dbias_hts in zip(own, own_dbiases, strict=True):
            dbiases[b] = dbias_hts
    return dq_thk, dk_shk, dv_shk, dbiases


def _attended(q_thk, k_shk, v_shk, biases, keeps):
    bias_bhts, own_b, t, s = _distinct(biases)
    q_bhtk, k_bhsk, v_bhsk = _side_by_side(q_thk, t), _side_by_side(k_shk, s), _side_by_side(v_shk, s)
    look_bhts = _look(q_bhtk @ k_bhsk.transpose(0, 1, 3, 2), bias_bhts, own_b, t, s)
    return _end_to_end(_keep(look_bhts, keeps) @ v_bhsk, t)


def _attended_vjp(do_thk, q_thk, k_shk, v_shk, biases, keeps):
    bias_bhts, own_b, t, s = _distinct(biases)
    do_bhtk, q_bhtk, k_bhsk, v_bhsk = (_side_by_side(*each) for each in ((do_thk, t), (q_thk, t), (k_shk, s), (v_shk, s)))
    look_bhts = _look(q_bhtk @ k_bhsk.transpose(0, 1, 3, 2), bias_bhts, own_b, t, s)
    dscore_bhts = _keep(do_bhtk @ v_bhsk.transpose(0, 1, 3, 2), keeps)
    kept_bhts = look_bhts if keeps is None else _keep(look_bhts.copy(), keeps)
    dv_shk = _end_to_end(kept_bhts.transpose(0, 1, 3, 2) @ do_bhtk, s)
    _to_scores(dscore_bhts, look_bhts)
    dq_thk = _end_to_end(dscore_bhts @ k_bhsk, t)
    dk_shk = _end_to_end(dscore_bhts.transpose(0, 1, 3, 2) @ q_bhtk, s)
    if bias_bhts.shape[1] == 1:
        dscore_bhts = dscore_bhts.sum(axis=1, keepdims=True)
    return dq_thk, dk_shk, dv_shk, [dscore_bhts[b, :, : t[b], : s[b]] for b in range(len(t))]


def _shelves(biases):
    """Sentences whose T x S are within a factor of two of each other: their numbers, and their places in either row."""
    t, s = (np.array([bias_hts.shape[axis] for bias_hts in biases]) for axis in (1, 2))
    room_b = np.log2(np.maximum(t * s, 1)).astype(np.int64)
    if len({*room_b.tolist()}) <= 1:
        return [(range(len(biases)), slice(None), slice(None))]
    shelves = [np.flatnonzero(room_b == room) for room in np.unique(room_b)]
    return [(own, _places(own, t), _places(own, s)) for own in shelves]


def _places(own, lengths):
    """Where the tokens of these sentences lie in the row."""
    starts = np.cumsum(lengths) - lengths
    own_starts = np.cumsum(lengths[own]) - lengths[own]
    return np.arange(lengths[own].sum()) + np.repeat(starts[own] - own_starts, lengths[own])


def merge_heads(o_thk, wo_hkd):
    """See equations.merge_heads. One GEMM for all heads."""
    H, K, D = wo_hkd.shape
    return o_thk.reshape(-1, H * K) @ wo_hkd.reshape(H * K, D)


def merge_heads_vjp(dy_td, y_td, o_thk, wo_hkd):
    """See equations.merge_heads_vjp. Two GEMMs for all heads."""
    H, K, D = wo_hkd.shape
    do = dy_td @ wo_hkd.reshape(H * K, D).T
    return do.reshape(-1, H, K), (o_thk.reshape(-1, H * K).T @ dy_td).reshape(H, K, D)


def _distinct(biases):
    """The biases that there are, filled up to one size, whose each sentence's is, and how long each is either way."""
    t, s = (np.array([bias_hts.shape[axis] for bias_hts in biases]) for axis in (1, 2))
    first = {id(bias_hts): bias_hts for bias_hts in biases}
    number = {name: n for n, name in enumerate(first)}
    bias_bhts = np.zeros((len(first), len(biases[0]), t.max(initial=0), s.max(initial=0)), biases[0].dtype)
    for n, bias_hts in enumerate(first.values()):
        bias_bhts[n, :, : bias_hts.shape[1], : bias_hts.shape[2]] = bias_hts
    return bias_bhts, np.array([number[id(bias_hts)] for bias_hts in biases]), t, s


def _look(score_bhts, bias_bhts, own_b, t, s):
    """Scores of all sentences to weights, in place."""
    _below_the_top(score_bhts, bias_bhts, own_b, t, s)
    np.exp(score_bhts, out=score_bhts)
    _shares(score_bhts)
    return score_bhts


def _keep(look_bhts, keeps):
    """Weights of all sentences after dropout, in place."""
    for look_hts, keep_hts in zip(look_bhts, keeps or (), strict=False):
        look_hts[:, : keep_hts.shape[1], : keep_hts.shape[2]] *= keep_hts
    return look_bhts


def _side_by_side(x_thk, lengths):
    """A row's sentences as (B, H, T, K), filled up with zeros."""
    return _filled(np.ascontiguousarray(x_thk), lengths, int(lengths.max(initial=0)))


@jit()
def _filled(x_thk, lengths, longest):
    _, H, K = x_thk.shape
    x_bhtk = np.zeros((len(lengths), H, longest, K), x_thk.dtype)
    start = 0
    for b in range(len(lengths)):
        for h in range(H):
            for t in range(lengths[b]):
                for k in range(K):
                    x_bhtk[b, h, t, k] = x_thk[start + t, h, k]
        start += lengths[b]
    return x_bhtk


@jit()
def _end_to_end(x_bhtk, lengths):
    _, H, _, K = x_bhtk.shape
    x_thk = np.empty((lengths.sum(), H, K), x_bhtk.dtype)
    start = 0
    for b in range(len(lengths)):
        for h in range(H):
            for t in range(lengths[b]):
                for k in range(K):
                    x_thk[start + t, h, k] = x_bhtk[b, h, t, k]
        start += lengths[b]
    return x_thk


@jit(fastmath=REASSOCIATE)
def _below_the_top(score_bhts, bias_bhts, own_b, t, s):
    """Biases added and each row's largest score taken off; behind a sentence's end everything is -infinity."""
    B, H, longest_T, longest_S = score_bhts.shape
    for b in range(B):
        for h in range(H):
            bias_ts = bias_bhts[own_b[b], min(h, bias_bhts.shape[1] - 1)]
            for i in range(t[b]):
                score_s, bias_s, S = score_bhts[b, h, i], bias_ts[i], s[b]
                top = score_bhts.dtype.type(-np.inf)
                for j in range(S):
                    score_s[j] += bias_s[j]
                    top = max(top, score_s[j])
                for j in range(S):
                    score_s[j] -= top
                score_s[S:longest_S] = -np.inf
            score_bhts[b, h, t[b] : longest_T] = -np.inf


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
