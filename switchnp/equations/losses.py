"""What to make small."""

import numpy as np

__all__ = ["cross_entropy", "expert_share", "load_balance", "log_softmax", "logit_z", "mean_probs", "router_z"]


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


def log_softmax(logits_tv):
    """How likely each word is, as a logarithm: softmax without the way over small numbers.

        log p_v = logit_v - log sum_u exp logit_u

    Source: Switch, eq. 1, its logarithm.
    """
    return logits_tv - _logsumexp(logits_tv)[:, None]


def expert_share(expert_t, E, dtype=np.float64):
    """The share of the tokens that ask for each expert, dropped ones included.

        f_i = 1/T sum_x [argmax p(x) = i]

    Source: Switch, eq. 5.
    """
    return np.mean(expert_t[:, None] == np.arange(E), axis=0, dtype=dtype)


def mean_probs(p_te):
    """The share of the probability that each expert is given.

        P_i = 1/T sum_x p_i(x)

    Source: Switch, eq. 6.
    """
    return np.mean(p_te, axis=0)


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


def router_z(h_te):
    """The router z-loss before its coefficient: keeps the logits small.

        z = 1/T sum_t (log sum_j exp h_tj)^2

    Source: ST-MoE (Zoph et al. 2022), eq. 5; not part of the Switch paper.
    """
    return np.mean(np.square(_logsumexp(h_te)))


def logit_z(logits_tv, target_t):
    """The same for the logits of words: keeps the head's numbers small.

        z = mean_t (log sum_v exp logits_tv)^2

    Source: T5X's z_loss (1e-4 in all Switch configurations); not part of the Switch paper.

    target_t    negative where there is nothing to predict
    """
    return router_z(logits_tv[target_t >= 0])


def _logsumexp(h_te):
    max_t1 = h_te.max(axis=-1, keepdims=True)
    return max_t1[:, 0] + np.log(np.exp(h_te - max_t1).sum(axis=-1))
