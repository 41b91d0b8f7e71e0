"""Answers that are known already: how likely was each word?"""

import numpy as np

from .task import Answer

__all__ = ["told"]


def told(voices, start_t, answers):
    """The Answer that each voice would have been, had it said these words: an answer and a score as `one_by_one` has them.

    start_t     what every answer begins with
    answers     new words, of one voice each; at least one word
    """
    number_b, logprobs = np.arange(len(answers)), [[] for _ in answers]
    ids_bt = np.tile(start_t, (len(answers), 1))
    for t in range(max(map(len, answers))):
        going_b = np.array([t < len(answers[b]) for b in number_b])
        voices.keep(np.flatnonzero(going_b))
        ids_bt, number_b = ids_bt[going_b], number_b[going_b]
        word_b = np.array([answers[b][t] for b in number_b])
        logprob_b = voices.logprobs(voices.next_logits(ids_bt), word_b)
        for b, logprob in zip(number_b, logprob_b.tolist(), strict=True):
            logprobs[b].append(logprob)
        ids_bt = np.column_stack([ids_bt, word_b])
    return [Answer(tuple(words), tuple(each), sum(each)) for words, each in zip(answers, logprobs, strict=True)]
