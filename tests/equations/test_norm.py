"""T5's norm: nothing but the root mean square."""

import math

import numpy as np
from draw import arguments, seeds, sizes
from hypothesis import given
from hypothesis import strategies as st

from switchnp import equations as eq


def drawn_at(size, seed, eps=0.0):
    """Tokens and a scale for each feature."""
    return arguments(eq.rms_norm, size, seed) | {"eps": eps}


def unscaled(size, seed):
    """The same with g = 1."""
    drawn = drawn_at(size, seed)
    return drawn | {"norm_d": np.ones_like(drawn["norm_d"])}


@given(sizes, seeds, st.sampled_from([0.0, 1e-6, 0.1]))
def test_the_norm_is_the_formula_written_out(size, seed, eps):
    """§4.2: y = g x / sqrt(mean(x^2) + eps), one number at a time."""
    drawn = drawn_at(size, seed, eps)
    x_td, norm_d, _ = drawn.values()

    y_td = eq.rms_norm(**drawn)

    for x_d, y_d in zip(x_td, y_td, strict=True):
        root = math.sqrt(sum(x * x for x in x_d) / len(x_d) + eps)
        np.testing.assert_allclose(y_d, [g * x / root for g, x in zip(norm_d, x_d, strict=True)], rtol=1e-12)


@given(sizes, seeds, st.floats(1e-6, 1e6))
def test_the_size_of_a_token_does_not_matter(size, seed, c):
    """§4.2: x -> c x changes nothing for c > 0, at eps 0."""
    drawn = drawn_at(size, seed)

    y_td = eq.rms_norm(**drawn | {"x_td": c * drawn["x_td"]})

    np.testing.assert_allclose(y_td, eq.rms_norm(**drawn), rtol=1e-12)


@given(sizes, seeds)
def test_the_opposite_of_a_token_has_the_opposite_norm(size, seed):
    """§4.2: odd, bit for bit."""
    drawn = drawn_at(size, seed, eps=1e-6)

    y_td = eq.rms_norm(**drawn | {"x_td": -drawn["x_td"]})

    np.testing.assert_array_equal(y_td, -eq.rms_norm(**drawn))


@given(sizes, seeds)
def test_every_token_comes_out_at_unit_scale(size, seed):
    """§4.2: root mean square 1 for g = 1."""
    y_td = eq.rms_norm(**unscaled(size, seed))

    np.testing.assert_allclose(np.mean(np.square(y_td), axis=1), 1, rtol=1e-12)


@given(sizes, seeds)
def test_once_normed_is_normed(size, seed):
    """§4.2: idempotent for g = 1."""
    drawn = unscaled(size, seed)
    y_td = eq.rms_norm(**drawn)

    again_td = eq.rms_norm(**drawn | {"x_td": y_td})

    np.testing.assert_allclose(again_td, y_td, rtol=1e-12)


@given(sizes, seeds)
def test_a_shift_of_all_features_is_seen(size, seed):
    """§4.2: not shift-invariant; no mean is taken off, so equal features of 2 come out as 1 and not as 0."""
    drawn = unscaled(size, seed)

    y_td = eq.rms_norm(**drawn | {"x_td": 0 * drawn["x_td"] + 2})

    assert (y_td == 1).all()


@given(sizes, seeds)
def test_nothing_stays_nothing(size, seed):
    """§4.2: 0 -> 0, without a warning."""
    drawn = drawn_at(size, seed, eps=1e-6)

    y_td = eq.rms_norm(**drawn | {"x_td": 0 * drawn["x_td"]})

    assert (y_td == 0).all()


@given(sizes, seeds)
def test_a_token_as_faint_as_eps_is_halved_in_power(size, seed):
    """§4.2: eps is added under the root, so mean(x^2) = eps comes out as 1/sqrt 2."""
    drawn = unscaled(size, seed) | {"eps": 1e-6}

    y_td = eq.rms_norm(**drawn | {"x_td": 0 * drawn["x_td"] + 1e-3})

    np.testing.assert_allclose(y_td, math.sqrt(0.5), rtol=1e-12)


@given(sizes, seeds)
def test_growing_a_token_moves_nothing(size, seed):
    """§4.2: the Jacobian kills x, at eps 0; at right angles to x it does not."""
    drawn = drawn_at(size, seed)
    x_td, norm_d, eps = drawn.values()

    along_td = (eq.rms_norm(x_td + 1e-6 * x_td, norm_d, eps) - eq.rms_norm(x_td - 1e-6 * x_td, norm_d, eps)) / 2e-6
    v_td = np.random.default_rng(seed).normal(size=x_td.shape)
    v_td -= x_td * np.sum(v_td * x_td, axis=1, keepdims=True) / np.sum(x_td * x_td, axis=1, keepdims=True)
    root_t1 = np.sqrt(np.mean(np.square(x_td), axis=1, keepdims=True))
    v_td *= root_t1
    across_td = (eq.rms_norm(x_td + 1e-6 * v_td, norm_d, eps) - eq.rms_norm(x_td - 1e-6 * v_td, norm_d, eps)) / 2e-6

    np.testing.assert_allclose(along_td, 0, atol=1e-8)
    np.testing.assert_allclose(across_td, norm_d * v_td / root_t1, rtol=1e-6, atol=1e-8)


@given(sizes, seeds)
def test_the_features_have_no_order(size, seed):
    """§4.2: equivariant to permuting features together with g."""
    drawn = drawn_at(size, seed, eps=1e-6)
    x_td, norm_d, eps = drawn.values()
    order_d = np.random.default_rng(seed).permutation(len(norm_d))

    y_td = eq.rms_norm(x_td[:, order_d], norm_d[order_d], eps)

    np.testing.assert_allclose(y_td, eq.rms_norm(**drawn)[:, order_d], rtol=1e-12)


@given(sizes, seeds)
def test_half_precision_tokens_are_squared_in_single_precision(size, seed):
    """§4.2: computed in float32; 300 squared is beyond float16, and a warning would fail this test."""
    drawn = unscaled(size, seed)
    x_td = np.full(drawn["x_td"].shape, 300, np.float16)

    y_td = eq.rms_norm(x_td, drawn["norm_d"].astype(np.float16), 1e-6)

    assert y_td.dtype == np.float16
    assert (y_td == 1).all()
