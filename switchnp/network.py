"""Encoder, decoder and losses: pure functions of the engine's equations, the Config, the Routing, weights and a row.

`ops` is the module of equations: `switchnp.equations` or `switchnp.kernels`. There is no batch axis: a batch is its
sentences laid end to end in one row.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from . import layers
from .layers import Sight
from .tree import Tree

__all__ = ["Row", "decode", "encode", "logits", "router_losses", "total_loss"]


@dataclass(frozen=True, eq=False)
class Row:
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

    @cached_property
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
    biases = _own_biases(ops, config, stack.bias_rh, row, causal=False)
    sight = Sight(row.spans, row.spans, [bias_hts for _, bias_hts in biases])
    if keep:
        a.bucket_ts, a.bias_hts = _whole_biases(biases)
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
    seen = len(pasts[0]) if pasts else 0
    biases = _own_biases(ops, config, stack.bias_rh, row, causal=True, seen=seen)
    sight = Sight(row.spans, row.spans, [bias_hts for _, bias_hts in biases])
    if keep:
        a.bucket_ts, a.bias_hts = _whole_biases(biases)
    memory_sight = _memory_sight(ops, row, memory_row, memory_sd.dtype)
    for i, p in enumerate(stack.blocks):
        b, past = Tree(), pasts[i] if pasts else None
        x_td, b.attention = layers.self_attention(ops, config, p.attention, x_td, sight, keep, past)
        x_td, b.cross = layers.cross_attention(ops, config, p.cross, x_td, memory_sd, memory_sight, keep, past)
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
    """(balance, z) of one stack before their coefficients, in the scope that the routing names.

    Source: Switch, eq. 4, "for each Switch layer" (layer); transformers 5.23, one product over a stack's layers (stack).
    """
    switches = [block.switch for block in stack.blocks if "switch" in block]
    all_sparse = len(switches) == len(stack.blocks)
    if not switches or len(row.ids_t) == 0 or (all_sparse and not routing.all_sparse_loss):
        return 0.0, 0.0
    counted = [(a.p_te, _counted(routing, a)) for a in switches]
    if routing.loss_scope == "layer":
        balance = sum(ops.load_balance(p_te, expert_t) for p_te, expert_t in counted)
        return float(balance), float(sum(ops.router_z(a.h_te) for a in switches))
    balances = [_stack_balance(ops, counted, span) for span in row.spans if span.stop > span.start]
    return float(np.mean(balances)), float(ops.router_z(np.concatenate([a.h_te for a in switches])))


def total_loss(config, routing, cross_entropy, balances, zs):
    """The cross-entropy plus the router losses of both stacks, each times its coefficient.

    Source: Switch, §2.2 (added to the total loss); transformers 5.23.
    """
    balance_coef = config.router_aux_loss_coef if routing.balance_coef is None else routing.balance_coef
    z_coef = config.router_z_loss_coef if routing.z_coef is None else routing.z_coef
    return cross_entropy + balance_coef * sum(balances) + z_coef * sum(zs)


def _stack_balance(ops, counted, span):
    p_te = np.concatenate([p_te[span] for p_te, _ in counted])
    return ops.load_balance(p_te, np.concatenate([expert_t[span] for _, expert_t in counted]))


def _counted(routing, a):
    """The expert at which the balance loss counts a token: transformers 4.25 to 4.57 see a dropped one at expert 0."""
    return a.expert_t if routing.dropped_counts == "choice" else np.where(a.slot_t < 0, 0, a.expert_t)


def _opening(row, x_td):
    return Tree(ids_t=row.ids_t, segment_t=row.segment_t, position_t=row.position_t, mask_t=row.mask_t, x_td=x_td, blocks=[])


def _feedforward(ops, config, routing, p, x_td, b, groups, keep):
    if "switch" in p:
        x_td, b.switch = layers.switch(ops, config, routing, p.switch, x_td, groups, keep)
        if keep and len(x_td):
            b.switch.balance = ops.load_balance(b.switch.p_te, b.switch.expert_t)
    else:
        x_td, b.dense = layers.dense(ops, config, p.dense, x_td)
    return x_td


def _routes(b):
    if "switch" not in b:
        return Tree()
    return Tree(switch=Tree(**{name: b.switch[name] for name in ("h_te", "p_te", "expert_t", "slot_t")}))


def _own_biases(ops, config, bias_rh, row, causal, seen=0):
    """Each sentence's (bucket_ts, bias_hts); those of one length and one mask share theirs."""
    known, biases = {}, []
    for span in row.spans:
        position_t, mask_t = row.position_t[span], row.mask_t[span]
        key = position_t.tobytes(), mask_t.tobytes()
        if key not in known:
            known[key] = _own_bias(ops, config, bias_rh, position_t, mask_t, causal, seen)
        biases.append(known[key])
    return biases


def _whole_biases(biases):
    bucket_ts = layers.block_diagonal([bucket_ts for bucket_ts, _ in biases], between=-1)
    return bucket_ts, layers.block_diagonal([bias_hts for _, bias_hts in biases], between=-np.inf)


def _own_bias(ops, config, bias_rh, position_t, mask_t, causal, seen):
    buckets = config.relative_attention_num_buckets, config.relative_attention_max_distance
    position_s = np.concatenate([np.arange(seen), position_t])
    mask_s = np.concatenate([np.ones(seen, bool), mask_t])
    bucket_ts = ops.relative_bucket(ops.distance(position_t, position_s), *buckets, bidirectional=not causal)
    see_ts = ops.visible(position_t, position_s, mask_s, causal)
    return bucket_ts, ops.hide(ops.position_bias(bucket_ts, bias_rh), see_ts)


def _memory_sight(ops, row, memory_row, dtype):
    biases = []
    for t, s in zip(row.spans, memory_row.spans, strict=True):
        see_ts = ops.visible(row.position_t[t], memory_row.position_t[s], memory_row.mask_t[s], causal=False)
        biases.append(ops.hide(np.zeros((1, 1, 1), dtype), see_ts))
    return Sight(row.spans, memory_row.spans, biases)
