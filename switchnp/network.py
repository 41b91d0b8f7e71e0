"""Encoder and decoder: pure functions of the engine's equations, the Config, the Routing, weights and a row.

`ops` is the module of equations: `switchnp.equations` or `switchnp.kernels`. There is no batch axis: a batch is its
sentences laid end to end in one row.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from . import layers, objective
from .derived import lazy
from .layers import EVALUATION, Sight
from .routers import Groups
from .tree import Tree

__all__ = ["Bias", "Row", "Tape", "decode", "encode", "groups_of", "logits", "stack_losses", "switches", "table_of"]


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

    @lazy
    def spans(self):
        """Each sentence's slice of the row."""
        edges = np.searchsorted(self.segment_t, np.arange(self.sentences + 1))
        return [slice(int(start), int(stop)) for start, stop in pairwise(edges)]

    def chosen(self, sentences):
        """The Row of these sentences in this order, and where its tokens stood."""
        lengths = [self.spans[b].stop - self.spans[b].start for b in sentences]
        starts = np.array([self.spans[b].start for b in sentences], int)
        segment_t = np.repeat(np.arange(len(lengths)), lengths)
        token_t = np.arange(len(segment_t)) + np.repeat(starts - np.cumsum([0, *lengths[:-1]]), lengths)
        return Row(self.ids_t[token_t], segment_t, self.position_t[token_t], self.mask_t[token_t], len(lengths)), token_t


class Tape:
    """What a backward pass has to know of a stack's forward pass besides its arrays.

    biases          each sentence's Bias
    sights          a Sight a block
    memory_sight    of cross-attention
    groups          which tokens queue together
    """

    biases: list
    sights: list
    memory_sight: Sight
    groups: Groups


class Bias(NamedTuple):
    """How far apart a sentence's tokens are, which may see which, and what that adds to their scores."""

    bucket_ts: np.ndarray
    see_ts: np.ndarray
    bias_hts: np.ndarray


def encode(ops, config, routing, params, row, keep=False, mode=EVALUATION, tape=None):
    """What the encoder makes of a row: memory_td, and the Tree of arrays on the way (all of them where `keep`).

    tape    a Tape that is to be filled; the Tree then has what a backward pass needs
    """
    stack, routing = params.encoder, routing.of("encoder")
    a, x_td = _opening(ops, config, params, stack, row, mode)
    biases, sights = _sights(ops, config, routing, stack, row, causal=False)
    if keep:
        a.bucket_ts, a.bias_hts = _whole_biases(biases)
    groups = groups_of(ops, config, routing, row)
    for p, sight in zip(stack.blocks, sights, strict=True):
        b = Tree()
        x_td, b.attention = layers.self_attention(ops, config, p.attention, x_td, sight, keep, mode=mode)
        x_td = _feedforward(ops, config, routing, p, x_td, b, groups, keep, mode)
        a.blocks.append(b if keep or tape else _routes(b))
    if tape is not None:
        tape.biases, tape.sights, tape.groups = biases, sights, groups
    a.memory_td = _ending(ops, config, stack, x_td, a, mode)
    return a.memory_td, a


def decode(ops, config, routing, params, row, memory_sd, memory_row, keep=False, pasts=None, mode=EVALUATION, tape=None):
    """What the decoder makes of a row over the encoder's memory: last_td, after the last norm, and the Tree.

    pasts   one `Past` a block: the row is then the newest words of each sentence, and the Pasts remember the others
    tape    a Tape that is to be filled; the Tree then has what a backward pass needs
    """
    stack, routing = params.decoder, routing.of("decoder")
    a, x_td = _opening(ops, config, params, stack, row, mode)
    seen = len(pasts[0]) if pasts else 0
    biases, sights = _sights(ops, config, routing, stack, row, causal=True, seen=seen)
    if keep:
        a.bucket_ts, a.bias_hts = _whole_biases(biases)
    memory_sight = _memory_sight(ops, row, memory_row, memory_sd.dtype)
    groups = groups_of(ops, config, routing, row)
    for p, sight, past in zip(stack.blocks, sights, pasts or [None] * len(sights), strict=True):
        b = Tree()
        x_td, b.attention = layers.self_attention(ops, config, p.attention, x_td, sight, keep, past, mode)
        x_td, b.cross = layers.cross_attention(ops, config, p.cross, x_td, memory_sd, memory_sight, keep, past, mode)
        x_td = _feedforward(ops, config, routing, p, x_td, b, groups, keep, mode)
        a.blocks.append(b if keep or tape else _routes(b))
    if tape is not None:
        tape.biases, tape.sights, tape.memory_sight, tape.groups = biases, sights, memory_sight, groups
    a.last_td = _ending(ops, config, stack, x_td, a, mode)
    return a.last_td, a


def logits(ops, config, params, last_td):
    """How well each word would come next, (T, V)."""
    if config.tie_word_embeddings:
        return ops.unembed(last_td, params.embedding_vd)
    return ops.head(last_td, params.head_vd)


def _opening(ops, config, params, stack, row, mode):
    a = Tree(ids_t=row.ids_t, segment_t=row.segment_t, position_t=row.position_t, mask_t=row.mask_t, blocks=[])
    a.x_td = layers.with_dropout(ops, ops.embed(row.ids_t, table_of(config, params, stack).embedding_vd), a, mode)
    return a, a.x_td


def table_of(config, params, stack):
    """The Tree that has the table of a stack's words."""
    return stack if config.separate_embeddings else params


def _ending(ops, config, stack, x_td, a, mode):
    return layers.with_dropout(ops, ops.rms_norm(x_td, stack.norm_d, config.layer_norm_epsilon), a, mode, "keep_last_td")


def groups_of(ops, config, routing, row):
    """The Groups in which a row queues.

    Source: Switch, §2.2; flaxformer's and mesh-tf's cuts are those of `group_count` and `filled_batch`.
    """
    T = len(row.ids_t)
    if routing.group == "sequence" or T == 0:
        return Groups(row.spans, row.spans, row.ids_t, row.mask_t)
    if routing.group == "flaxformer":
        return _flaxformer_groups(ops, routing, row, config.num_experts)
    size = {"everything": T, "packed": routing.group_tokens}.get(routing.group)
    size = size or T // ops.group_count(T, routing.group_tokens)
    return Groups([slice(start, start + size) for start in range(0, T, size)], row.spans, row.ids_t, row.mask_t)


def switches(stack):
    """The arrays of a stack's Switch layers, in order."""
    return [block.switch for block in stack.blocks if "switch" in block]


def stack_losses(ops, routing, stack, groups):
    """The router losses of a stack's pass; none where all its layers are sparse and the routing then has none."""
    sparse = switches(stack)
    if len(sparse) == len(stack.blocks) and not routing.all_sparse_loss:
        return objective.RouterLosses([], [])
    return objective.router_losses(ops, routing, sparse, groups)


def _flaxformer_groups(ops, routing, row, E):
    """Equal parts of the padded batch, its places in the row numbered as they lie; what is added has the numbers behind it."""
    B, T = row.sentences, len(row.ids_t) // row.sentences
    filled = ops.filled_batch(B, T, E)
    added = filled[0] * filled[1] - B * T
    place_bt = np.full(filled, -1)
    place_bt[:B, :T] = np.arange(B * T).reshape(B, T)
    place_bt[place_bt < 0] = np.arange(B * T, B * T + added)
    members = np.split(place_bt.ravel(), ops.group_count(place_bt.size, routing.group_tokens, E))
    ids_t = np.concatenate([row.ids_t, np.zeros(added, row.ids_t.dtype)])
    return Groups(members, row.spans, ids_t, np.concatenate([row.mask_t, np.zeros(added, bool)]), added)


def _feedforward(ops, config, routing, p, x_td, b, groups, keep, mode):
    if "switch" in p:
        x_td, b.switch = layers.switch(ops, config, routing, p.switch, x_td, groups, keep, mode)
        if keep and len(x_td):
            b.switch.balance = objective.router_losses(ops, routing, [b.switch], groups).balances[0]
    else:
        x_td, b.dense = layers.dense(ops, config, p.dense, x_td, mode)
    return x_td


def _routes(b):
    if "switch" not in b:
        return Tree()
    kept = ("h_te", "p_te", "expert_t", "slot_t", "expert_tn", "slot_tn")
    return Tree(switch=Tree(**{name: b.switch[name] for name in kept if name in b.switch}))


def _sights(ops, config, routing, stack, row, causal, seen=0):
    """Each sentence's Bias, and the Sight of every block: one for all, but that transformers 5.0 forgets the
    distances above block 0, and keeps the masks."""
    biases = _own_biases(ops, config, stack.bias_rh, row, causal, seen)
    sight = Sight(row.spans, row.spans, [bias.bias_hts for bias in biases])
    if routing.position_bias == "every block":
        return biases, [sight] * len(stack.blocks)
    blind = [bias.bias_hts for bias in _own_biases(ops, config, 0 * stack.bias_rh, row, causal, seen)]
    return biases, [sight] + [sight._replace(biases=blind)] * (len(stack.blocks) - 1)


def _own_biases(ops, config, bias_rh, row, causal, seen=0):
    """Each sentence's Bias; those of one length and one mask share theirs."""
    known, biases = {}, []
    for span in row.spans:
        position_t, mask_t = row.position_t[span], row.mask_t[span]
        key = position_t.tobytes(), mask_t.tobytes()
        if key not in known:
            known[key] = _own_bias(ops, config, bias_rh, position_t, mask_t, causal, seen)
        biases.append(known[key])
    return biases


def _whole_biases(biases):
    bucket_ts = layers.block_diagonal([bias.bucket_ts for bias in biases], between=-1)
    return bucket_ts, layers.block_diagonal([bias.bias_hts for bias in biases], between=-np.inf)


def _own_bias(ops, config, bias_rh, position_t, mask_t, causal, seen):
    buckets = config.relative_attention_num_buckets, config.relative_attention_max_distance
    position_s = np.concatenate([np.arange(seen), position_t])
    mask_s = np.concatenate([np.ones(seen, bool), mask_t])
    bucket_ts = ops.relative_bucket(ops.distance(position_t, position_s), *buckets, bidirectional=not causal)
    see_ts = ops.visible(position_t, position_s, mask_s, causal)
    return Bias(bucket_ts, see_ts, ops.hide(ops.position_bias(bucket_ts, bias_rh), see_ts))


def _memory_sight(ops, row, memory_row, dtype):
    biases = []
    for t, s in zip(row.spans, memory_row.spans, strict=True):
        see_ts = ops.visible(row.position_t[t], memory_row.position_t[s], memory_row.mask_t[s], causal=False)
        biases.append(ops.hide(np.zeros((1, 1, 1), dtype), see_ts))
    return Sight(row.spans, memory_row.spans, biases)
