"""Encoder, decoder and losses: pure functions of the engine's equations, the Config, the Routing, weights and a row.

`ops` is the module of equations: `switchnp.equations` or `switchnp.kernels`. There is no batch axis: a batch is its
sentences laid end to end in one row.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from . import layers
from .layers import Past, Sight
from .tree import Tree


class Row(NamedTuple):
    """Sentences laid end to end.

    segment_t   whose token it is; never falls
    position_t  its place in its sentence
    mask_t      false where others must not look at it (padding that the routing keeps)
    sentences   how many there are; one may have no token
    """

    ids_t: np.ndarray
    segment_t: np.ndarray
    position_t: np.ndarray
    mask_t: np.ndarray
    sentences: int

    @property
    def spans(self):
        """Each sentence's slice of the row."""
        edges = np.searchsorted(self.segment_t, np.arange(self.sentences + 1))
        return [slice(int(start), int(stop)) for start, stop in pairwise(edges)]


def encode(ops, config, routing, params, row, keep=False):
    """What the encoder makes of a row: memory_td, and the Tree of arrays on the way (all of them where `keep`)."""
    stack = params.encoder
    table_vd = stack.embedding_vd if config.separate_embeddings else params.embedding_vd
    x_td = ops.embed(row.ids_t, table_vd)
    a = _opening(row, x_td)
    sight = _own_sight(ops, config, stack.bias_rh, row, causal=False)
    for p in stack.blocks:
        b = Tree()
        x_td, b.attention = layers.self_attention(ops, config, p.attention, x_td, sight, keep)
        x_td = _feedforward(ops, config, routing, p, x_td, b, row.spans, keep)
        a.blocks.append(b if keep else _routes(b))
    a.memory_td = ops.rms_norm(x_td, stack.norm_d, config.layer_norm_epsilon)
    return a.memory_td, a


def decode(ops, config, routing, params, row, memory_sd, memory_row, keep=False, pasts=None):
    """What the decoder makes of a row over the encoder's memory: last_td, after the last norm, and the Tree.

    pasts   one `Past` a block: the row is then the newest words of each sentence, and the Pasts remember the others
    """
    stack = params.decoder
    table_vd = stack.embedding_vd if config.separate_embeddings else params.embedding_vd
    x_td = ops.embed(row.ids_t, table_vd)
    a = _opening(row, x_td)
    seen = 0 if pasts is None or pasts[0].words is None else len(pasts[0].words[0][0])
    sight = _own_sight(ops, config, stack.bias_rh, row, causal=True, seen=seen)
    over = _memory_sight(ops, row, memory_row, memory_sd.dtype)
    for i, p in enumerate(stack.blocks):
        b, past = Tree(), pasts[i] if pasts else None
        x_td, b.attention = layers.self_attention(ops, config, p.attention, x_td, sight, keep, past)
        x_td, b.cross = layers.cross_attention(ops, config, p.cross, x_td, memory_sd, over, keep, past)
        x_td = _feedforward(ops, config, routing, p, x_td, b, row.spans, keep)
        a.blocks.append(b if keep else _routes(b))
    a.last_td = ops.rms_norm(x_td, stack.norm_d, config.layer_norm_epsilon)
    return a.last_td, a


def logits(ops, config, params, last_td):
    """How well each word would come next, (T, V)."""
    if config.tie_word_embeddings:
        return ops.unembed(last_td, params.embedding_vd)
    return ops.head(last_td, params.head_vd)


def router_losses(ops, routing, stack, row):
    """(balance, z) of one stack before their coefficients, in the scope that the routing names."""
    switches = [block.switch for block in stack.blocks if "switch" in block]
    all_sparse = len(switches) == len(stack.blocks)
    if not switches or len(row.ids_t) == 0 or (all_sparse and not routing.all_sparse_loss):
        return 0.0, 0.0
    counted = [(a.p_te, _counted(routing, a)) for a in switches]
    if routing.loss_scope == "layer":
        balance = sum(ops.load_balance(p_te, expert_t) for p_te, expert_t in counted)
        return float(balance), float(sum(ops.router_z(a.h_te) for a in switches))
    balances = [_stack_balance(ops, counted, span) for span in row.spans]
    return float(np.mean(balances)), float(ops.router_z(np.concatenate([a.h_te for a in switches])))


def _stack_balance(ops, counted, span):
    p_te = np.concatenate([p_te[span] for p_te, _ in counted])
    return ops.load_balance(p_te, np.concatenate([expert_t[span] for _, expert_t in counted]))


def _counted(routing, a):
    return a.expert_t if routing.dropped_counts == "choice" else np.where(a.slot_t < 0, 0, a.expert_t)


def _opening(row, x_td):
    return Tree(ids_t=row.ids_t, segment_t=row.segment_t, position_t=row.position_t, mask_t=row.mask_t, x_td=x_td, blocks=[])


def _feedforward(ops, config, routing, p, x_td, b, groups, keep):
    if "switch" in p:
        x_td, b.switch = layers.switch(ops, config, routing, p.switch, x_td, groups, keep)
    else:
        x_td, b.dense = layers.dense(ops, config, p.dense, x_td)
    return x_td


def _routes(b):
    if "switch" not in b:
        return Tree()
    return Tree(switch=Tree(**{name: b.switch[name] for name in ("h_te", "p_te", "expert_t", "gate_t", "slot_t")}))


def _own_sight(ops, config, bias_rh, row, causal, seen=0):
    buckets = config.relative_attention_num_buckets, config.relative_attention_max_distance
    biases = []
    for span in row.spans:
        position_t = row.position_t[span]
        position_s = np.concatenate([np.arange(seen), position_t])
        mask_s = np.concatenate([np.ones(seen, bool), row.mask_t[span]])
        bucket_ts = ops.relative_bucket(ops.distance(position_t, position_s), *buckets, not causal)
        see_ts = ops.visible(position_t, position_s, mask_s, causal)
        biases.append(ops.hide(ops.position_bias(bucket_ts, bias_rh), see_ts))
    return Sight(row.spans, row.spans, biases)


def _memory_sight(ops, row, memory_row, dtype):
    biases = []
    for t, s in zip(row.spans, memory_row.spans, strict=True):
        see_ts = ops.visible(row.position_t[t], memory_row.position_t[s], memory_row.mask_t[s], False)
        biases.append(ops.hide(np.zeros((1, 1, 1), dtype), see_ts))
    return Sight(row.spans, memory_row.spans, biases)


def new_pasts(config):
    """Empty memories for a decoder that is about to speak, one a block."""
    return [Past() for _ in range(config.num_decoder_layers)]
