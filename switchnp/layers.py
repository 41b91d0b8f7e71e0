"""Equations around a residual. Each layer returns its output and `a`, which names every array on the way."""

import math
from functools import partial, reduce
from typing import NamedTuple

import numpy as np

from . import routers
from .config import ACTIVATIONS
from .routers import Mode
from .tree import Tree

__all__ = [
    "EVALUATION",
    "Past",
    "Sight",
    "block_diagonal",
    "capacity",
    "cross_attention",
    "dense",
    "entering",
    "new_pasts",
    "routed",
    "self_attention",
    "switch",
    "with_dropout",
]


EVALUATION = Mode()


class Sight(NamedTuple):
    """Who looks at whom, a sentence at a time: tokens `spans_t[i]` at tokens `spans_s[i]`, with `biases[i]` (H, T, S)."""

    spans_t: list
    spans_s: list
    biases: list


class Past:
    """What one decoder block remembers of each sentence: keys and values of the words so far, and of the memory."""

    def __init__(self):
        self.words = None
        self.memory = None

    def __len__(self):
        """How many words of each sentence there were."""
        return 0 if self.words is None else len(self.words[0][0])

    def keep(self, voices):
        """Go on with these sentences, in this order; what several share is not copied."""
        for name in ("words", "memory"):
            pair = getattr(self, name)
            if pair is not None:
                setattr(self, name, tuple([each[b] for b in voices] for each in pair))

    def extend(self, keys, values):
        """Add the newest words; return the keys and the values of all, end to end."""
        if self.words is not None:
            keys = [np.concatenate(pair) for pair in zip(self.words[0], keys, strict=True)]
            values = [np.concatenate(pair) for pair in zip(self.words[1], values, strict=True)]
        self.words = keys, values
        return np.concatenate(keys), np.concatenate(values)


def new_pasts(config):
    """Empty memories for a decoder that is about to speak, one a block."""
    return [Past() for _ in range(config.num_decoder_layers)]


def self_attention(ops, config, p, x_td, sight, keep=False, past=None, mode=EVALUATION):
    """x + Attention(norm(x)), each token over the tokens of its own sentence."""
    a = Tree()
    a.n_td = ops.rms_norm(x_td, p.norm_d, config.layer_norm_epsilon)
    a.q_thk = ops.split_heads(a.n_td, p.wq_dhk)
    a.k_shk = ops.split_heads(a.n_td, p.wk_dhk)
    a.v_shk = ops.split_heads(a.n_td, p.wv_dhk)
    k_shk, v_shk = (a.k_shk, a.v_shk) if past is None else past.extend(*_by_sentence(a, sight))
    return _look(ops, p, x_td, a, k_shk, v_shk, sight, keep, mode)


def cross_attention(ops, config, p, x_td, memory_sd, sight, keep=False, past=None, mode=EVALUATION):
    """x + Attention(norm(x) over the encoder's memory), each token over the memory of its own sentence."""
    a = Tree()
    a.n_td = ops.rms_norm(x_td, p.norm_d, config.layer_norm_epsilon)
    a.q_thk = ops.split_heads(a.n_td, p.wq_dhk)
    if past is not None and past.memory is not None:
        return _look(ops, p, x_td, a, *map(np.concatenate, past.memory), sight, keep, mode)
    a.k_shk = ops.split_heads(memory_sd, p.wk_dhk)
    a.v_shk = ops.split_heads(memory_sd, p.wv_dhk)
    if past is not None:
        past.memory = _by_sentence(a, sight)
    return _look(ops, p, x_td, a, a.k_shk, a.v_shk, sight, keep, mode)


def dense(ops, config, p, x_td, mode=EVALUATION):
    """x + FFN(norm(x))."""
    a = Tree()
    a.n_td = ops.rms_norm(x_td, p.norm_d, config.layer_norm_epsilon)
    activation, hidden = getattr(ops, ACTIVATIONS[config.dense_act_fn]), _hidden(ops, config, a, mode.dropout, mode.rng)
    if config.is_gated_act:
        a.y_td = ops.gated_ffn(a.n_td, p.wi0_df, p.wi1_df, p.wo_fd, activation, *hidden)
    else:
        a.y_td = ops.ffn(a.n_td, p.wi_df, p.wo_fd, activation, *hidden)
    return _residual(ops, x_td, a, mode)


def switch(ops, config, routing, p, x_td, groups, keep=False, mode=EVALUATION):
    """x + p_i(n) E_i(n) with n = norm(x), each token through the expert that its router chooses, if there is room.

    p_te is `router_probs` in its two halves, for the z-loss needs the logits h_te. Where the router gives a token several
    choices, expert_tn, gate_tn and slot_tn have one column a choice, and the answers add up. Where the groups add zeros to
    the row they stand behind it in n_td, h_te, p_te and the choices.

    keep        name also what sat in the queues of the whole row, x_ecd, and what came out, y_ecd
    row_slot_t  a token's place in those, -1 for zeros that were added; with one group it is slot_t
    """
    a = Tree()
    n_td = ops.rms_norm(x_td, p.norm_d, config.layer_norm_epsilon)
    a.n_td, a.heard_td = _explored(ops, config, routing, entering(routing, n_td, groups), mode)
    _ask(ops, config, routing, p, a, mode)
    room = partial(capacity, ops, config, routing, mode=mode)
    seats = routers.route(ops, routing, a, groups, room, mode)
    choices, row_C = _in_the_row(ops, config, a, seats, groups, room)
    hidden = _hidden(ops, config, a, mode.expert_dropout, mode.rng)
    y_td = _answers(ops, config, p, a.n_td, choices, row_C, hidden)
    if keep:
        a.x_ecd = _queues(ops, config, a.n_td, choices, row_C)
        a.y_ecd = _queues_answers(ops, config, p, a.x_ecd)
    if routing.dropped == "identity":
        y_td = ops.pass_dropped(y_td, a.n_td, np.where(routed(routing, groups), seats.slot_tn[:, 0], 0), seats.gate_tn[:, 0])
    a.y_td = y_td[: len(x_td)]
    return _residual(ops, x_td, a, mode)


def with_dropout(ops, x_td, a, mode, name="keep_td"):
    """x with dropout, whose mask `a` then has by this name; x itself without."""
    if not mode.dropout:
        return x_td
    keep_td = ops.keep_mask(x_td.shape, mode.dropout, mode.rng, x_td.dtype.type)
    setattr(a, name, keep_td)
    return x_td * keep_td


def capacity(ops, config, routing, T, mode=EVALUATION):
    """How many slots each expert has for a group of T tokens; more than T are never needed."""
    if routing.capacity is None:
        C = config.expert_capacity
    elif routing.capacity == "unlimited":
        C = T
    elif isinstance(routing.capacity, int):
        C = routing.capacity
    else:
        factor = routing.train_capacity_factor if mode.training else routing.eval_capacity_factor
        C = math.ceil(ops.expert_capacity(T, config.num_experts, factor, routing.capacity, routing.min_capacity))
    return min(C, T)


def entering(routing, n_td, groups):
    """The normed stream as a router's groups have it: zeros added where they do not divide, and in the place of padding."""
    if groups.added:
        n_td = np.concatenate([n_td, np.zeros((groups.added, n_td.shape[1]), n_td.dtype)])
    if routing.pads == "zeroed" and not groups.real_t.all():
        n_td = np.where(groups.real_t[:, None], n_td, n_td.dtype.type(0))
    return n_td


def _explored(ops, config, routing, n_td, mode):
    """What the experts see, and what the router hears of it."""
    policy = routing.train_policy if mode.training else "argmax"
    if policy == "input dropout":
        return n_td, ops.input_dropout(n_td, routing.input_dropout, mode.rng)
    if policy not in ("input jitter", "leaking jitter"):
        return n_td, n_td
    heard_td = ops.input_jitter(n_td, _jitter(config, routing), mode.rng)
    return (heard_td if policy == "leaking jitter" else n_td), heard_td


def _ask(ops, config, routing, p, a, mode):
    """Logits and probabilities; a router that is nudged keeps its bias apart from both."""
    br_e = p.br_e if config.router_bias else None
    if routing.router == "bias":
        a.b_e, br_e = br_e, None
    a.h_te = ops.router_logits(a.heard_td, p.wr_de, br_e)
    if mode.training and routing.train_policy == "logit jitter":
        a.h_te = ops.logit_jitter(a.h_te, _jitter(config, routing), mode.rng)
    a.p_te = ops.softmax(a.h_te)


def _jitter(config, routing):
    return config.router_jitter_noise if routing.jitter is None else routing.jitter


def routed(routing, groups):
    """Which tokens queue at all."""
    return groups.real_t if routing.pads == "unseated" else np.ones_like(groups.real_t)


def _in_the_row(ops, config, a, seats, groups, room):
    """Each choice as (expert_t, row_slot_t, gate_t), and how long the queues of the whole row are; both named in `a`."""
    row_slot_tn, row_C = _row_slots(ops, config, seats, groups, room)
    columns = seats._asdict() | {"row_slot_tn": row_slot_tn}
    alone = row_slot_tn.shape[1] == 1
    for name, it_tn in columns.items():
        setattr(a, *((name[:-1], it_tn[:, 0]) if alone else (name, it_tn)))
    choices = zip(seats.expert_tn.T, row_slot_tn.T, seats.gate_tn.T, strict=True)
    return [tuple(map(np.ascontiguousarray, choice)) for choice in choices], row_C


def _row_slots(ops, config, seats, groups, room):
    """One queue an expert for the whole row: a lone group's own, or those of all groups end to end without gaps."""
    if len(groups.members) == 1 and not groups.added:
        return seats.slot_tn, room(len(seats.slot_tn))
    kept_tn = seats.slot_tn >= 0
    kept_tn[len(kept_tn) - groups.added :] = False
    row_slot_tn = np.full(kept_tn.shape, -1)
    expert_t = seats.expert_tn[kept_tn]
    row_slot_tn[kept_tn] = ops.slots(expert_t, config.num_experts, len(expert_t))
    return row_slot_tn, int(row_slot_tn.max(initial=-1)) + 1


def _answers(ops, config, p, n_td, choices, row_C, hidden):
    activation = getattr(ops, ACTIVATIONS[config.dense_act_fn])
    if config.is_gated_act:
        mixture, experts = ops.gated_mixture, (p.wi0_edf, p.wi1_edf, p.wo_efd)
    else:
        mixture, experts = ops.mixture, (p.wi_edf, p.wo_efd)
    return reduce(np.add, (mixture(n_td, *choice, *experts, row_C, activation, *hidden) for choice in choices))


def _queues(ops, config, n_td, choices, row_C):
    seats = [(expert_t, row_slot_t) for expert_t, row_slot_t, _ in choices]
    return reduce(np.add, (ops.dispatch(n_td, *seat, config.num_experts, row_C) for seat in seats))


def _queues_answers(ops, config, p, x_ecd):
    activation = getattr(ops, ACTIVATIONS[config.dense_act_fn])
    if config.is_gated_act:
        return ops.gated_expert_ffn(x_ecd, p.wi0_edf, p.wi1_edf, p.wo_efd, activation)
    return ops.expert_ffn(x_ecd, p.wi_edf, p.wo_efd, activation)


def _by_sentence(a, sight):
    return [a.k_shk[s] for s in sight.spans_s], [a.v_shk[s] for s in sight.spans_s]


def _look(ops, p, x_td, a, k_shk, v_shk, sight, keep, mode):
    keeps = _attention_dropout(ops, a, sight, x_td.dtype, mode)
    a.o_thk = ops.attend_within(a.q_thk, k_shk, v_shk, sight.biases, *keeps)
    a.y_td = ops.merge_heads(a.o_thk, p.wo_hkd)
    if keep:
        sentences = zip(*sight, strict=True)
        a.look_hts = block_diagonal([ops.attention_weights(a.q_thk[t], k_shk[s], bias_hts) for t, s, bias_hts in sentences])
    return _residual(ops, x_td, a, mode)


def _attention_dropout(ops, a, sight, dtype, mode):
    """What is left of each sentence's attention, as the last argument of `attend_within`; nothing without dropout."""
    if not mode.dropout:
        return ()
    shapes = [(a.q_thk.shape[1], *bias_hts.shape[1:]) for bias_hts in sight.biases]
    a.keeps = [ops.keep_mask(shape, mode.dropout, mode.rng, dtype.type) for shape in shapes]
    return (a.keeps,)


def _hidden(ops, config, a, rate, rng):
    """What is left of the hidden numbers of each token, as the last argument of a dense layer; nothing without dropout."""
    if not rate:
        return ()
    a.keep_tf = ops.keep_mask((len(a.n_td), config.d_ff), rate, rng, a.n_td.dtype.type)
    return (a.keep_tf,)


def _residual(ops, x_td, a, mode):
    a.x_td = x_td + with_dropout(ops, a.y_td, a, mode)
    return a.x_td, a


def block_diagonal(blocks, between=0):
    """One (..., T, S) of all sentences' (..., T, S); what crosses from one sentence to another is `between`."""
    if len(blocks) == 1:
        return blocks[0]
    T, S = (sum(block.shape[axis] for block in blocks) for axis in (-2, -1))
    whole = np.full((*blocks[0].shape[:-2], T, S), between, blocks[0].dtype)
    t = s = 0
    for block in blocks:
        T, S = block.shape[-2:]
        whole[..., t : t + T, s : s + S] = block
        t, s = t + T, s + S
    return whole
