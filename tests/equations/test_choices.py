"""Several experts, an expert by name alone, and experts nudged towards balance: who is chosen, and how strongly."""

import numpy as np
import pytest
from draw import arguments, array, seeds, sizes, slope
from hypothesis import given
from hypothesis import strategies as st

from switchnp import equations as eq

choices = st.integers(1, 9)
crowds = st.integers(1, 99)  # equals among 16 or fewer stay in order without being told to
VOCABULARY = np.arange(32128)


class Always:
    """A generator that draws the same number for ever; whatever it may be, some generator will."""

    def __init__(self, number):
        self.number = number

    def uniform(self, size):
        """That number, from 0 to just below 1."""
        return np.full(size, self.number)


def probabilities(size, seed):
    """p_te alone."""
    return arguments(lambda p_te: None, size, seed)["p_te"]


def sixteenths(values):
    """Numbers that tie often, and that add up without rounding."""
    return np.round(16 * values) / 16


def two_gates(second, T):
    """Renormalised gates of T tokens whose second choices are worth this much."""
    return np.tile([1 - second, second], (T, 1))


@given(crowds, seeds, choices)
def test_the_choices_are_the_likeliest_experts_and_of_equals_the_lowest(size, seed, k):
    """2: different experts, the first choice first; all of them where there are no more than k."""
    p_te = sixteenths(probabilities(size, seed))

    expert_tn = eq.top_k(p_te, k)

    for expert_n, p_e in zip(expert_tn, p_te, strict=True):
        assert expert_n.tolist() == sorted(range(len(p_e)), key=lambda e: (-p_e[e], e))[:k]


@given(sizes, seeds)
def test_the_first_of_the_choices_is_the_papers(size, seed):
    """2: k = 1 is the argmax."""
    p_te = sixteenths(probabilities(size, seed))

    expert_tn = eq.top_k(p_te, 1)

    np.testing.assert_array_equal(expert_tn, eq.top1(p_te)[:, None])


@given(sizes, seeds, choices)
def test_the_gates_are_the_probabilities_themselves(size, seed, k):
    """1g: bit for bit, never rising, not renormalised over the selected set."""
    p_te = probabilities(size, seed)
    expert_tn = eq.top_k(p_te, k)

    gate_tn = eq.gates(p_te, expert_tn)

    assert gate_tn.tolist() == [[p_te[t, e] for e in expert_n] for t, expert_n in enumerate(expert_tn)]
    assert (np.diff(gate_tn, axis=1) <= 0).all()


@given(sizes, seeds, choices)
def test_renormalised_gates_are_a_softmax_over_the_chosen(size, seed, k):
    """GShard: they share out one; Mixtral gets there by taking the softmax after the choice."""
    h_te = arguments(eq.softmax, size, seed)["h_te"]
    p_te = eq.softmax(h_te)
    expert_tn = eq.top_k(p_te, k)

    gate_tn = eq.renormalise(eq.gates(p_te, expert_tn))

    np.testing.assert_allclose(gate_tn.sum(axis=1), 1, rtol=1e-14)
    np.testing.assert_allclose(gate_tn, eq.softmax(np.take_along_axis(h_te, expert_tn, axis=1)), rtol=1e-12)


@given(sizes, seeds)
def test_one_renormalised_choice_teaches_the_router_nothing(size, seed):
    """1g: its gate is 1 whatever the logits, so its slope is zero; the first of two has the slope g_1 g_2."""
    h_te = array("h_te", {"t": 1, "e": size + 1}, np.random.default_rng(seed))
    expert_tn = eq.top_k(eq.softmax(h_te), 2)

    def gate(h_te, k):
        return eq.renormalise(eq.gates(eq.softmax(h_te), expert_tn[:, :k]))[0, 0]

    alone_te, of_two_te = slope(lambda h_te: gate(h_te, 1), h_te), slope(lambda h_te: gate(h_te, 2), h_te)

    g = gate(h_te, 2)
    expected_e = np.zeros(size + 1)
    expected_e[expert_tn[0]] = g * (1 - g), -g * (1 - g)
    assert gate(h_te, 1) == 1
    assert (alone_te == 0).all()
    np.testing.assert_allclose(of_two_te[0], expected_e, atol=1e-8)


@given(sizes, seeds)
def test_every_first_choice_asks_and_every_weighty_other(size, seed):
    """GShard: a gate of the threshold or more always asks, and one of nothing never; a third choice by its own gate."""
    others_tn = np.random.default_rng(seed).choice([0, 0.2, 0.25, 0.5], (size, 2))
    gate_tn = np.concatenate([1 - others_tn.sum(axis=1, keepdims=True), others_tn], axis=1)

    for rng in (np.random.default_rng(seed), Always(0.0), Always(1 - 2**-53)):
        asks_tn = eq.second_asks(gate_tn, rng)

        assert asks_tn.dtype == bool
        assert asks_tn[:, 0].all()
        np.testing.assert_array_equal(asks_tn[:, 1:], others_tn > 0)


@pytest.mark.parametrize(("second", "threshold"), [(0.05, 0.2), (0.1, 0.2), (0.18, 0.2), (0.2, 0.5), (0.4, 0.5)])
def test_a_second_choice_asks_as_often_as_it_matters(second, threshold):
    """GShard: in g_2 / threshold of the draws, each token by a draw of its own."""
    T, chance = 40_000, second / threshold

    asks_tn = eq.second_asks(two_gates(second, T), np.random.default_rng(0), threshold)

    assert asks_tn[:, 0].all()
    assert asks_tn[:, 1].mean() == pytest.approx(chance, abs=4 * (chance * (1 - chance) / T) ** 0.5)  # 4 standard errors


def test_the_threshold_is_a_fifth_unless_told_otherwise():
    """GShard: mesh-tf's moe_second_threshold_train."""
    gate_tn = two_gates(0.1, 1000)

    asks_tn, told_tn = eq.second_asks(gate_tn, np.random.default_rng(0)), eq.second_asks(gate_tn, np.random.default_rng(0), 0.2)

    np.testing.assert_array_equal(asks_tn, told_tn)


@given(seeds)
def test_the_same_seed_lets_the_same_choices_ask(seed):
    """GShard: all chance comes from rng, and goes on in it."""
    gate_tn, rng = two_gates(0.1, 100), np.random.default_rng(seed)

    first_tn, next_tn, again_tn = (eq.second_asks(gate_tn, source) for source in (rng, rng, np.random.default_rng(seed)))

    np.testing.assert_array_equal(first_tn, again_tn)
    assert (first_tn != next_tn).any()


def test_of_one_expert_there_is_no_second_choice_to_ask():
    """GShard: N = 1 makes one column, and it asks."""
    asks_tn = eq.second_asks(np.ones((3, 1)), np.random.default_rng(0))

    assert asks_tn.tolist() == [[True]] * 3


@given(sizes, seeds)
def test_a_words_expert_depends_on_the_word_alone(size, seed):
    """Hash: not on where it stands, nor on its neighbours, nor on the width of its number."""
    ids_t = np.random.default_rng(seed).choice(VOCABULARY, size)

    expert_t = eq.hashed_expert(ids_t, 64)

    alone_t = [eq.hashed_expert(ids_t[t : t + 1], 64).item() for t in range(size)]
    assert expert_t.tolist() == alone_t
    assert expert_t.tolist() == eq.hashed_expert(ids_t.astype(np.int32), 64).tolist()


@given(st.integers(1, 300))
def test_a_words_expert_is_the_formula_written_out(E):
    """Hash: the high bits of (id * 2654435769 mod 2^32), out of E; in whole numbers of any length."""
    expert_t = eq.hashed_expert(VOCABULARY[::97], E)

    assert expert_t.tolist() == [(id_ * 2654435769 % 2**32) * E // 2**32 for id_ in VOCABULARY[::97].tolist()]
    assert expert_t.dtype == np.int64


@pytest.mark.parametrize("E", [2, 3, 8, 15, 16, 32, 60, 64, 128, 256])
def test_the_words_of_a_vocabulary_are_spread_evenly(E):
    """Hash: each expert has its share of all 32128, but for five; numbers without gaps spread better than chance would."""
    asked_e = np.bincount(eq.hashed_expert(VOCABULARY, E), minlength=E)

    assert len(asked_e) == E
    assert np.abs(asked_e - len(VOCABULARY) / E).max() <= 5


def test_of_one_expert_every_word_is():
    """Hash: N = 1."""
    assert (eq.hashed_expert(VOCABULARY, 1) == 0).all()


@given(sizes, seeds)
def test_a_handicap_is_added_to_every_tokens_probabilities(size, seed):
    """Bias: argmax of p_i + b_i, one number at a time; of equals the lowest."""
    p_te, b_e = (sixteenths(value) for value in arguments(eq.biased_top1, size, seed).values())

    expert_t = eq.biased_top1(p_te, b_e)

    for expert, p_e in zip(expert_t, p_te, strict=True):
        asked_e = [p + b for p, b in zip(p_e, b_e, strict=True)]
        assert expert == asked_e.index(max(asked_e))


@given(sizes, seeds)
def test_without_a_handicap_the_choice_is_the_papers(size, seed):
    """Bias: b = 0 is eq. 2's argmax."""
    p_te = sixteenths(probabilities(size, seed))

    expert_t = eq.biased_top1(p_te, np.zeros(p_te.shape[1]))

    np.testing.assert_array_equal(expert_t, eq.top1(p_te))


@given(sizes, seeds, st.integers(-8, 8))
def test_the_same_handicap_for_all_is_none(size, seed, shift):
    """Bias: exactly invariant to a common shift."""
    p_te, b_e = (sixteenths(value) for value in arguments(eq.biased_top1, size, seed).values())

    shifted_t = eq.biased_top1(p_te, b_e + shift)

    np.testing.assert_array_equal(shifted_t, eq.biased_top1(p_te, b_e))


@given(sizes, seeds)
def test_a_handicap_beyond_any_probability_attracts_every_token(size, seed):
    """Bias: of more than 1 above all others."""
    p_te = probabilities(size, seed)
    E = p_te.shape[1]
    favourite = seed % E

    expert_t = eq.biased_top1(p_te, 1.5 * (np.arange(E) == favourite))

    assert (expert_t == favourite).all()


@given(sizes, seeds)
def test_the_gate_never_sees_the_handicap(size, seed):
    """Bias: it is p_i itself, bit for bit, and b moves the choice alone."""
    p_te, b_e = arguments(eq.biased_top1, size, seed).values()
    untouched_te = p_te.copy()

    gate_t = eq.gate(p_te, expert_t := eq.biased_top1(p_te, b_e))

    assert gate_t.tolist() == [untouched_te[t, e] for t, e in enumerate(expert_t)]


@given(sizes, seeds)
def test_a_step_makes_overasked_experts_dearer_and_underasked_ones_cheaper(size, seed):
    """Bias: by the rate, however far from their share they are, and by nothing at exactly T / N."""
    b_e, expert_t = arguments(lambda b_e, expert_t: None, size, seed).values()
    before_e, E = b_e.copy(), len(b_e)

    after_e = eq.balancing_step(b_e, expert_t, 0.125)

    for e in range(E):
        share = E * expert_t.tolist().count(e)
        step = 0.125 * ((share < len(expert_t)) - (share > len(expert_t)))
        assert after_e[e] == before_e[e] + step
    np.testing.assert_array_equal(b_e, before_e)


@given(sizes, sizes, seeds)
def test_in_balance_no_handicap_moves(E, each, seed):
    """Bias: the exact share stays, bit for bit."""
    b_e = array("b_e", {"e": E}, np.random.default_rng(seed))

    after_e = eq.balancing_step(b_e, np.arange(E * each) % E, 0.001)

    np.testing.assert_array_equal(after_e, b_e)


def test_the_handicaps_may_drift_together():
    """Bias: a step counts experts and not tokens, so it need not sum to zero; which no choice can see."""
    after_e = eq.balancing_step(np.zeros(4), np.zeros(12, int), 0.5)

    assert after_e.tolist() == [-0.5, 0.5, 0.5, 0.5]


@given(sizes, seeds, st.integers(-8, 8))
def test_a_common_shift_stays_out_of_every_step(size, seed, shift):
    """Bias: the shifted handicaps take the same steps, and choose the same experts, for good."""
    p_te, b_e = (sixteenths(value) for value in arguments(eq.biased_top1, size, seed).values())
    shifted_e = b_e + shift

    for _ in range(10):
        b_e = eq.balancing_step(b_e, eq.biased_top1(p_te, b_e), 0.0625)
        shifted_e = eq.balancing_step(shifted_e, eq.biased_top1(p_te, shifted_e), 0.0625)

    np.testing.assert_array_equal(shifted_e, b_e + shift)


@pytest.mark.parametrize("E", [2, 4, 8, 16])
def test_with_frozen_logits_the_load_settles_in_a_narrow_band(E):
    """Bias: the largest error of the load shrinks twentyfold, to no more than what one step of the rate moves."""
    rng = np.random.default_rng(E)
    p_te = eq.softmax(rng.normal(size=(64 * E, E)) + rng.normal(size=E))
    b_e = np.zeros(E)

    loads = []
    for _ in range(1000):
        expert_t = eq.biased_top1(p_te, b_e)
        loads.append(np.bincount(expert_t, minlength=E))
        b_e = eq.balancing_step(b_e, expert_t, rate=0.001)

    first, last = np.abs(loads[0] - 64).max(), np.abs(np.array(loads[-100:]) - 64).max()
    assert last <= first / 20
    assert last <= np.abs(np.diff(loads[-100:], axis=0)).max()


def test_a_step_stays_in_the_precision_of_the_bias():
    """Auxiliary-loss-free: float32 weights stay float32."""
    b_e = eq.balancing_step(np.zeros(3, np.float32), np.array([0, 0, 1]), 0.1)

    assert b_e.dtype == np.float32
    np.testing.assert_array_equal(b_e, np.float32([-0.1, 0, 0.1]))
