"""Switch §2.4: the weights before the first step."""

import math

import numpy as np
import pytest
from draw import seeds, sizes
from hypothesis import given

from switchnp.equations import initial


def drawn(size, seed):
    """How many inputs, and a scale."""
    rng = np.random.default_rng(seed)
    return int(rng.integers(1, 100 * size)), float(rng.choice([0.1, 1.0, 2.0]))


@given(sizes, seeds)
def test_no_weight_stands_farther_out_than_two_sigma(size, seed):
    """E8: beyond that it is drawn again, and again if need be; 1 in 500 needs it twice."""
    inputs, scale = drawn(size, seed)

    w = initial.truncated_normal((size, 1000), inputs, scale, np.random.default_rng(seed))

    assert (np.abs(w) <= 2 * math.sqrt(scale / inputs)).all()


@pytest.mark.parametrize("seed", range(3))
def test_truncation_leaves_less_than_sigma_and_nothing_makes_up_for_it(seed):
    """E8: of a million weights the mean is 0 and the standard deviation 0.8796 sigma; both are known to 0.001 here."""
    w = initial.truncated_normal(10**6, 25, 0.25, np.random.default_rng(seed))

    sigma = math.sqrt(0.25 / 25)
    assert w.mean() / sigma == pytest.approx(0, abs=0.004)
    assert w.std() / sigma == pytest.approx(0.8796, abs=0.002)


@given(sizes, seeds)
def test_ten_times_less_scale_is_not_ten_times_less_weight(size, seed):
    """E8: the scale is a variance's; every weight of one seed shrinks by sqrt(10)."""
    inputs, _ = drawn(size, seed)

    usual, recommended = (
        initial.truncated_normal((size, 10), inputs, scale, np.random.default_rng(seed)) for scale in (1.0, 0.1)
    )

    np.testing.assert_allclose(usual, math.sqrt(10) * recommended, rtol=1e-14)


@given(sizes, seeds)
def test_four_times_the_inputs_halve_every_weight(size, seed):
    """E8: sigma = sqrt(s / n), to the bit."""
    inputs, scale = drawn(size, seed)

    few, many = (initial.truncated_normal((size, 10), n, scale, np.random.default_rng(seed)) for n in (inputs, 4 * inputs))

    np.testing.assert_array_equal(many, few / 2)


@pytest.mark.parametrize("scale", [0.1, 1.0, 2.0])
@pytest.mark.parametrize("D", [4, 32, 128])
def test_what_a_layer_answers_varies_by_the_scale_however_wide_its_input(D, scale):
    """E8: inputs of mean square 1 come out with variance 0.8796^2 s; 20000 outputs know it to one part in 100."""
    rng = np.random.default_rng(D)
    x_d = rng.normal(size=D)
    x_d /= math.sqrt(np.mean(np.square(x_d)))

    y_f = x_d @ initial.truncated_normal((D, 20000), D, scale, rng)

    assert y_f.var() == pytest.approx(0.8796**2 * scale, rel=0.05)


@given(sizes, seeds)
def test_a_seed_decides_every_bit(size, seed):
    """E8: the same seed draws the same weights; another seed, or the same generator once more, draws others."""
    inputs, scale = drawn(size, seed)
    rng = np.random.default_rng(seed)

    first, again = (initial.truncated_normal((size, 100), inputs, scale, rng) for _ in range(2))
    same, other = (initial.truncated_normal((size, 100), inputs, scale, np.random.default_rng(s)) for s in (seed, seed + 1))

    np.testing.assert_array_equal(first, same)
    assert (first != again).all()
    assert (first != other).all()


@pytest.mark.parametrize("shape", [(), 3, (0, 4), (2, 3), (2, 3, 4)])
def test_weights_have_any_shape_and_double_precision(shape):
    """E8: a vector, a matrix, or a matrix for each expert."""
    w = initial.truncated_normal(shape, 4, 1.0, np.random.default_rng(0))

    assert np.shape(w) == np.empty(shape).shape
    assert w.dtype == np.float64
