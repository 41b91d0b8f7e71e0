"""The engine's logarithms of probabilities are those of the equation, also of what is no number."""

import numpy as np
import pytest

from switchnp import equations
from switchnp.engine import mixing

ROWS = {
    "numbers": [0.5, -3, 2, 40],
    "far apart": [-60, 0, 60, 0],
    "some that must not be": [-np.inf, 1, -np.inf, 2],
    "NaN": [1, np.nan, 2, 3],
    "infinity": [1, np.inf, 2, 3],
    "none that may be": [-np.inf] * 4,
}


@pytest.mark.parametrize("width", [4, 21, 64, 100])
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_logarithms_are_those_of_the_equation(row, width):
    h_te = np.array([(row * width)[:width], [1.0] * width], np.float32)
    with np.errstate(invalid="ignore"):
        expected = equations.log_softmax(h_te.astype(np.float64))

    np.testing.assert_allclose(mixing.log_softmax(h_te), expected, rtol=2e-7, atol=1e-5)


def test_the_logarithm_of_one_word_is_that_of_all():
    logits_bv, word_b = np.random.default_rng(0).normal(size=(5, 77)).astype(np.float32), np.array([0, 76, 5, 5, 64])

    alone, together = mixing.logprobs(logits_bv, word_b), mixing.log_softmax(logits_bv)

    np.testing.assert_array_equal(alone, together[np.arange(5), word_b])
