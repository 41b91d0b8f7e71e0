"""What to make small."""

import numpy as np

__all__ = [
    "cross_entropy",
    "cross_entropy_vjp",
    "expert_share",
    "load_balance",
    "load_balance_vjp",
    "load_balances",
    "load_balances_vjp",
    "log_softmax",
    "log_softmax_vjp",
    "logit_z",
    "logit_z_vjp",
    "mean_probs",
    "mean_probs_vjp",
    "router_z",
    "router_z_vjp",
    "smoothed_cross_entropy",
    "smoothed_cross_entropy_vjp",
]


def cross_entropy(logits_tv, target_t):
    """How surprised the model is by the words that did come, in nats per word.

        -mean_t log softmax(logits_t)[target_t]

    Source: T5 (Raffel et al. 2020), §2.1; transformers 5.23.

    target_t    -100 where there is nothing to predict; at least one must be a word
    """
    words_t = target_t >= 0
    logits_tv, target_t = logits_tv[words_t], target_t[words_t]
    chosen_t = np.take_along_axis(logits_tv, target_t[:, None], axis=-1)[:, 0]
    return np.mean(_logsumexp(logits_tv) - chosen_t)


def cross_entropy_vjp(dloss, loss, logits_tv, target_t):
    """dlogits = (softmax - 1 at the word that came) / words; 0 where there is nothing to predict."""
    return smoothed_cross_entropy_vjp(dloss, loss, logits_tv, target_t, 0.0)


def smoothed_cross_entropy(logits_tv, target_t, smoothing):
    """The same where the model is never to be certain: a share of each target is spread over all words alike.

        (1 - s) (-log p_target) + s mean_v (-log p_v),    their mean over t

    Source: Szegedy et al. 2016, §7 (label smoothing); not part of T5 or Switch, and 0 by default in training.
    """
    words_t = target_t >= 0
    logits_tv, target_t = logits_tv[words_t], target_t[words_t]
    chosen_t = np.take_along_axis(logits_tv, target_t[:, None], axis=-1)[:, 0]
    mixed_t = (1 - smoothing) * chosen_t + smoothing * logits_tv.mean(axis=-1)
    return np.mean(_logsumexp(logits_tv) - mixed_t)


def smoothed_cross_entropy_vjp(dloss, loss, logits_tv, target_t, smoothing):
    """dlogits = (softmax - (1 - s) at the word that came - s / V) / words."""
    words = np.flatnonzero(target_t >= 0)
    dlogits_tv, scale = np.zeros_like(logits_tv), logits_tv.dtype.type(dloss / len(words))
    p_tv = np.exp(log_softmax(logits_tv[words]))
    p_tv -= smoothing / logits_tv.shape[1]
    p_tv[np.arange(len(words)), target_t[words]] -= 1 - smoothing
    dlogits_tv[words] = p_tv * scale
    return (dlogits_tv,)


def log_softmax(logits_tv):
    """How likely each word is, as a logarithm: softmax without the way over small numbers.

        log p_v = logit_v - log sum_u exp logit_u

    Source: Switch, eq. 1, its logarithm.
    """
    return logits_tv - _logsumexp(logits_tv)[:, None]


def log_softmax_vjp(dlogp_tv, logp_tv, logits_tv):
    """dlogit_v = dlogp_v - p_v sum_u dlogp_u."""
    return (dlogp_tv - np.exp(logp_tv) * dlogp_tv.sum(axis=-1, keepdims=True),)


def expert_share(expert_t, E, dtype=np.float64):
    """The share of the tokens that ask for each expert, dropped ones included.

        f_i = 1/T sum_x [argmax p(x) = i]

    Source: Switch, eq. 5.

    Gradient: none, it counts choices.
    """
    return np.mean(expert_t[:, None] == np.arange(E), axis=0, dtype=dtype)


def mean_probs(p_te):
    """The share of the probability that each expert is given.

        P_i = 1/T sum_x p_i(x)

    Source: Switch, eq. 6.
    """
    return np.mean(p_te, axis=0)


def mean_probs_vjp(dmean_e, mean_e, p_te):
    """dp_te = dP_e / T, the same for every token."""
    return (np.broadcast_to(dmean_e / len(p_te), p_te.shape).astype(p_te.dtype),)


def load_balance(p_te, expert_t):
    """The auxiliary loss before its α: 1 where experts are asked alike, up to E where all tokens insist on one.

        loss = N sum_i f_i P_i

    1 is not its minimum, though the paper says so: f counts the winners of the same p, but is not P. Where three tokens barely
    prefer expert 1 and a fourth is certain of expert 2, f = (3/4, 1/4), P = (3/8, 5/8), and the loss is 7/8; among many
    experts it falls towards 4 / (N + 2), with half of them dead. Only P carries a gradient.

    Source: Switch, eq. 4.
    """
    E = p_te.shape[1]
    return E * np.dot(expert_share(expert_t, E, p_te.dtype), mean_probs(p_te))


def load_balance_vjp(dloss, loss, p_te, expert_t):
    """dp_te = N f_e / T: what is asked too often is made less likely, for every token alike."""
    share_e = expert_share(expert_t, p_te.shape[1], p_te.dtype)
    return mean_probs_vjp(p_te.dtype.type(dloss * p_te.shape[1]) * share_e, None, p_te)


def load_balances(p_te, expert_t, group_t, G):
    """The same for each group of tokens by itself, as if there were no other; eq. 4 is the case of one group.

        loss_g = N sum_i f_gi P_gi

    Their mean is not the loss of all tokens together: what is unbalanced here may be made up for there.

    Source: Switch, fig. 14 (a core is a group); flaxformer's and transformers' losses.

    group_t     which group a token is of, -1 for none; each group has one at least
    return      loss_g
    """
    share_ge, mean_ge = _within(p_te, expert_t, group_t, G)
    return p_te.shape[1] * np.sum(share_ge * mean_ge, axis=-1)


def load_balances_vjp(dloss_g, loss_g, p_te, expert_t, group_t, G):
    """dp_te = dloss_g N f_ge / T_g for the tokens of each group."""
    share_ge, _ = _within(p_te, expert_t, group_t, G)
    size_g = np.bincount(group_t[group_t >= 0], minlength=G)
    push_ge = (dloss_g * p_te.shape[1] / size_g)[:, None] * share_ge
    return (np.where(group_t[:, None] >= 0, push_ge[group_t], 0).astype(p_te.dtype),)


def _within(p_te, expert_t, group_t, G):
    """f and P of each group."""
    asks_te = (expert_t[:, None] == np.arange(p_te.shape[1])).astype(p_te.dtype)
    in_tg = (group_t[:, None] == np.arange(G)).astype(p_te.dtype)
    size_g1 = in_tg.sum(axis=0)[:, None]
    return in_tg.T @ asks_te / size_g1, in_tg.T @ p_te / size_g1


def router_z(h_te):
    """The router z-loss before its coefficient: keeps the logits small.

        z = 1/T sum_t (log sum_j exp h_tj)^2

    Source: ST-MoE (Zoph et al. 2022), eq. 5; not part of the Switch paper.
    """
    return np.mean(np.square(_logsumexp(h_te)))


def router_z_vjp(dloss, loss, h_te):
    """dh = 2/T (log sum_j exp h_j) softmax(h)."""
    level_t1 = _logsumexp(h_te)[:, None]
    return (np.exp(h_te - level_t1) * level_t1 * h_te.dtype.type(2 * dloss / len(h_te)),)


def logit_z(logits_tv, target_t):
    """The same for the logits of words: keeps the head's numbers small.

        z = mean_t (log sum_v exp logits_tv)^2

    Source: T5X's z_loss (1e-4 in all Switch configurations); not part of the Switch paper.

    target_t    negative where there is nothing to predict
    """
    return router_z(logits_tv[target_t >= 0])


def logit_z_vjp(dloss, loss, logits_tv, target_t):
    """router_z_vjp of the rows that count; 0 in the others."""
    words_t = target_t >= 0
    dlogits_tv = np.zeros_like(logits_tv)
    (dlogits_tv[words_t],) = router_z_vjp(dloss, loss, logits_tv[words_t])
    return (dlogits_tv,)


def _logsumexp(h_te):
    max_t1 = h_te.max(axis=-1, keepdims=True)
    return max_t1[:, 0] + np.log(np.exp(h_te - max_t1).sum(axis=-1))
