"""Switch eq. 1 and the choice of eq. 2: which expert, and how strongly?"""

import math

import numpy as np
import pytest
from draw import arguments, seeds, sizes
from hypothesis import given

from switchnp import equations as eq


@given(sizes, seeds)
def test_a_token_shares_out_exactly_one(size, seed):
    """1a: the probabilities of a token are not negative and sum to 1."""
    drawn = arguments(eq.router_probs, size, seed)

    p_te = eq.router_probs(**drawn)

    assert (p_te >= 0).all()
    np.testing.assert_allclose(p_te.sum(axis=1), 1, rtol=1e-14)


@given(sizes, seeds)
def test_the_probabilities_are_the_formula_written_out(size, seed):
    """1: exp(h_i) / sum_j exp(h_j), h = W_r x, one number at a time."""
    drawn = arguments(eq.router_probs, size, seed)
    x_td, wr_de, br_e = drawn.values()
    D, E = wr_de.shape

    p_te = eq.router_probs(**drawn)

    for x_d, p_e in zip(x_td, p_te, strict=True):
        h_e = [sum(x_d[d] * wr_de[d, e] for d in range(D)) + (0 if br_e is None else br_e[e]) for e in range(E)]
        expected_e = [math.exp(h) / sum(map(math.exp, h_e)) for h in h_e]
        np.testing.assert_allclose(p_e, expected_e, rtol=1e-12)


@given(sizes, seeds)
def test_a_constant_added_to_a_tokens_logits_changes_nothing(size, seed):
    """1b: p(h + c) = p(h), with another c for each token."""
    h_te, c_t1 = arguments(lambda h_te, c_t1: None, size, seed).values()

    shifted_te = eq.softmax(h_te + 10 * c_t1)

    np.testing.assert_allclose(shifted_te, eq.softmax(h_te), rtol=1e-12)


@given(sizes, seeds)
def test_the_mean_of_the_routers_columns_is_free(size, seed):
    """1b: subtracting it from every expert's weights leaves the probabilities alone."""
    x_td, wr_de, _ = arguments(eq.router_probs, size, seed).values()

    p_te = eq.router_probs(x_td, wr_de - wr_de.mean(axis=1, keepdims=True))

    np.testing.assert_allclose(p_te, eq.router_probs(x_td, wr_de), rtol=1e-12)


@given(sizes, seeds)
def test_the_loudest_logit_is_the_largest_probability(size, seed):
    """1c: argmax p = argmax h."""
    h_te = arguments(eq.softmax, size, seed)["h_te"]

    expert_t = eq.top1(eq.softmax(h_te))

    np.testing.assert_array_equal(expert_t, np.argmax(h_te, axis=1))


@given(sizes, seeds)
def test_a_gate_lies_between_an_equal_share_and_all(size, seed):
    """1c: p_max is in [1/N, 1]."""
    h_te = arguments(eq.softmax, size, seed)["h_te"]
    p_te = eq.softmax(h_te)

    gate_t = eq.gate(p_te, eq.top1(p_te))

    assert (gate_t >= (1 - 1e-15) / h_te.shape[1]).all()
    assert (gate_t <= 1).all()


@given(sizes, seeds)
def test_a_single_expert_gets_everything(size, seed):
    """1d: N = 1 makes p exactly 1."""
    x_td, wr_de, _ = arguments(eq.router_probs, size, seed).values()

    p_te = eq.router_probs(x_td, wr_de[:, :1])

    assert (p_te == 1).all()


@given(sizes, seeds)
def test_logits_of_ten_thousand_do_not_overflow(size, seed):
    """1e: in float32 too; a warning would fail this test."""
    h_te = arguments(eq.softmax, size, seed, np.float32)["h_te"]
    h_te *= np.float32(1e4) / np.abs(h_te).max()

    p_te = eq.softmax(h_te)

    assert p_te.dtype == np.float32
    assert np.isfinite(p_te).all()
    np.testing.assert_allclose(p_te.sum(axis=1), 1, rtol=1e-6)


@given(sizes, seeds)
def test_a_router_of_zeros_sends_every_token_to_expert_0(size, seed):
    """1f: p is 1/N everywhere, and the tie goes to the lowest number."""
    x_td, wr_de, _ = arguments(eq.router_probs, size, seed).values()

    p_te = eq.router_probs(x_td, 0 * wr_de)

    assert (p_te == 1 / wr_de.shape[1]).all()
    assert (eq.top1(p_te) == 0).all()


@given(sizes, seeds)
def test_of_equals_the_lowest_number_is_chosen(size, seed):
    """1f: whichever of them tie."""
    p_te = np.round(arguments(eq.softmax, size, seed)["h_te"])

    expert_t = eq.top1(p_te)

    assert expert_t.tolist() == [row.index(max(row)) for row in p_te.tolist()]


@given(sizes, seeds)
def test_a_gate_moves_with_its_logit(size, seed):
    """1g: by p (1 - p); a softmax over the selected expert alone would be 1 whatever h, and teach the router nothing."""
    h_te = arguments(eq.softmax, size, seed)["h_te"]
    p_te = eq.softmax(h_te)
    expert_t = eq.top1(p_te)
    step_te = 1e-6 * (expert_t[:, None] == np.arange(h_te.shape[1]))

    up_t, down_t = (eq.gate(eq.softmax(h_te + sign * step_te), expert_t) for sign in (1, -1))
    renormalised_t1 = eq.softmax(np.take_along_axis(h_te, expert_t[:, None], axis=1))

    p_t = p_te.max(axis=1)
    np.testing.assert_allclose((up_t - down_t) / 2e-6, p_t * (1 - p_t), atol=1e-8)
    assert (renormalised_t1 == 1).all()


@given(sizes, seeds)
def test_a_gate_is_the_probability_itself(size, seed):
    """1g: bit for bit, not renormalised over the selected set."""
    p_te, expert_t = arguments(eq.gate, size, seed).values()

    gate_t = eq.gate(p_te, expert_t)

    assert gate_t.tolist() == [p_te[t, e] for t, e in enumerate(expert_t)]


@given(sizes, seeds)
def test_half_precision_tokens_are_routed_in_single_precision(size, seed):
    """§2.4: selective precision; float16 sums would be off by 1e-3."""
    x_td, wr_de = (value.astype(np.float16) for value in list(arguments(eq.router_probs, size, seed).values())[:2])

    h_te = eq.router_logits(x_td, wr_de)

    assert h_te.dtype == np.float32
    exact_te = x_td.astype(np.float64) @ wr_de.astype(np.float64)
    np.testing.assert_allclose(h_te, exact_te, rtol=1e-6, atol=1e-5)


@given(sizes, seeds)
def test_a_router_bias_favours_an_expert_for_every_token_alike(size, seed):
    """1: Hugging Face's router_bias is added to the logits."""
    x_td, wr_de, br_e = arguments(lambda x_td, wr_de, br_e: None, size, seed).values()

    h_te = eq.router_logits(x_td, wr_de, br_e)

    np.testing.assert_array_equal(h_te, eq.router_logits(x_td, wr_de) + br_e)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_among_no_experts_nothing_is_shared(dtype):
    """1a: an empty row of scores stays an empty row."""
    p_te = eq.softmax(np.empty((3, 0), dtype))

    assert p_te.shape == (3, 0)
    assert p_te.dtype == dtype
