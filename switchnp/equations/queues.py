"""Who is seated, where the queue is not the paper's: other orders, second chances, and experts that choose."""

import numpy as np

from .capacity import slots

__all__ = ["expert_choice_slots", "left_behind_slots", "queue_slots", "surest_first"]


def surest_first(gate_t):
    """The order of batch-prioritised routing: who is surest of their expert comes first, equals as they stand.

        order = argsort(-p_max),    p_max each token's (first) gate

    Needs no parameter, and drops the tokens that care least; not causal, for who comes later may be surer.

    Source: V-MoE (Riquelme et al. 2021), §4.1; flaxformer's batch_prioritized_routing.

    Gradient: none, an order jumps.
    """
    return np.argsort(-gate_t, kind="stable")


def queue_slots(expert_tn, asks_tn, order_t, E, C):
    """The queue of tokens with N choices each: all first choices in this order, then all second ones, and so on.

        slot_tn = number of entries of the same expert before (t, n),    if below C

    With more than one choice it is not causal: a second choice waits for the first choices of later tokens.

    Source: GShard (Lepikhin et al. 2020), algorithm 1; flaxformer's TokensChooseMaskedRouter.

    Gradient: none, a place in a queue is a whole number.

    asks_tn     false where a token does without this choice: it takes no slot
    order_t     who comes first; T tokens in any order
    """
    expert_t, asks_t = expert_tn[order_t].T.ravel(), asks_tn[order_t].T.ravel()
    slot_t = np.full(len(expert_t), -1)
    slot_t[asks_t] = slots(expert_t[asks_t], E, C)
    slot_tn = np.empty(expert_tn.shape, np.int64)
    slot_tn[order_t] = slot_t.reshape(expert_tn.shape[::-1]).T
    return slot_tn


def left_behind_slots(expert_tn, E, C):
    """No Token Left Behind: who finds its expert full tries its next choice, behind all who sit there already.

        stage n:  the tokens without a slot ask expert_tn[:, n], in their order

    Not causal: a later token's first choice comes before an earlier one's second. The paper saw no gain.

    Source: Switch, appendix B; mesh-tf's _ntlb_gating.

    Gradient: none, a place in a queue is a whole number.

    return  slot_tn, at most one slot a token
    """
    slot_tn = np.full(expert_tn.shape, -1)
    taken_e = np.zeros(E, np.int64)
    for n in range(expert_tn.shape[1]):
        behind_t = (slot_tn < 0).all(axis=1)
        expert_t = expert_tn[behind_t, n]
        slot_t = taken_e[expert_t] + slots(expert_t, E, len(expert_t))
        slot_tn[behind_t, n] = np.where(slot_t < C, slot_t, -1)
        taken_e += np.bincount(expert_t, minlength=E)
    return slot_tn


def expert_choice_slots(p_te, C):
    """Experts choose: each takes the C tokens that ask for it most; of equals the earlier. A token may get none, or several.

        slot_te = rank of p_te among the tokens,    if below C

    Balanced by construction, so it needs no loss; not causal.

    Source: Expert Choice (Zhou et al. 2022), §3.2; flaxformer's ExpertsChooseMaskedRouter.

    Gradient: none, a place in a queue is a whole number.
    """
    rank_te = np.argsort(np.argsort(-p_te, axis=0, kind="stable"), axis=0)
    return np.where(rank_te < C, rank_te, -1)
