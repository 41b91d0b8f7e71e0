"""What is asked of a search: how answers begin and end, and what is done to scores in between."""

from typing import NamedTuple

import numpy as np

from ..errors import InputError
from ..search import GenerationConfig
from . import processors

__all__ = ["Answer", "Task"]


class Answer(NamedTuple):
    """What was found: the words behind start and prefix, each one's log-probability, and the whole one's score.

    Log-probabilities are the model's own, before anything is done to its scores. A beam's score is the reference's.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    score: float


class Task(NamedTuple):
    """The settings of a search in ids.

    start_t     what every answer begins with: the start word, and the prefix behind it
    end_ids     words that end an answer
    bad_words   sequences of ids that must not be said
    has_ended   (new words) -> whether a text among `stop` was said
    heard       (answer's number, new words) called after every word
    """

    config: GenerationConfig
    start_t: np.ndarray
    end_ids: tuple[int, ...]
    bad_words: tuple[tuple[int, ...], ...] = ()
    has_ended: object = None
    heard: object = None

    def processed(self, ids_bt, scores_bv):
        """The scores once words are banned or penalised; raises InputError where none is left."""
        config, said = self.config, ids_bt.shape[1] - len(self.start_t)
        if config.repetition_penalty != 1:
            scores_bv = processors.penalise_repetition(ids_bt, scores_bv, config.repetition_penalty)
        if config.no_repeat_ngram_size:
            scores_bv = processors.ban_repeated_ngrams(ids_bt, scores_bv, config.no_repeat_ngram_size)
        if self.bad_words:
            scores_bv = processors.ban_words(ids_bt, scores_bv, self.bad_words)
        if said < config.min_new_tokens:
            scores_bv = processors.delay_end(scores_bv, said, config.min_new_tokens, self.end_ids)
        if np.isneginf(scores_bv.max(axis=1)).any():
            raise InputError(f"every word is banned after {said} words, expected bans that leave one")
        return scores_bv

    def narrowed(self, scores_bv):
        """The scores of the words that may be drawn."""
        config = self.config
        if config.temperature != 1:
            scores_bv = processors.temper(scores_bv, config.temperature)
        if config.top_k:
            scores_bv = processors.keep_top_k(scores_bv, config.top_k)
        if config.top_p < 1:
            scores_bv = processors.keep_top_p(scores_bv, config.top_p)
        if config.min_p > 0:
            scores_bv = processors.keep_min_p(scores_bv, config.min_p)
        if config.typical_p < 1:
            scores_bv = processors.keep_typical(scores_bv, config.typical_p)
        return scores_bv
