"""Every gradient is the slope of its equation: one random direction through all its arguments at once, in float64."""

import inspect

import numpy as np
import pytest
from draw import arguments, flat, floats, seeds, sizes
from hypothesis import given

from switchnp import equations as eq

MIRRORED = [name for name in eq.__all__ if f"{name}_vjp" in eq.__all__]
STEP = 1e-6


def nudged(value, direction, step):
    """The same arguments, each float array a step further along its direction."""
    moves = iter(direction)

    def moved(each, name=""):
        if isinstance(each, list) and name != "keeps":
            return [moved(one) for one in each]
        constant = getattr(each, "dtype", None) != np.float64 or name.startswith("keep")
        return each if constant else each + step * next(moves)

    fresh = {"rng": np.random.default_rng(7)} if "rng" in value else {}
    return {name: moved(each, name) for name, each in value.items()} | fresh


@pytest.mark.parametrize("name", MIRRORED)
@given(size=sizes, seed=seeds)
def test_the_gradient_is_the_slope_in_any_direction(name, size, seed):
    equation, mirror = getattr(eq, name), getattr(eq, f"{name}_vjp")
    drawn = nudged(arguments(equation, size, seed), iter(lambda: 0.0, None), 0.0)
    rng = np.random.default_rng(seed)
    direction = [rng.normal(size=array.shape) for array in floats(drawn)]
    y = equation(**drawn)
    dy = np.where(np.abs(y) < 1e30, rng.normal(size=np.shape(y)), 0)

    gradients = flat(mirror(dy, y, **nudged(drawn, iter(lambda: 0.0, None), 0.0)))
    ahead, behind = (equation(**nudged(drawn, direction, step)) for step in (STEP, -STEP))

    seen = np.abs(y) < 1e30
    slope = np.sum(dy * np.where(seen, ahead - np.where(seen, behind, 0), 0)) / (2 * STEP)
    assert [array.shape for array in gradients] == [move.shape for move in direction]
    along = [np.sum(gradient * move) for gradient, move in zip(gradients, direction, strict=True)]
    np.testing.assert_allclose(np.sum(along), slope, rtol=1e-5, atol=1e-6 * (1 + np.sum(np.abs(along))))


@pytest.mark.parametrize("name", MIRRORED)
def test_a_gradient_has_the_number_type_of_its_argument(name):
    drawn = arguments(getattr(eq, f"{name}_vjp"), size=5, seed=11, dtype=np.float32)

    gradients = flat(getattr(eq, f"{name}_vjp")(*drawn.values()))

    assert {gradient.dtype for gradient in gradients} == {np.dtype(np.float32)}


@pytest.mark.parametrize("name", [name for name in eq.__all__ if not name.endswith("_vjp")])
def test_an_equation_has_a_gradient_or_says_why_it_has_none(name):
    says = "Gradient: none, " in inspect.getdoc(getattr(eq, name))

    assert says != (name in MIRRORED)


@given(sizes, seeds)
def test_the_rows_of_a_softmax_gradient_sum_to_zero_and_reach_every_expert(size, seed):
    """2k: dh_j = <g, E_i> p_i (delta_ij - p_j): an expert that was not asked is heard all the same."""
    h_te, expert_t = np.random.default_rng(seed).normal(size=(size, size + 1)), np.zeros(size, int)
    p_te = eq.softmax(h_te)
    dgate_t = np.random.default_rng([seed, 1]).normal(size=size)

    (dh_te,) = eq.softmax_vjp(*eq.gate_vjp(dgate_t, None, p_te, expert_t), p_te, h_te)

    np.testing.assert_allclose(dh_te.sum(axis=1), 0, atol=1e-12)
    expected_te = dgate_t[:, None] * p_te[:, :1] * ((np.arange(size + 1) == 0) - p_te)
    np.testing.assert_allclose(dh_te, expected_te, atol=1e-12)


@pytest.mark.parametrize("name", ["mixture", "gated_mixture"])
@given(size=sizes, seed=seeds)
def test_what_no_token_reached_has_a_gradient_of_exactly_zero(name, size, seed):
    """2l, 2m: an expert that kept nobody, and the token and gate of who was dropped."""
    drawn = arguments(getattr(eq, f"{name}_vjp"), size, seed)
    kept_t = drawn["slot_t"] >= 0

    dx_td, dgate_t, *dweights = getattr(eq, f"{name}_vjp")(**drawn)

    idle = ~np.isin(np.arange(len(dweights[0])), drawn["expert_t"][kept_t])
    assert not dx_td[~kept_t].any()
    assert not dgate_t[~kept_t].any()
    assert not any(dw_eio[idle].any() for dw_eio in dweights)


def test_a_lone_renormalised_gate_teaches_its_router_nothing():
    """1g: softmax over what was chosen is 1 for one choice, whatever the router says."""
    gate_tn = np.random.default_rng(3).uniform(0.1, 1, size=(7, 1))

    (dgate_tn,) = eq.renormalise_vjp(np.ones((7, 1)), eq.renormalise(gate_tn), gate_tn)

    np.testing.assert_allclose(dgate_tn, 0, atol=1e-15)


@given(seeds)
def test_dropout_loses_its_share_and_makes_up_for_it(seed):
    keep_td = eq.keep_mask((100, 200), 0.25, np.random.default_rng(seed), np.float64)

    assert set(np.unique(keep_td)) == {0, 1 / 0.75}
    assert abs((keep_td == 0).mean() - 0.25) < 0.02
    np.testing.assert_array_equal(keep_td, eq.keep_mask((100, 200), 0.25, np.random.default_rng(seed), np.float64))


def test_dropout_of_nothing_keeps_all():
    np.testing.assert_array_equal(eq.keep_mask((9, 9), 0.0, np.random.default_rng(0)), np.ones((9, 9), np.float32))


@given(sizes, seeds)
def test_smoothing_is_distilling_from_a_teacher_who_knows_nothing(size, seed):
    logits_tv, target_t, _ = arguments(eq.smoothed_cross_entropy, size, seed).values()
    ignorant_tv = np.full(logits_tv.shape, 1 / logits_tv.shape[1])

    loss = eq.smoothed_cross_entropy(logits_tv, target_t, 0.1)

    np.testing.assert_allclose(loss, eq.distilled_cross_entropy(logits_tv, target_t, ignorant_tv, 0.1), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(eq.smoothed_cross_entropy(logits_tv, target_t, 0.0), eq.cross_entropy(logits_tv, target_t))
