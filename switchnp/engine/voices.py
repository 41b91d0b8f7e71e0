"""Decoders that speak side by side, as `voices.Voices` are, one compiled program a word."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from ..config import ACTIVATIONS
from ..derived import lazy
from ..layers import capacity
from ..tree import Tree
from ..voices import Voices as ReadableVoices
from . import elementary, mixing, passes, pool, step
from .instructions import BFLOAT16, FLOAT32, INT8, SIZES, WIDENED
from .matrices import ENOUGH
from .words import Words

__all__ = ["Voices"]


class Voices(ReadableVoices):
    """See voices.Voices: the same questions, the same answers."""

    passes = passes

    @lazy
    def _heard_by(self) -> list[Any]:
        """The memory's keys and values in each block."""
        _, config, _, params = self._setup
        return [passes.heard(config, p.cross, self._memory_sd) for p in params.decoder.blocks]

    @lazy
    def _desk(self) -> _Desk | None:
        ops, config, routing, params = self._setup
        return _Desk(config, routing, params, self._heard_by) if _plain(ops, config, routing) else None

    def _new_pasts(self) -> Any:
        return Words(self.row.sentences, self._heard_by)

    def _look(self) -> None:
        """The memory that each voice looks at: its prompt's, which is there once."""
        self._memory_td, self._memory_row = self._memory_sd, _Looked(self.row, [self.row.spans[b] for b in self.prompt_b])

    def _keep_pasts(self, voices: Any) -> None:
        self._pasts.keep(voices)

    def logprobs(self, logits_bv: Any, word_b: Any) -> Any:
        """See voices.Voices.logprobs."""
        return mixing.logprobs(logits_bv, word_b)

    def next_logits(self, ids_bt: Any) -> Any:
        """How well each word would come next in each answer, (B, V)."""
        if self._pasts is None or self._desk is None or ids_bt.shape[1] - self._heard != 1:
            return super().next_logits(ids_bt)
        ops, config, _, params = self._setup
        table = params.decoder.embedding_vd if config.separate_embeddings else params.embedding_vd
        spans = self.row.spans
        spans_b2 = np.array([(spans[b].start, spans[b].stop) for b in self.prompt_b], np.int64)
        logits_bv = self._desk.spoken(ops.embed(ids_bt[:, -1], table), self._pasts, spans_b2, self.row.mask_t)
        self._heard = ids_bt.shape[1]
        return logits_bv


def _plain(ops: Any, config: Any, routing: Any) -> bool:
    """Does every word go, alone and undropped, to the expert of the largest logit?"""
    own = routing.of("decoder")
    alone = own.router == "top 1" and own.eval_policy == "argmax" and own.group == "sequence"
    return alone and config.num_decoder_layers > 0 and capacity(ops, config, own, 1) >= 1


class _Looked:
    """A row of prompts, and whose each voice's is."""

    def __init__(self, row: Any, spans: list[slice]) -> None:
        self.position_t, self.mask_t, self.spans = row.position_t, row.mask_t, spans


class _Desk:
    """Where the numbers of one step lie: weights by address, and room for what is on the way."""

    def __init__(self, config: Any, routing: Any, params: Tree, heard: Any) -> None:
        blind = routing.of("decoder").position_bias != "every block"
        stack, H = params.decoder, config.num_heads
        self.config, self.params = config, params
        self.routers = [np.ascontiguousarray(p.switch.wr_de.T) if "switch" in p else None for p in stack.blocks]
        rows = [_row(p, i, blind, router) for i, (p, router) in enumerate(zip(stack.blocks, self.routers, strict=True))]
        self.table = np.array(rows, np.int64)
        self.head = params.embedding_vd if config.tie_word_embeddings else params.head_vd
        self.S = len(heard[0][0])
        # one head after the other, so that each is read in one line
        self.heard_kind = WIDENED if self.head.kind in (BFLOAT16, INT8) else FLOAT32
        dtype = ml_dtypes.bfloat16 if self.heard_kind == WIDENED else np.float32
        self.memory = [
            np.stack([each[i].reshape(self.S, H, config.d_kv).transpose(1, 0, 2) for each in heard]).astype(dtype, order="C")
            for i in range(2)
        ]
        self.bias_hx = np.empty((H, 0), np.float32)
        self.rooms: Any = None

    def spoken(self, x_bd: Any, memory: Words, spans_b2: Any, mask_s: Any) -> Any:
        """The logits of every voice after one more word, which the memory keeps."""
        T = len(memory)
        memory.room(1)
        self._know_distances(T + 1)
        n = self._numbers(len(x_bd), T)
        logits_bv = np.empty((n.B, n.V), np.float32)
        heard = self.memory[0].ctypes.data, self.memory[1].ctypes.data, self.heard_kind
        lines = memory.place_t2, np.ascontiguousarray(memory.line_bt)
        remembered = step.Memory(*lines, self.bias_hx, spans_b2, *heard, mask_s)
        own = self.table, self.params.decoder.norm_d, self.head.weight, x_bd, remembered, self._rooms(n.B)
        pool.POOL.run(self._crew(n.B), step.spoken, n, *own, logits_bv)
        memory.said()
        return logits_bv

    def _crew(self, voices: int) -> int:
        c = self.config
        block = 6 * c.num_heads * c.d_kv + (3 if c.is_gated_act else 2) * c.d_ff
        numbers = voices * c.d_model * (c.num_decoder_layers * block + c.vocab_size)
        return self.head.threads if SIZES[self.head.kind] * numbers >= 2 * ENOUGH else 1

    def _numbers(self, B: int, T: int) -> step.Numbers:
        c = self.config
        shape = c.d_model, c.d_ff, c.num_heads, c.d_kv, c.num_experts, c.vocab_size
        activation = elementary.ACTIVATIONS.index(ACTIVATIONS[c.dense_act_fn])
        return step.Numbers(
            self.head.kind, B, *shape, T, self.S, c.is_gated_act, activation, c.layer_norm_epsilon, c.tie_word_embeddings
        )

    def _know_distances(self, words: int) -> None:
        if self.bias_hx.shape[1] < words:
            from ..equations import relative_bucket

            far = max(words, 2 * self.bias_hx.shape[1], 64)
            buckets = self.config.relative_attention_num_buckets, self.config.relative_attention_max_distance
            bucket_x = relative_bucket(-np.arange(far), *buckets, bidirectional=False)
            self.bias_hx = np.ascontiguousarray(self.params.decoder.bias_rh[bucket_x].T)

    def _rooms(self, B: int) -> Any:
        if self.rooms is None or len(self.rooms.q_bn) != B:
            c = self.config
            N = c.num_heads * c.d_kv
            shares = max(step.STRETCHES, c.num_heads)
            widths = [(2, shares, B, c.d_model), (B, N), (B, N), (B, c.d_ff), (B if c.is_gated_act else 0, c.d_ff)]
            self.rooms = step.Rooms(*(np.zeros(width, np.float32) for width in widths))
        return self.rooms


def _row(p: Any, i: int, blind: bool, transposed: Any) -> list[int]:
    """One block's row of the table of addresses (see step.py)."""
    ffn = p.switch if "switch" in p else p.dense
    end = "edf" if "switch" in p else "df"
    gated = f"wi0_{end}" in ffn
    wi, linear = (ffn[f"wi0_{end}"], ffn[f"wi1_{end}"]) if gated else (ffn[f"wi_{end}"],) * 2
    wo = ffn.wo_efd if "switch" in p else ffn.wo_fd
    own = p.attention.norm_d, p.attention.wq_dhk, p.attention.wk_dhk, p.attention.wv_dhk, p.attention.wo_hkd
    cross = p.cross.norm_d, p.cross.wq_dhk, p.cross.wo_hkd
    router = (transposed, ffn.br_e if "br_e" in ffn else None) if "switch" in p else (None, None)
    addresses = [_address(each) for each in (*own, *cross, ffn.norm_d, wi, linear, wo, *router)]
    flags = [("switch" in p, 0), (i == 0 or not blind, 0)]
    return [int(number) for pair in addresses + flags for number in pair]


def _address(weight: Any) -> tuple[int, int]:
    if weight is None:
        return 0, 0
    return weight.weight[:2] if hasattr(weight, "kind") else (weight.ctypes.data, 0)
