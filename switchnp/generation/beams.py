"""Beam search: the best few answers to each prompt are kept at every word.

As transformers 4.51 to 5.23 search, step by step; the names are ours.
"""

import math
from typing import NamedTuple

import numpy as np

from .task import Answer

__all__ = ["beam_search"]

NEVER = -1e9
"""The score of an answer that is not there, in the reference."""


class Ended(NamedTuple):
    """An answer that has ended: its score and its new words with their log-probabilities."""

    score: float
    ids: tuple
    logprobs: tuple


def beam_search(voices, task):
    """The `num_return_sequences` best Answers of each prompt, best first, prompt after prompt."""
    prompts = [_Prompt(task) for _ in voices.prompt_b]
    K = task.config.num_beams
    voices.keep(np.repeat(np.arange(len(prompts)), K))
    live = prompts
    while live:
        ids_bt = np.concatenate([prompt.ids_bt for prompt in live])
        logits_bv = voices.next_logits(ids_bt)
        raw_bv = voices.log_softmax(logits_bv)
        scores_bv = task.processed(ids_bt, raw_bv)
        chosen = [prompt.step(scores_bv[k : k + K], raw_bv[k : k + K]) for k, prompt in _voices_of(live, K)]
        going = [(k, prompt, beams) for (k, prompt), beams in zip(_voices_of(live, K), chosen, strict=True) if prompt.searching]
        live = [prompt for _, prompt, _ in going]
        if live:
            voices.keep(np.concatenate([k + beams for k, _, beams in going]))
    return [answer for prompt in prompts for answer in prompt.best()]


def _voices_of(prompts, K):
    return [(i * K, prompt) for i, prompt in enumerate(prompts)]


class _Prompt:
    """The running beams of one prompt and its ended answers."""

    def __init__(self, task):
        K = task.config.num_beams
        self.task = task
        self.ids_bt = np.tile(task.start_t, (K, 1))
        self.score_b = np.full(K, NEVER, np.float32)
        self.score_b[0] = 0
        self.logprobs = [()] * K
        self.ended, self.can_improve, self.searching = [], True, True

    @property
    def said(self):
        """How many new words the running beams have."""
        return self.ids_bt.shape[1] - len(self.task.start_t)

    def step(self, scores_bv, raw_bv):
        """One more word: which beams go on, in the order of their scores."""
        config, K, V = self.task.config, self.task.config.num_beams, scores_bv.shape[1]
        total_bv = scores_bv + self.score_b[:, None]
        best = _largest(total_bv.ravel(), max(2, 1 + len(self.task.end_ids)) * K)
        beam_n, word_n, total_n = best // V, best % V, total_bv.ravel()[best]
        at_limit = self.said + 1 == config.max_new_tokens
        over_n = np.isin(word_n, self.task.end_ids) | at_limit
        first = [self._candidate(raw_bv, b, v) for b, v in zip(beam_n[:K], word_n[:K], strict=True)]
        self._end([Ended(self._score(total_n[n]), *said) for n, said in enumerate(first) if over_n[n]])
        open_n = np.where(over_n, total_n + np.float32(NEVER), total_n)
        going = _largest(open_n, K)
        self.logprobs = [self._candidate(raw_bv, beam_n[n], word_n[n])[1] for n in going]
        self.ids_bt = np.column_stack([self.ids_bt[beam_n[going]], word_n[going]])
        self.score_b = open_n[going]
        self._look_ahead(over_n.all())
        return beam_n[going]

    def best(self):
        """The best ended answers."""
        count = self.task.config.num_return_sequences
        return [Answer(ended.ids, ended.logprobs, ended.score) for ended in self.ended[:count]]

    def _candidate(self, raw_bv, b, v):
        new_t = self.ids_bt[b, len(self.task.start_t) :]
        return (*new_t.tolist(), int(v)), (*self.logprobs[b], float(raw_bv[b, v]))

    def _score(self, total, length=None):
        length = self.said + 1 if length is None else length
        return float(total) / length**self.task.config.length_penalty

    def _end(self, ended):
        full = len(self.ended) == self.task.config.num_beams and self.task.config.early_stopping is True
        if self.can_improve and not full:
            self.ended = sorted(self.ended + ended, key=lambda each: -each.score)[: self.task.config.num_beams]

    def _look_ahead(self, all_over):
        """Could a running beam still beat the worst answer that is kept? Once it could not, nothing is added."""
        config = self.task.config
        longest = config.early_stopping == "never" and config.length_penalty > 0
        best = self._score(self.score_b[0], config.max_new_tokens if longest else self.said)
        full = len(self.ended) == config.num_beams
        worst = self.ended[-1].score if full else -math.inf
        self.can_improve &= best > worst
        self.searching = self.can_improve and not (full and config.early_stopping is True) and not all_over


def _largest(values, count):
    """Where the largest values stand, largest first, the first of equals first."""
    count = min(count, len(values))
    least = np.partition(values, -count)[-count]
    found = np.flatnonzero(values >= least)
    return found[np.argsort(-values[found], kind="stable")][:count]
