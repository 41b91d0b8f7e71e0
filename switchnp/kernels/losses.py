"""Losses over the vocabulary, a few words at a time, so that what is on the way stays in the cache."""

import numpy as np

from .jit import jit

__all__ = [
    "cross_entropy",
    "cross_entropy_vjp",
    "load_balances",
    "load_balances_vjp",
    "logit_z",
    "logit_z_vjp",
    "smoothed_cross_entropy",
    "smoothed_cross_entropy_vjp",
]

_CACHED = 1 << 16
"""How many logits are at hand at once."""


def cross_entropy(logits_tv, target_t):
    """See equations.cross_entropy. One pass over the logits."""
    words = np.flatnonzero(target_t >= 0)
    return np.mean(_levels(logits_tv, words) - logits_tv[words, target_t[words]])


def cross_entropy_vjp(dloss, loss, logits_tv, target_t):
    """See equations.cross_entropy_vjp. Two passes over the logits."""
    return smoothed_cross_entropy_vjp(dloss, loss, logits_tv, target_t, 0.0)


def smoothed_cross_entropy(logits_tv, target_t, smoothing):
    """See equations.smoothed_cross_entropy. Two passes over the logits."""
    if not smoothing:
        return cross_entropy(logits_tv, target_t)
    words = np.flatnonzero(target_t >= 0)
    chosen_t, mean_t = logits_tv[words, target_t[words]], logits_tv[words].mean(axis=1)
    return np.mean(_levels(logits_tv, words) - ((1 - smoothing) * chosen_t + smoothing * mean_t))


def smoothed_cross_entropy_vjp(dloss, loss, logits_tv, target_t, smoothing):
    """See equations.smoothed_cross_entropy_vjp. Two passes over the logits."""
    words = np.flatnonzero(target_t >= 0)
    scale = logits_tv.dtype.type(dloss / len(words))
    dlogits_tv = _scaled_probs(logits_tv, words, np.full(len(words), scale))
    if smoothing:
        dlogits_tv[words] -= logits_tv.dtype.type(scale * smoothing / logits_tv.shape[1])
    dlogits_tv[words, target_t[words]] -= logits_tv.dtype.type(scale * (1 - smoothing))
    return (dlogits_tv,)


@jit()
def load_balances(p_te, expert_t, group_t, G):
    """See equations.load_balances. One pass over the tokens."""
    E = p_te.shape[1]
    asked_ge, total_ge, size_g = _sums(p_te, expert_t, group_t, G)
    loss_g = np.zeros(G, p_te.dtype)
    for g in range(G):
        for e in range(E):
            loss_g[g] += p_te.dtype.type(asked_ge[g, e] / size_g[g]) * (total_ge[g, e] / p_te.dtype.type(size_g[g]))
        loss_g[g] *= p_te.dtype.type(E)
    return loss_g


@jit()
def load_balances_vjp(dloss_g, loss_g, p_te, expert_t, group_t, G):
    """See equations.load_balances_vjp. Two passes over the tokens."""
    T, E = p_te.shape
    asked_ge, _, size_g = _sums(p_te, expert_t, group_t, G)
    dp_te = np.zeros_like(p_te)
    for t in range(T):
        g = group_t[t]
        for e in range(E if g >= 0 else 0):
            dp_te[t, e] = dloss_g[g] * E * asked_ge[g, e] / size_g[g] / size_g[g]
    return (dp_te,)


@jit()
def _sums(p_te, expert_t, group_t, G):
    """How often each expert is asked in each group, its probabilities, and how many tokens there are."""
    T, E = p_te.shape
    asked_ge, total_ge, size_g = np.zeros((G, E), np.int64), np.zeros((G, E), p_te.dtype), np.zeros(G, np.int64)
    for t in range(T):
        g = group_t[t]
        if g >= 0:
            size_g[g] += 1
            asked_ge[g, expert_t[t]] += 1
            for e in range(E):
                total_ge[g, e] += p_te[t, e]
    return asked_ge, total_ge, size_g


def logit_z(logits_tv, target_t):
    """See equations.logit_z. One pass over the logits."""
    return np.mean(np.square(_levels(logits_tv, np.flatnonzero(target_t >= 0))))


def logit_z_vjp(dloss, loss, logits_tv, target_t):
    """See equations.logit_z_vjp. Two passes over the logits."""
    words = np.flatnonzero(target_t >= 0)
    level_t = _levels(logits_tv, words)
    return (_scaled_probs(logits_tv, words, level_t * logits_tv.dtype.type(2 * dloss / len(words))),)


def _levels(logits_tv, words):
    """log sum exp of these rows."""
    level_t = np.empty(len(words), logits_tv.dtype)
    for part in _parts(words, logits_tv):
        exp_tv = logits_tv[words[part]]
        top_t = exp_tv.max(axis=1)
        exp_tv -= top_t[:, None]
        np.exp(exp_tv, out=exp_tv)
        level_t[part] = top_t + np.log(exp_tv.sum(axis=1))
    return level_t


def _scaled_probs(logits_tv, words, scale_t):
    """softmax of these rows times their scales, and 0 in the others."""
    scaled_tv = np.zeros_like(logits_tv) if len(words) < len(logits_tv) else np.empty_like(logits_tv)
    for part in _parts(words, logits_tv):
        exp_tv = logits_tv[words[part]]
        exp_tv -= exp_tv.max(axis=1, keepdims=True)
        np.exp(exp_tv, out=exp_tv)
        exp_tv *= (scale_t[part] / exp_tv.sum(axis=1))[:, None]
        scaled_tv[words[part]] = exp_tv
    return scaled_tv


def _parts(words, logits_tv):
    step = max(1, _CACHED // logits_tv.shape[1])
    return [slice(start, start + step) for start in range(0, len(words), step)]
