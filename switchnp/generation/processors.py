"""What is done to the scores of the next word before one is chosen: each a pure function of the words so far and the scores.

ids_bt      the answers so far, B of them, each T words long, the start word first
scores_bv   logits, or log-probabilities where beams are searched; a banned word has -inf
"""

import numpy as np

from ..equations import softmax

__all__ = [
    "ban_repeated_ngrams",
    "ban_words",
    "delay_end",
    "keep_min_p",
    "keep_top_k",
    "keep_top_p",
    "keep_typical",
    "penalise_repetition",
    "temper",
]


def penalise_repetition(ids_bt, scores_bv, penalty):
    """Make each word that was said, the start word too, less likely: positive scores are divided, negative ones multiplied.

    Source: CTRL (Keskar et al. 2019), §4.1; transformers' RepetitionPenaltyLogitsProcessor.
    """
    said_bt = np.take_along_axis(scores_bv, ids_bt, axis=1)
    scores_bv = scores_bv.copy()
    weaker_bt = np.where(said_bt < 0, said_bt * said_bt.dtype.type(penalty), said_bt / said_bt.dtype.type(penalty))
    np.put_along_axis(scores_bv, ids_bt, weaker_bt, axis=1)
    return scores_bv


def ban_repeated_ngrams(ids_bt, scores_bv, n):
    """Ban what would complete an n-gram that was said before.

    Source: transformers' NoRepeatNGramLogitsProcessor.
    """
    scores_bv = scores_bv.copy()
    if ids_bt.shape[1] < n:
        return scores_bv
    ngrams_btn = np.lib.stride_tricks.sliding_window_view(ids_bt, n, axis=1)
    begun_bt = (ngrams_btn[:, :, :-1] == ids_bt[:, None, ids_bt.shape[1] - n + 1 :]).all(axis=2)
    for b, t in np.argwhere(begun_bt):
        scores_bv[b, ngrams_btn[b, t, -1]] = -np.inf
    return scores_bv


def ban_words(ids_bt, scores_bv, words):
    """Ban words of one token, and the last token of longer ones once the others were just said.

    Source: transformers' NoBadWordsLogitsProcessor.

    words   sequences of ids
    """
    scores_bv = scores_bv.copy()
    for *begun, last in words:
        if len(begun) <= ids_bt.shape[1]:
            said_b = (ids_bt[:, ids_bt.shape[1] - len(begun) :] == np.array(begun, ids_bt.dtype)).all(axis=1)
            scores_bv[said_b, last] = -np.inf
    return scores_bv


def delay_end(scores_bv, said, minimum, end_ids):
    """Ban the end while fewer words were said than the minimum.

    Source: transformers' MinNewTokensLengthLogitsProcessor.

    said    how many new words there are
    """
    scores_bv = scores_bv.copy()
    if said < minimum:
        scores_bv[:, list(end_ids)] = -np.inf
    return scores_bv


def temper(scores_bv, temperature):
    """Flatten the distribution above 1, sharpen it below; towards 0 only the likeliest word is left.

    Source: transformers' TemperatureLogitsWarper.
    """
    return scores_bv / scores_bv.dtype.type(temperature)


def keep_top_k(scores_bv, k):
    """Keep the k likeliest words, and what is exactly as likely as the last of them.

    Source: Fan et al. 2018, §5; transformers' TopKLogitsWarper.
    """
    k = min(k, scores_bv.shape[1])
    least_b1 = np.partition(scores_bv, -k, axis=1)[:, -k, None]
    return _only(scores_bv, scores_bv >= least_b1)


def keep_top_p(scores_bv, p):
    """Keep the likeliest words whose probabilities sum to p: the smallest such set, and at least one word.

    Source: Holtzman et al. 2020, §3.1; transformers' TopPLogitsWarper.
    """
    order_bv = np.argsort(scores_bv, axis=1, kind="stable")
    rarer_bv = np.cumsum(np.take_along_axis(softmax(scores_bv), order_bv, axis=1), axis=1)
    kept_bv = rarer_bv > 1 - p
    kept_bv[:, -1] = True
    return _only(scores_bv, _back(kept_bv, order_bv))


def keep_min_p(scores_bv, p):
    """Keep the words that are at least p times as likely as the likeliest.

    Source: Nguyen et al. 2024, §3; transformers' MinPLogitsWarper.
    """
    probs_bv = softmax(scores_bv)
    return _only(scores_bv, probs_bv >= probs_bv.dtype.type(p) * probs_bv.max(axis=1, keepdims=True))


def keep_typical(scores_bv, p):
    """Keep the words whose surprise is nearest to the expected one, until their probabilities sum to p.

    Source: Meister et al. 2022, §3; transformers' TypicalLogitsWarper.
    """
    probs_bv = softmax(scores_bv)
    with np.errstate(divide="ignore", invalid="ignore"):
        surprise_bv = -np.log(probs_bv)
        entropy_b1 = np.where(probs_bv > 0, probs_bv * surprise_bv, 0).sum(axis=1, keepdims=True)
    apart_bv = np.abs(surprise_bv - entropy_b1)
    order_bv = np.argsort(apart_bv, axis=1, kind="stable")
    nearer_bv = np.cumsum(np.take_along_axis(probs_bv, order_bv, axis=1), axis=1)
    last_b1 = np.minimum((nearer_bv < p).sum(axis=1, keepdims=True), scores_bv.shape[1] - 1)
    farthest_b1 = np.take_along_axis(np.take_along_axis(apart_bv, order_bv, axis=1), last_b1, axis=1)
    return _only(scores_bv, apart_bv <= farthest_b1)


def _only(scores_bv, kept_bv):
    return np.where(kept_bv, scores_bv, scores_bv.dtype.type(-np.inf))


def _back(sorted_bv, order_bv):
    """What stands in sorted order, in the vocabulary's."""
    back_bv = np.empty_like(sorted_bv)
    np.put_along_axis(back_bv, order_bv, sorted_bv, axis=1)
    return back_bv
