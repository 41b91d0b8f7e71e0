"""The dense layer and its activations."""

import math

import numpy as np
import pytest
from draw import arguments, seeds, sizes
from hypothesis import given

from switchnp import equations as eq

ACTIVATIONS = [eq.relu, eq.gelu, eq.gelu_tanh, eq.silu]


@given(sizes, seeds)
def test_relu_keeps_what_is_positive(size, seed):
    """E10: max(x, 0)."""
    x_tf = arguments(eq.relu, size, seed)["x_tf"]

    y_tf = eq.relu(x_tf)

    assert y_tf.tolist() == [[x if x > 0 else 0 for x in x_f] for x_f in x_tf]


@given(sizes, seeds)
def test_gelu_keeps_x_as_likely_as_a_normal_falls_below_it(size, seed):
    """E10: x/2 (1 + erf(x / sqrt 2)), by math.erf; far out on the left it is nothing."""
    x_tf = 3 * arguments(eq.gelu, size, seed)["x_tf"]

    y_tf = eq.gelu(x_tf)

    expected_tf = [[x / 2 * (1 + math.erf(x / math.sqrt(2))) for x in x_f] for x_f in x_tf]
    np.testing.assert_allclose(y_tf, expected_tf, rtol=1e-11, atol=1e-14)


def test_gelu_has_its_known_values():
    """E10: Phi(1) = 0.841344746..., Phi(2) = 0.977249868..."""
    y_tf = eq.gelu(np.array([[0.0, 1.0, -1.0, 2.0, -40.0, 40.0]]))

    np.testing.assert_allclose(y_tf, [[0, 0.8413447460685429, -0.15865525393145707, 1.9544997361036416, 0, 40]], rtol=1e-14)


@given(sizes, seeds)
def test_gelu_by_tanh_is_near_gelu_and_not_the_same(size, seed):
    """E10: the approximation is off by less than 5e-4 everywhere, and by more than 9e-5 at x = 2."""
    x_tf = 3 * arguments(eq.gelu_tanh, size, seed)["x_tf"]
    two_tf = np.array([[2.0]])

    y_tf = eq.gelu_tanh(x_tf)

    expected_tf = [[x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) for x in x_f] for x_f in x_tf]
    np.testing.assert_allclose(y_tf, expected_tf, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(y_tf, eq.gelu(x_tf), rtol=0, atol=5e-4)
    assert abs(eq.gelu_tanh(two_tf) - eq.gelu(two_tf)) > 9e-5


@given(sizes, seeds)
def test_silu_keeps_x_as_far_as_its_logistic_says(size, seed):
    """E10: x / (1 + exp(-x))."""
    x_tf = 3 * arguments(eq.silu, size, seed)["x_tf"]

    y_tf = eq.silu(x_tf)

    expected_tf = [[x / (1 + math.exp(-x)) for x in x_f] for x_f in x_tf]
    np.testing.assert_allclose(y_tf, expected_tf, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("activation", ACTIVATIONS[1:])
@given(size=sizes, seed=seeds)
def test_what_is_kept_of_x_and_of_minus_x_makes_x(activation, size, seed):
    """E10: act(x) - act(-x) = x; smooth ones weigh x by a share and -x by the rest."""
    x_tf = arguments(activation, size, seed)["x_tf"]

    both_tf = activation(x_tf) - activation(-x_tf)

    np.testing.assert_allclose(both_tf, x_tf, rtol=1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_far_out_every_activation_is_relu(activation, dtype):
    """E10: in its own precision, and without overflow; a warning would fail this test."""
    x_tf = np.array([[-1e4, -100, 0, 100, 1e4]], dtype)

    y_tf = activation(x_tf)

    assert y_tf.dtype == dtype
    np.testing.assert_allclose(y_tf, eq.relu(x_tf), rtol=1e-6, atol=1e-30)


@given(sizes, seeds)
def test_a_dense_layer_goes_up_through_the_activation_and_back(size, seed):
    """E10: y = act(x W_in) W_out, without biases."""
    drawn = arguments(eq.ffn, size, seed) | {"keep_tf": None}
    x_td, wi_df, wo_fd, activation, _ = drawn.values()

    y_td = eq.ffn(**drawn)

    np.testing.assert_allclose(y_td, activation(x_td @ wi_df) @ wo_fd, rtol=1e-11, atol=1e-12)


@given(sizes, seeds)
def test_a_dense_layer_of_nothing_is_nothing(size, seed):
    """E10: there is no bias, and every activation keeps 0 at 0."""
    drawn = arguments(eq.ffn, size, seed)

    y_td = eq.ffn(**drawn | {"x_td": 0 * drawn["x_td"]})

    assert (y_td == 0).all()


@given(sizes, seeds)
def test_a_relu_layer_scales_with_its_token(size, seed):
    """E10: ffn(2 x) = 2 ffn(x) exactly; positively homogeneous, which is why a gate on the input of ReLU goes unnoticed."""
    drawn = arguments(eq.ffn, size, seed) | {"activation": eq.relu}

    y_td = eq.ffn(**drawn | {"x_td": 2 * drawn["x_td"]})

    np.testing.assert_array_equal(y_td, 2 * eq.ffn(**drawn))


@given(sizes, seeds)
def test_a_gated_layer_multiplies_the_activated_branch_by_the_linear_one(size, seed):
    """Table 9, GEGLU: y = (act(x W_0) * (x W_1)) W_out."""
    drawn = arguments(eq.gated_ffn, size, seed) | {"keep_tf": None}
    x_td, wi0_df, wi1_df, wo_fd, activation, _ = drawn.values()

    y_td = eq.gated_ffn(**drawn)

    expected_td = (activation(x_td @ wi0_df) * (x_td @ wi1_df)) @ wo_fd
    np.testing.assert_allclose(y_td, expected_td, rtol=1e-11, atol=1e-12)


@given(sizes, seeds)
def test_the_second_branch_of_a_gated_layer_is_linear(size, seed):
    """Table 9, GEGLU: W_1 -> -2 W_1 makes exactly -2 y; the activation is on W_0's branch alone."""
    drawn = arguments(eq.gated_ffn, size, seed)

    y_td = eq.gated_ffn(**drawn | {"wi1_df": -2 * drawn["wi1_df"]})

    np.testing.assert_array_equal(y_td, -2 * eq.gated_ffn(**drawn))
