"""The routers: each chooses experts for a row of tokens, then seats each group of them. `ops` has the equations."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

__all__ = ["ROUTERS", "Groups", "Mode", "Seats", "columns", "route"]


class Groups(NamedTuple):
    """Which tokens of a row queue together.

    members     one slice or array of indices a group
    sentences   one slice a sentence
    ids_t       the words, for a router that goes by them
    real_t      false where a token is padding or was added
    added       how many vectors of zeros stand behind the row, so that the groups divide
    """

    members: list
    sentences: list
    ids_t: np.ndarray
    real_t: np.ndarray
    added: int = 0


class Mode(NamedTuple):
    """Is it training, where random numbers come from, and how much dropout forgets, inside experts maybe more."""

    training: bool = False
    rng: np.random.Generator | None = None
    dropout: float = 0.0
    expert_dropout: float = 0.0


class Seats(NamedTuple):
    """Every choice of every token: which expert, how much of its answer, and its slot, -1 where there was no room."""

    expert_tn: np.ndarray
    gate_tn: np.ndarray
    slot_tn: np.ndarray


class Router(NamedTuple):
    """How a router answers.

    choose      (ops, routing, a, groups, mode) -> expert_tn, gate_tn, asks_tn for the row; a has h_te and p_te, and b_e
    gates_vjp   (ops, a, expert_tn, dgate_tn) -> dp_te: what the gates' gradient says of the probabilities
    seat        (ops, routing, expert_tn, gate_tn, asks_tn, E, C, rng) -> slot_tn, for one group
    counts      (N) -> how much each choice counts in the balance loss
    listens     does it go by the logits, so that they have a z-loss?
    """

    choose: Callable
    gates_vjp: Callable
    seat: Callable
    counts: Callable
    listens: bool = True


def route(ops, routing, a, groups, capacity, mode):
    """The Seats of a row whose logits and probabilities are in `a`.

    capacity    T -> C
    """
    router, E = ROUTERS[routing.router], a.p_te.shape[1]
    expert_tn, gate_tn, asks_tn = router.choose(ops, routing, a, groups, mode)
    if routing.pads == "unseated":
        asks_tn = asks_tn & groups.real_t[:, None]
    slot_tn = np.full(expert_tn.shape, -1)
    for group in groups.members:
        asking = expert_tn[group], gate_tn[group], asks_tn[group]
        slot_tn[group] = router.seat(ops, routing, *asking, E, capacity(len(asking[0])), mode.rng)
    return Seats(expert_tn, gate_tn, slot_tn)


def columns(a, name):
    """What a Switch layer's arrays say of each choice, one column a choice, also where a token has but one."""
    return a[f"{name}_tn"] if f"{name}_tn" in a else a[f"{name}_t"][:, None]


def _chosen(gate_of):
    """A router whose tokens ask for all their choices."""

    def choose(ops, routing, a, groups, mode):
        expert_tn, gate_tn = gate_of(ops, routing, a, groups, mode)
        return expert_tn, gate_tn, np.ones(expert_tn.shape, bool)

    return choose


def _top1(ops, routing, a, groups, mode):
    policy = routing.train_policy if mode.training else routing.eval_policy
    sampled = policy == "sample"
    expert_t = ops.sampled_expert(a.h_te, routing.temperature, mode.rng) if sampled else ops.top1(a.p_te)
    return expert_t[:, None], ops.gate(a.p_te, expert_t)[:, None]


def _top_k(ops, routing, a, groups, mode):
    expert_tn = ops.top_k(a.p_te, routing.choices)
    return expert_tn, ops.gates(a.p_te, expert_tn)


def _gshard(ops, routing, a, groups, mode):
    expert_tn = ops.top_k(a.p_te, 2)
    gate_tn = ops.renormalise(ops.gates(a.p_te, expert_tn))
    asks_tn = ops.second_asks(gate_tn, mode.rng) if mode.training else np.ones(gate_tn.shape, bool)
    return expert_tn, gate_tn, asks_tn


def _every_expert(ops, routing, a, groups, mode):
    return np.broadcast_to(np.arange(a.p_te.shape[1]), a.p_te.shape), a.p_te


def _hash(ops, routing, a, groups, mode):
    expert_t = ops.hashed_expert(groups.ids_t, a.p_te.shape[1])
    return expert_t[:, None], np.ones((len(expert_t), 1), a.p_te.dtype)


def _bias(ops, routing, a, groups, mode):
    expert_t = ops.biased_top1(a.p_te, a.b_e)
    return expert_t[:, None], ops.gate(a.p_te, expert_t)[:, None]


def _queue(ops, routing, expert_tn, gate_tn, asks_tn, E, C, rng):
    if routing.order == "first come" and expert_tn.shape[1] == 1 and asks_tn.all():
        return ops.slots(expert_tn[:, 0], E, C)[:, None]
    orders = {
        "first come": lambda: np.arange(len(gate_tn)),
        "by gate": lambda: ops.surest_first(gate_tn[:, 0]),
        "random": lambda: rng.permutation(len(gate_tn)),
    }
    return ops.queue_slots(expert_tn, asks_tn, orders[routing.order](), E, C)


def _next_choice(ops, routing, expert_tn, gate_tn, asks_tn, E, C, rng):
    slot_tn = np.full(expert_tn.shape, -1)
    asks_t = asks_tn.all(axis=1)
    slot_tn[asks_t] = ops.left_behind_slots(expert_tn[asks_t], E, C)
    return slot_tn


def _experts_take(ops, routing, expert_te, p_te, asks_te, E, C, rng):
    return np.where(asks_te, ops.expert_choice_slots(np.where(asks_te, p_te, 0), C), -1)


def _gate_vjp(ops, a, expert_tn, dgate_tn):
    return ops.gate_vjp(dgate_tn[:, 0], None, a.p_te, expert_tn[:, 0])[0]


def _gates_vjp(ops, a, expert_tn, dgate_tn):
    return ops.gates_vjp(dgate_tn, None, a.p_te, expert_tn)[0]


def _shares_vjp(ops, a, expert_tn, dshare_tn):
    gate_tn = ops.gates(a.p_te, expert_tn)
    return _gates_vjp(ops, a, expert_tn, *ops.renormalise_vjp(dshare_tn, ops.renormalise(gate_tn), gate_tn))


def _silent_vjp(ops, a, expert_tn, dgate_tn):
    return np.zeros_like(a.p_te)


def _none(N):
    return np.zeros(N)


ROUTERS = {
    "top 1": Router(_chosen(_top1), _gate_vjp, _queue, np.ones),
    "top k": Router(_chosen(_top_k), _gates_vjp, _queue, np.ones),
    "gshard": Router(_gshard, _shares_vjp, _queue, lambda N: np.array([1, 0])),
    "no token left behind": Router(_chosen(_top_k), _gates_vjp, _next_choice, lambda N: np.full(N, 1 / N)),
    "expert choice": Router(_chosen(_every_expert), _gates_vjp, _experts_take, _none),
    "hash": Router(_chosen(_hash), _silent_vjp, _queue, _none, listens=False),
    "bias": Router(_chosen(_bias), _gate_vjp, _queue, _none),
}
"""By the name that a Routing has for it."""
