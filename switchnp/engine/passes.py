"""Encoder and decoder over a row of tokens, as `network` has them, with every layer one program.

What a router decides is decided by the same `layers.switch`; `ops` is this room. Nothing on the way is kept but what a router
said.
"""

import numpy as np

from .. import layers
from ..config import ACTIVATIONS
from ..layers import EVALUATION
from ..network import groups_of, logits
from ..tree import Tree
from . import blocks, elementary, pool
from .attention import Sight
from .instructions import LANES
from .rooms import operand_room, own_rooms, room

__all__ = ["decode", "encode", "logits"]


@own_rooms()
def encode(ops, config, routing, params, row, keep=False, mode=EVALUATION):
    """See network.encode."""
    stack, routing = params.encoder, routing.of("encoder")
    x_td = ops.embed(row.ids_t, _table(config, params, stack))
    groups, sights = groups_of(ops, config, routing, row), _sights(ops, config, routing, stack, row, causal=False)
    a = Tree(ids_t=row.ids_t, segment_t=row.segment_t, blocks=[])
    for p, sight in zip(stack.blocks, sights, strict=True):
        _self_attention(config, p.attention, x_td, sight)
        x_td, routes = _feedforward(ops, config, routing, p, x_td, groups, mode)
        a.blocks.append(routes)
    a.memory_td = ops.rms_norm(x_td, stack.norm_d, config.layer_norm_epsilon)
    return a.memory_td, a


@own_rooms()
def decode(ops, config, routing, params, row, memory_sd, memory_row, keep=False, pasts=None, mode=EVALUATION):
    """See network.decode.

    pasts       `words.Words`, which has the memory's keys and values too
    """
    stack, routing = params.decoder, routing.of("decoder")
    x_td = ops.embed(row.ids_t, _table(config, params, stack))
    seen = 0 if pasts is None else len(pasts)
    groups, sights = groups_of(ops, config, routing, row), _sights(ops, config, routing, stack, row, True, seen)
    across = _across(row, memory_row, config.num_heads)
    a = Tree(ids_t=row.ids_t, segment_t=row.segment_t, blocks=[])
    for i, (p, sight) in enumerate(zip(stack.blocks, sights, strict=True)):
        _self_attention(config, p.attention, x_td, sight, None if pasts is None else pasts.newest(i))
        keys_values = heard(config, p.cross, memory_sd) if pasts is None else pasts.memory_of(i)
        _cross_attention(config, p.cross, x_td, across, *keys_values)
        x_td, routes = _feedforward(ops, config, routing, p, x_td, groups, mode)
        a.blocks.append(routes)
    if pasts is not None:
        pasts.said(len(row.ids_t) // row.sentences)
    a.last_td = ops.rms_norm(x_td, stack.norm_d, config.layer_norm_epsilon)
    return a.last_td, a


@own_rooms()
def heard(config, p, memory_sd):
    """Keys and values of the encoder's memory for one block."""
    S, N = len(memory_sd), config.num_heads * config.d_kv
    k_sd, v_sd = np.empty((S, N), np.float32), np.empty((S, N), np.float32)
    own = p.wk_dhk.kind, np.ascontiguousarray(memory_sd), p.wk_dhk.weight, p.wv_dhk.weight, k_sd, v_sd
    pool.POOL.run(p.wk_dhk.crew(S), blocks.projected, *own, operand_room(S, config.d_model))
    return k_sd, v_sd


def _table(config, params, stack):
    return stack.embedding_vd if config.separate_embeddings else params.embedding_vd


def _self_attention(config, p, x_td, sight, past=None):
    n_td, q_td, o_td, bytes_ = _rooms(config, len(x_td))
    k_td, v_td = (room(name, *q_td.shape) for name in "kv")
    wo, crew = p.wo_hkd, p.wq_dhk.crew(len(x_td), _looks(sight, q_td))
    own = p.wq_dhk.kind, x_td, p.norm_d, config.layer_norm_epsilon, p.wq_dhk.weight, p.wk_dhk.weight, p.wv_dhk.weight
    pool.POOL.run(p.wq_dhk.crew(len(x_td)), blocks.asked, *own, n_td, q_td, k_td, v_td, bytes_)
    keys, values = (k_td, v_td) if past is None else past(k_td, v_td)
    looks = q_td, keys, values, sight, config.num_heads, o_td
    pool.POOL.run(crew, blocks.home, wo.kind, x_td, *looks, wo.weight, bytes_)


def _cross_attention(config, p, x_td, sight, k_sd, v_sd):
    n_td, q_td, o_td, bytes_ = _rooms(config, len(x_td))
    own = p.wq_dhk.kind, x_td, p.norm_d, config.layer_norm_epsilon, p.wq_dhk.weight, p.wo_hkd.weight, sight, config.num_heads
    pool.POOL.run(
        p.wq_dhk.crew(len(x_td), _looks(sight, q_td)), blocks.cross_attention, *own, k_sd, v_sd, n_td, q_td, o_td, bytes_
    )


def _looks(sight, q_td):
    """The multiplications of attention."""
    t0_b, t1_b, s0_b, s1_b = sight.spans_b4.T
    return 2 * q_td.shape[1] * int(((t1_b - t0_b) * (s1_b - s0_b)).sum())


def _rooms(config, T):
    D, N = config.d_model, config.num_heads * config.d_kv
    return room("n", T, D), room("q", T, N), room("o", T, N), operand_room(T, max(D, N))


def _feedforward(ops, config, routing, p, x_td, groups, mode):
    if "switch" in p:
        x_td, a = layers.switch(ops, config, routing, p.switch, x_td, groups, False, mode)
        kept = ("h_te", "p_te", "expert_t", "slot_t", "expert_tn", "slot_tn")
        return np.ascontiguousarray(x_td), Tree(switch=Tree(**{name: a[name] for name in kept if name in a}))
    _dense(config, p.dense, x_td)
    return x_td, Tree()


def _dense(config, p, x_td):
    wi, linear = (p.wi0_df, p.wi1_df) if config.is_gated_act else (p.wi_df, p.wi_df)
    activation = elementary.ACTIVATIONS.index(ACTIVATIONS[config.dense_act_fn])
    T, D, F, gated = len(x_td), config.d_model, config.d_ff, config.is_gated_act
    own = wi.kind, x_td, p.norm_d, config.layer_norm_epsilon, wi.weight, linear.weight, p.wo_fd.weight
    rooms = room("n", T, D), room("h", T, F), room("g", T if gated else 0, F), operand_room(T, max(D, F))
    pool.POOL.run(wi.crew(T), blocks.dense, *own, gated, activation, *rooms)


def _sights(ops, config, routing, stack, row, causal, seen=0):
    """The Sight of every block: one for all, but that transformers 5.0 forgets the distances above block 0."""
    far = seen + int(row.position_t.max(initial=0)) + 1 + LANES
    buckets = config.relative_attention_num_buckets, config.relative_attention_max_distance
    bucket_x = ops.relative_bucket(np.arange(1 - far, far), *buckets, bidirectional=not causal)
    line_hx = np.ascontiguousarray(stack.bias_rh[bucket_x].T)
    spans_t = [(span.start, span.stop) for span in row.spans]
    lengths = [stop - start + seen for start, stop in spans_t]
    ends = np.cumsum(lengths)
    spans_b4 = np.array([(*span, end - length, end) for span, end, length in zip(spans_t, ends, lengths, strict=True)], np.int64)
    position_s, mask_s = row.position_t, row.mask_t
    if seen:
        before = np.arange(seen)
        position_s = np.concatenate([np.concatenate([before, row.position_t[span]]) for span in row.spans])
        mask_s = np.concatenate([np.concatenate([before >= 0, row.mask_t[span]]) for span in row.spans])
    own = spans_b4.reshape(-1, 4), _whole(row.position_t), _whole(position_s), np.ascontiguousarray(mask_s)
    sight = Sight(*own, line_hx, causal)
    if routing.position_bias == "every block":
        return [sight] * len(stack.blocks)
    return [sight] + [sight._replace(line_hx=np.zeros((config.num_heads, 0), np.float32))] * (len(stack.blocks) - 1)


def _across(row, memory_row, H):
    pairs = zip(row.spans, memory_row.spans, strict=True)
    spans_b4 = np.array([(t.start, t.stop, s.start, s.stop) for t, s in pairs], np.int64).reshape(-1, 4)
    positions = _whole(row.position_t), _whole(memory_row.position_t)
    return Sight(spans_b4, *positions, np.ascontiguousarray(memory_row.mask_t), np.zeros((H, 0), np.float32), False)


def _whole(position_t):
    return np.ascontiguousarray(position_t, np.int64)
