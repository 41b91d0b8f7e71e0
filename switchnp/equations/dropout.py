"""Forget a little, at random, in training."""

import numpy as np

__all__ = ["keep_mask"]


def keep_mask(shape, rate, rng, dtype=np.float32):
    """What to multiply by so that each number is lost as often as `rate` says, and the others make up for it.

        keep = [U >= rate] / (1 - rate)

    Source: Srivastava et al. 2014, §4, scaled in training as in transformers 5.23.

    Gradient: none, it is a constant, and its product's gradient is multiplied by it again.

    rate    at least 0 and below 1; kept to 1/65536
    """
    lost = rng.integers(2**16, size=shape, dtype=np.uint16) < round(rate * 2**16)
    return np.where(lost, dtype(0), dtype(1 / (1 - rate)))
