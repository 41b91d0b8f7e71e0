"""One answer a voice, word by word: the likeliest, or drawn at random."""

import numpy as np

from .task import Answer

__all__ = ["draw", "one_by_one", "stream_of"]


def one_by_one(voices, task, streams=None):
    """An Answer for each voice. Without random streams every word is the likeliest; who has ended costs nothing more.

    streams     a random generator a voice
    """
    number_b = np.arange(len(voices.prompt_b))
    ids_bt = np.tile(task.start_t, (len(number_b), 1))
    said, logprobs = [[] for _ in number_b], [[] for _ in number_b]
    for _ in range(task.config.max_new_tokens):
        logits_bv = voices.next_logits(ids_bt)
        word_b = _next_words(task, ids_bt, logits_bv, [streams[b] for b in number_b] if streams else None)
        logprob_b = voices.logprobs(logits_bv, word_b)
        for b, word, logprob in zip(number_b, word_b.tolist(), logprob_b.tolist(), strict=True):
            said[b].append(word)
            logprobs[b].append(logprob)
            if task.heard:
                task.heard(int(b), said[b])
        going_b = np.array([not _ended(task, said[b]) for b in number_b])
        if not going_b.any():
            break
        ids_bt, number_b = np.column_stack([ids_bt, word_b])[going_b], number_b[going_b]
        voices.keep(np.flatnonzero(going_b))
    return [Answer(tuple(words), tuple(each), sum(each)) for words, each in zip(said, logprobs, strict=True)]


def draw(scores_bv, streams):
    """A word for each voice, each as often as its probability says; one number of each voice's own stream."""
    words = []
    for scores_v, stream in zip(scores_bv.astype(np.float64), streams, strict=True):
        probability_v = np.exp(scores_v - scores_v.max())
        heap_v = np.cumsum(probability_v)
        words.append(min(int(np.searchsorted(heap_v, stream.random() * heap_v[-1], side="right")), len(heap_v) - 1))
    return np.array(words)


def stream_of(seed, prompt_ids, number):
    """The random stream of one answer, which depends on the prompt and not on what else is in the batch."""
    return np.random.default_rng([seed, number, *prompt_ids])


def _next_words(task, ids_bt, logits_bv, streams):
    scores_bv = task.processed(ids_bt, logits_bv)
    return scores_bv.argmax(axis=1) if streams is None else draw(task.narrowed(scores_bv), streams)


def _ended(task, said):
    return said[-1] in task.end_ids or (task.has_ended is not None and task.has_ended(said))
