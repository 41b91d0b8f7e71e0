"""Which experts, where the answer is not the paper's one: several, by name alone, or nudged towards balance."""

import numpy as np

__all__ = [
    "balancing_step",
    "biased_top1",
    "gates",
    "gates_vjp",
    "hashed_expert",
    "renormalise",
    "renormalise_vjp",
    "second_asks",
    "top_k",
]


def top_k(p_te, k):
    """The k experts that each token asks for most, the first choice first; the lowest number where two are equal.

        i_1 = argmax_i p_i(x),    i_2 = argmax over the others, ...

    Source: Shazeer et al. 2017, eq. 5; Switch, eq. 2 with k = 1.

    Gradient: none, a choice jumps; the router learns by the gates.
    """
    return np.argsort(-p_te, axis=-1, kind="stable")[:, :k]


def gates(p_te, expert_tn):
    """How much of each chosen expert's answer a token takes: the probability itself, not renormalised.

        g_n = p_{i_n}(x)

    Source: Switch, eq. 2 for any k.
    """
    return np.take_along_axis(p_te, expert_tn, axis=-1)


def gates_vjp(dgate_tn, gate_tn, p_te, expert_tn):
    """dp_i = dg_n for each chosen expert, 0 for all others."""
    dp_te = np.zeros_like(p_te)
    np.put_along_axis(dp_te, expert_tn, dgate_tn.astype(p_te.dtype), axis=-1)
    return (dp_te,)


def renormalise(gate_tn):
    """Gates that share out one between the chosen experts. With a single choice the gate is 1, and the router learns nothing.

        g_n / sum_m g_m

    Source: GShard (Lepikhin et al. 2020), algorithm 1.
    """
    return gate_tn / gate_tn.sum(axis=-1, keepdims=True)


def renormalise_vjp(dshare_tn, share_tn, gate_tn):
    """dg_n = (ds_n - sum_m ds_m s_m) / sum_m g_m: exactly 0 for a single choice."""
    along_t1 = np.sum(dshare_tn * share_tn, axis=-1, keepdims=True)
    return ((dshare_tn - along_t1) / gate_tn.sum(axis=-1, keepdims=True),)


def second_asks(gate_tn, rng, threshold=0.2):
    """Which choices queue in training: every first one, and a second one as often as it matters.

        second choice asks with probability min(1, g_2 / threshold)

    Source: GShard (Lepikhin et al. 2020), §2.2; the threshold is mesh-tf's.

    Gradient: none, to ask or not is a choice.

    gate_tn     renormalised
    """
    asks_tn = np.ones(gate_tn.shape, bool)
    asks_tn[:, 1:] = rng.uniform(size=(len(gate_tn), 1)) * threshold < gate_tn[:, 1:]
    return asks_tn


def hashed_expert(ids_t, E):
    """An expert by the word alone, wherever it stands: nothing is learned. The null that a learned router has to beat.

    Words are spread evenly over the experts; running text, which repeats some words, is not.

        expert = high bits of (id * 2654435769 mod 2^32), out of E

    Source: Hash layers (Roller et al. 2021), §3; the multiplier is Knuth's, TAOCP 3, §6.4.

    Gradient: none, nothing is learned.
    """
    return (ids_t.astype(np.uint64) * 2654435769 % 2**32 * int(E) >> 32).astype(np.int64)


def biased_top1(p_te, b_e):
    """The expert that a token asks for most once each has its handicap; the gate is p_i(x) without it.

        i = argmax_i (p_i(x) + b_i)

    Source: auxiliary-loss-free balancing (Wang et al. 2024), eq. 3; there p is a sigmoid, here eq. 1.

    Gradient: none, a choice jumps; `balancing_step` moves the bias instead.
    """
    return (p_te + b_e).argmax(axis=-1)


def balancing_step(b_e, expert_t, rate):
    """Make overasked experts a little dearer and underasked ones a little cheaper, after each step of training.

        b_i <- b_i + rate sign(T / N - n_i)

    Source: auxiliary-loss-free balancing (Wang et al. 2024), algorithm 1.

    Gradient: none, it is a step itself.
    """
    asked_e = np.bincount(expert_t, minlength=len(b_e))
    return b_e + b_e.dtype.type(rate) * np.sign(asked_e.mean() - asked_e).astype(b_e.dtype)
