"""The weights before the first step."""

import math

import numpy as np

__all__ = ["truncated_normal"]


def truncated_normal(shape, inputs, scale, rng):
    """Small random weights, none of them far out: a draw beyond two sigma is drawn again.

        w ~ N(0, sigma^2) given |w| <= 2 sigma,    sigma = sqrt(s / n)

    What is left after truncation has a standard deviation of 0.8796 sigma. The paper does not say that it makes up for this,
    and nothing here does.

    Source: Switch, §2.4.

    Gradient: none, it draws the weights and depends on none.

    inputs  how many inputs each output adds up, the paper's n (fan-in)
    scale   the paper's s, of the variance: ten times smaller makes sigma smaller by sqrt(10); 0.1 is recommended, 1.0 was usual
    rng     one seed, one answer, to the bit
    return  float64
    """
    w = rng.standard_normal(shape)
    while (far := np.abs(w) > 2).any():
        w[far] = rng.standard_normal(np.count_nonzero(far))
    return math.sqrt(scale / inputs) * w
