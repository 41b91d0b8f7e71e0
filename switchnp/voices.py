"""Decoders that speak side by side, each for one prompt, with a memory of what they said."""

import numpy as np

from . import layers, network
from .network import Row

__all__ = ["Voices"]


class Voices:
    """B decoders over the memory of the encoder; `keep` chooses which go on, some perhaps several times.

    With the cache the router sees only the words that are new, one of each voice but for the prefix, so a capacity of 1 or more
    drops none of them; without it, every step routes the whole answers anew, and may. The two agree wherever nothing is
    dropped.
    """

    passes = network

    def __init__(self, ops, config, routing, params, row, use_cache, mode):
        self._setup, self._mode = (ops, config, routing, params), mode
        self.row, self._use_cache = row, use_cache
        self._memory_sd, _ = self.passes.encode(*self._setup, row, mode=mode)
        self.restart()

    def restart(self):
        """One voice a prompt again, and nothing said."""
        self._pasts = self._new_pasts() if self._use_cache else None
        self._heard = 0
        self.prompt_b = np.arange(self.row.sentences)
        self._look()

    @property
    def log_softmax(self):
        """The engine's own."""
        return self._setup[0].log_softmax

    def logprobs(self, logits_bv, word_b):
        """The logarithm of the probability of one word of each voice, (B,)."""
        return np.take_along_axis(self.log_softmax(logits_bv), word_b[:, None], axis=1)[:, 0]

    def _new_pasts(self):
        return layers.new_pasts(self._setup[1])

    def _keep_pasts(self, voices):
        for past in self._pasts:
            past.keep(voices)

    def next_logits(self, ids_bt):
        """How well each word would come next in each answer, (B, V); with the cache the answers go on where they were."""
        ops, config, _, params = self._setup
        newest = ids_bt[:, self._heard :]
        said = _rectangle(newest, self._heard)
        last_td, _ = self.passes.decode(*self._setup, said, self._memory_td, self._memory_row, pasts=self._pasts, mode=self._mode)
        if self._pasts is not None:
            self._heard = ids_bt.shape[1]
        return self.passes.logits(ops, config, params, last_td[newest.shape[1] - 1 :: newest.shape[1]])

    def keep(self, voices):
        """Go on with these voices, in this order."""
        voices = np.asarray(voices)
        if np.array_equal(voices, np.arange(len(self.prompt_b))):
            return
        prompt_b, self.prompt_b = self.prompt_b, self.prompt_b[voices]
        if self._pasts is not None:
            self._keep_pasts(voices)
        if not np.array_equal(prompt_b, self.prompt_b):
            self._look()

    def _look(self):
        """The memory that each voice looks at, end to end."""
        self._memory_row, token_t = self.row.chosen(self.prompt_b)
        self._memory_td = self._memory_sd[token_t]


def _rectangle(ids_bt, first_position):
    B, T = ids_bt.shape
    positions = np.tile(np.arange(first_position, first_position + T), B)
    return Row(ids_bt.ravel(), np.repeat(np.arange(B), T), positions, np.ones(B * T, bool), B)
