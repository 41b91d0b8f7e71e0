"""Equations around a residual. Each layer returns its output and `a`, which names every array on the way."""

from typing import NamedTuple

import numpy as np

from .config import ACTIVATIONS, ROUNDINGS
from .tree import Tree

__all__ = [
    "Past",
    "Sight",
    "block_diagonal",
    "capacity",
    "cross_attention",
    "dense",
    "new_pasts",
    "self_attention",
    "switch",
]


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

    def extend(self, keys, values):
        """Add the newest words; return the keys and the values of all."""
        if self.words is not None:
            keys = [np.concatenate(pair) for pair in zip(self.words[0], keys, strict=True)]
            values = [np.concatenate(pair) for pair in zip(self.words[1], values, strict=True)]
        self.words = keys, values
        return self.words


def new_pasts(config):
    """Empty memories for a decoder that is about to speak, one a block."""
    return [Past() for _ in range(config.num_decoder_layers)]


def self_attention(ops, config, p, x_td, sight, keep=False, past=None):
    """x + Attention(norm(x)), each token over the tokens of its own sentence."""
    a = Tree()
    a.n_td = ops.rms_norm(x_td, p.norm_d, config.layer_norm_epsilon)
    a.q_thk = ops.split_heads(a.n_td, p.wq_dhk)
    a.k_shk = ops.split_heads(a.n_td, p.wk_dhk)
    a.v_shk = ops.split_heads(a.n_td, p.wv_dhk)
    keys, values = _by_sentence(a, sight)
    if past is not None:
        keys, values = past.extend(keys, values)
    return _look(ops, p, x_td, a, keys, values, sight, keep)


def cross_attention(ops, config, p, x_td, memory_sd, sight, keep=False, past=None):
    """x + Attention(norm(x) over the encoder's memory), each token over the memory of its own sentence."""
    a = Tree()
    a.n_td = ops.rms_norm(x_td, p.norm_d, config.layer_norm_epsilon)
    a.q_thk = ops.split_heads(a.n_td, p.wq_dhk)
    if past is not None and past.memory is not None:
        keys, values = past.memory
    else:
        a.k_shk = ops.split_heads(memory_sd, p.wk_dhk)
        a.v_shk = ops.split_heads(memory_sd, p.wv_dhk)
        keys, values = _by_sentence(a, sight)
    if past is not None:
        past.memory = keys, values
    return _look(ops, p, x_td, a, keys, values, sight, keep)


def dense(ops, config, p, x_td):
    """x + FFN(norm(x))."""
    a = Tree()
    a.n_td = ops.rms_norm(x_td, p.norm_d, config.layer_norm_epsilon)
    activation = getattr(ops, ACTIVATIONS[config.dense_act_fn])
    if config.is_gated_act:
        a.y_td = ops.gated_ffn(a.n_td, p.wi0_df, p.wi1_df, p.wo_fd, activation)
    else:
        a.y_td = ops.ffn(a.n_td, p.wi_df, p.wo_fd, activation)
    a.x_td = x_td + a.y_td
    return a.x_td, a


def switch(ops, config, routing, p, x_td, groups, keep=False):
    """x + p_i(n) E_i(n) with n = norm(x), each token through the one expert it asks for most, if there is room.

    p_te is `router_probs` in its two halves, for the z-loss needs the logits h_te.

    groups      the slices of tokens that queue together
    keep        name also what sat in the queues of the whole row, x_ecd, and what came out, y_ecd
    row_slot_t  a token's place in those; with one group it is slot_t
    """
    a = Tree()
    a.n_td = ops.rms_norm(x_td, p.norm_d, config.layer_norm_epsilon)
    a.h_te = ops.router_logits(a.n_td, p.wr_de, p.br_e if config.router_bias else None)
    a.p_te = ops.softmax(a.h_te)
    a.expert_t = ops.top1(a.p_te)
    a.gate_t = ops.gate(a.p_te, a.expert_t)
    a.slot_t, C = _slots(ops, config, routing, a.expert_t, groups)
    a.row_slot_t, row_C = _row_slots(ops, config, a.expert_t, a.slot_t, C, groups)
    a.y_td = _answers(ops, config, p, a, row_C)
    if keep:
        a.x_ecd = ops.dispatch(a.n_td, a.expert_t, a.row_slot_t, config.num_experts, row_C)
        a.y_ecd = _queues_answers(ops, config, p, a.x_ecd)
    if routing.dropped == "identity":
        a.y_td = ops.pass_dropped(a.y_td, a.n_td, a.slot_t, a.gate_t)
    a.x_td = x_td + a.y_td
    return a.x_td, a


def capacity(ops, config, routing, T):
    """How many slots each expert has for a group of T tokens; more than T are never needed."""
    if routing.capacity is None:
        C = config.expert_capacity
    elif isinstance(routing.capacity, int):
        C = routing.capacity
    else:
        rounding = ROUNDINGS[routing.capacity]
        C = ops.expert_capacity(T, config.num_experts, routing.eval_capacity_factor, rounding, routing.min_capacity)
    return min(C, T)


def _slots(ops, config, routing, expert_t, groups):
    queues = [(group, capacity(ops, config, routing, group.stop - group.start)) for group in groups]
    slot_t = np.full(len(expert_t), -1)
    for group, C in queues:
        slot_t[group] = ops.slots(expert_t[group], config.num_experts, C)
    return slot_t, max((C for _, C in queues), default=0)


def _row_slots(ops, config, expert_t, slot_t, C, groups):
    """One queue an expert for the whole row: a lone group's own, or those of all groups end to end without gaps."""
    if len(groups) == 1:
        return slot_t, C
    kept_t = slot_t >= 0
    row_slot_t = np.full(len(expert_t), -1)
    row_slot_t[kept_t] = ops.slots(expert_t[kept_t], config.num_experts, len(expert_t))
    return row_slot_t, int(row_slot_t.max(initial=-1)) + 1


def _answers(ops, config, p, a, row_C):
    activation = getattr(ops, ACTIVATIONS[config.dense_act_fn])
    seated = a.n_td, a.expert_t, a.row_slot_t, a.gate_t
    if config.is_gated_act:
        return ops.gated_mixture(*seated, p.wi0_edf, p.wi1_edf, p.wo_efd, row_C, activation)
    return ops.mixture(*seated, p.wi_edf, p.wo_efd, row_C, activation)


def _queues_answers(ops, config, p, x_ecd):
    activation = getattr(ops, ACTIVATIONS[config.dense_act_fn])
    if config.is_gated_act:
        return ops.gated_expert_ffn(x_ecd, p.wi0_edf, p.wi1_edf, p.wo_efd, activation)
    return ops.expert_ffn(x_ecd, p.wi_edf, p.wo_efd, activation)


def _by_sentence(a, sight):
    return [a.k_shk[s] for s in sight.spans_s], [a.v_shk[s] for s in sight.spans_s]


def _look(ops, p, x_td, a, keys, values, sight, keep):
    sentences = zip(sight.spans_t, keys, sight.biases, strict=True)
    looks = [ops.attention_weights(a.q_thk[t], k_shk, bias_hts) for t, k_shk, bias_hts in sentences]
    a.o_thk = np.concatenate([ops.attend(look_hts, v_shk) for look_hts, v_shk in zip(looks, values, strict=True)])
    a.y_td = ops.merge_heads(a.o_thk, p.wo_hkd)
    a.x_td = x_td + a.y_td
    if keep:
        a.look_hts = block_diagonal(looks)
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
