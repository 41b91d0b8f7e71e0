"""How fast can weights be read at all, and how many bytes of them does a decoding step read?

A step with one sentence is a walk through the decoder's weights, so its speed limit is plain reading.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

import numpy as np

from ..config import Config
from ..kernels.jit import jit
from ..model import SwitchTransformer

__all__ = ["BYTES", "Reader", "step_bytes", "zero_fraction"]

BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}
LARGEST_CACHE = 1 << 28
PASSES = 15


@jit()
def _joined(words: Any) -> Any:
    total = np.uint64(0)
    for i in range(len(words)):
        total |= words[i]
    return total


class Reader:
    """Reads through an array of so many bytes or more, with some threads; larger than any cache, so that it comes from memory."""

    def __init__(self, size: int, threads: int) -> None:
        words = np.arange(max(size, LARGEST_CACHE) // 8, dtype=np.uint64)
        self.size, self.parts = words.nbytes, np.array_split(words, threads)
        _joined(words[:1])

    def seconds(self) -> float:
        """The time of reading all of it once: the median of some passes, behind one that wakes the threads."""
        with ThreadPoolExecutor(len(self.parts)) as pool:
            return median([self._pass(pool) for _ in range(PASSES + 1)][1:])

    def _pass(self, pool: ThreadPoolExecutor) -> float:
        start = time.perf_counter()
        list(pool.map(_joined, self.parts))
        return time.perf_counter() - start


def step_bytes(config: Config, dtype: str, zeros: float = 0.0) -> int:
    """Bytes of weights that one step with one sentence reads, keys and values of the source being there already.

        D H K (4 own + 2 across)   D F up, D F (1 - zeros) down, both ups where gated   D E of each router   V D of the head

    zeros   the fraction of hidden units that are 0: their rows of wo need not be read
    """
    D, F, HK, L = config.d_model, config.d_ff, config.num_heads * config.d_kv, config.num_decoder_layers
    up = (2 if config.is_gated_act else 1) * D * F
    routers = len(config.sparse_decoder_layers) * D * config.num_experts * 4
    return round(BYTES[dtype] * (L * (6 * D * HK + up + D * F * (1 - zeros)) + config.vocab_size * D) + routers)


def zero_fraction(model: SwitchTransformer, ids: Any) -> float:
    """The fraction of the decoder's hidden units that are exactly 0 on these prompts; 0.0 where nothing cuts off at 0."""
    if model.config.dense_act_fn != "relu" or model.config.is_gated_act:
        return 0.0
    words = np.full((len(ids), 1), model.config.decoder_start_token_id)
    trace, blocks = model.trace(ids, decoder_input_ids=words).decoder, model.params.decoder.blocks
    found = [_zeros(a, p) for a, p in zip(trace.blocks, blocks, strict=True)]
    return float(np.mean(np.concatenate(found)))


def _zeros(a: Any, p: Any) -> Any:
    """Where the hidden units of one block are 0."""
    if "dense" in p:
        return a.dense.n_td @ p.dense.wi_df <= 0
    asked = zip(a.switch.n_td, a.switch.expert_t, strict=True)
    return np.stack([n_d @ p.switch.wi_edf[expert] <= 0 for n_d, expert in asked])
