"""How far apart are two tokens, and may one see the other?"""

import math

import numpy as np

__all__ = ["distance", "hide", "hide_vjp", "position_bias", "position_bias_vjp", "relative_bucket", "visible"]


def distance(position_t, position_s):
    """How many places the token looked at stands behind the one that looks; negative before it.

        r_ts = s - t

    Source: T5 (Raffel et al. 2020), §2.1.

    Gradient: none, positions are whole numbers.
    """
    return position_s[None, :] - position_t[:, None]


def relative_bucket(distance_ts, R, max_distance, bidirectional):
    """Which of R learned distances stands for this one: near ones exactly, far ones by their logarithm.

        bucket = |r|                                              where |r| < m
        bucket = m + floor(ln(|r|/m) / ln(max_distance/m) (n-m))  beyond, at most n - 1

    with m = n/2. A causal decoder sees none ahead and has n = R; a bidirectional encoder has n = R/2 for tokens behind, and
    the other half of its buckets for tokens ahead.

    Source: T5 (Raffel et al. 2020), §2.1; the float32 arithmetic, in this order, is that of transformers 5.23.

    Gradient: none, a bucket is a whole number.
    """
    if bidirectional:
        n = R // 2
        ahead_ts = np.where(distance_ts > 0, n, 0)
        far_ts = np.abs(distance_ts)
    else:
        n = R
        ahead_ts = 0
        far_ts = np.maximum(-distance_ts, 0)
    m = n // 2
    ratio_ts = np.maximum(far_ts, 1).astype(np.float32) / np.float32(m)
    steps_ts = np.log(ratio_ts) / np.float32(math.log(max_distance / m)) * np.float32(n - m)
    log_ts = np.minimum(m + steps_ts.astype(np.int64), n - 1)
    return ahead_ts + np.where(far_ts < m, far_ts, log_ts)


def position_bias(bucket_ts, bias_rh):
    """What each head adds to a score for the distance alone; all blocks of a stack share it.

        b_hts = W[bucket_ts, h]

    Source: T5 (Raffel et al. 2020), §2.1, transformers 5.23.
    """
    return bias_rh[bucket_ts].transpose(2, 0, 1)


def position_bias_vjp(dbias_hts, bias_hts, bucket_ts, bias_rh):
    """dW[r] = sum of db_hts over the pairs whose distance is in bucket r."""
    dbias_rh = np.zeros_like(bias_rh)
    np.add.at(dbias_rh, bucket_ts, dbias_hts.transpose(1, 2, 0))
    return (dbias_rh,)


def visible(position_t, position_s, mask_s, causal):
    """True where token t may look at token s: s is no padding and, in a decoder, not ahead of t.

    Source: transformers 5.23, masks.

    Gradient: none, true and false have no slope.
    """
    see_ts = np.broadcast_to(mask_s, (len(position_t), len(position_s)))
    return see_ts & (distance(position_t, position_s) <= 0) if causal else see_ts


def hide(bias_hts, see_ts):
    """Give what must not be seen the lowest finite score; a row that sees nothing then looks everywhere alike.

    Source: transformers 5.23, masks (finite, so that no row is NaN).
    """
    return np.where(see_ts, bias_hts, np.finfo(bias_hts.dtype).min)


def hide_vjp(dhidden_hts, hidden_hts, bias_hts, see_ts):
    """What is not seen is a constant; where one score stood for several, their gradients add up."""
    return (unbroadcast(np.where(see_ts, dhidden_hts, 0), bias_hts),)


def unbroadcast(dx_hts, x_hts):
    """The gradient of what was repeated along its axes of length one: the sum over the repetitions."""
    repeated = tuple(axis for axis, length in enumerate(x_hts.shape) if length == 1)
    return dx_hts.sum(axis=repeated, keepdims=True)
