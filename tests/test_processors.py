"""What is done to scores before a word is chosen: what each keeps, bans or leaves alone."""

import numpy as np
import pytest
from draw import seeds, sizes
from hypothesis import given
from hypothesis import strategies as st

from switchnp.generation import processors

shares = st.floats(0.01, 0.99)


def drawn(size, seed):
    """Words said so far, and scores of a vocabulary."""
    rng = np.random.default_rng(seed)
    V = int(rng.integers(2, 20))
    return rng.integers(V, size=(size, int(rng.integers(1, 9)))), (3 * rng.normal(size=(size, V))).astype(np.float32)


def probs(scores_bv):
    """Probabilities in float64."""
    exp_bv = np.exp(scores_bv.astype(np.float64) - scores_bv.max(axis=1, keepdims=True))
    return exp_bv / exp_bv.sum(axis=1, keepdims=True)


def kept(scores_bv):
    """Which words are left."""
    return np.isfinite(scores_bv)


@given(sizes, seeds)
def test_settings_that_ask_for_nothing_change_nothing(size, seed):
    ids_bt, scores_bv = drawn(size, seed)

    for same_bv in (
        processors.penalise_repetition(ids_bt, scores_bv, 1.0),
        processors.ban_repeated_ngrams(ids_bt, scores_bv, ids_bt.shape[1] + 1),
        processors.ban_words(ids_bt, scores_bv, ()),
        processors.delay_end(scores_bv, 3, 3, (1,)),
        processors.temper(scores_bv, 1.0),
        processors.keep_top_k(scores_bv, scores_bv.shape[1]),
        processors.keep_min_p(scores_bv, 0.0),
    ):
        np.testing.assert_array_equal(same_bv, scores_bv)


@given(sizes, seeds, shares)
def test_no_processor_changes_what_it_is_given_and_all_stay_in_its_precision(size, seed, share):
    ids_bt, scores_bv = drawn(size, seed)
    before_bt, before_bv = ids_bt.copy(), scores_bv.copy()

    after = [
        processors.penalise_repetition(ids_bt, scores_bv, 2.0),
        processors.ban_repeated_ngrams(ids_bt, scores_bv, 1),
        processors.ban_words(ids_bt, scores_bv, ((0,),)),
        processors.delay_end(scores_bv, 0, 1, (1,)),
        processors.temper(scores_bv, share),
        processors.keep_top_k(scores_bv, 1),
        *(keep(scores_bv, share) for keep in (processors.keep_top_p, processors.keep_min_p, processors.keep_typical)),
    ]

    np.testing.assert_array_equal(ids_bt, before_bt)
    np.testing.assert_array_equal(scores_bv, before_bv)
    assert {it.dtype for it in after} == {np.dtype(np.float32)}


@given(sizes, seeds, shares)
def test_top_p_keeps_the_smallest_set_whose_mass_reaches_p(size, seed, p):
    _, scores_bv = drawn(size, seed)

    left_bv = kept(processors.keep_top_p(scores_bv, p))

    for probs_v, left_v in zip(probs(scores_bv), left_bv, strict=True):
        assert probs_v[left_v].min() >= probs_v[~left_v].max(initial=0)
        assert probs_v[left_v].sum() >= p - 1e-5
        assert probs_v[left_v].sum() - probs_v[left_v].min() < p + 1e-5


@given(sizes, seeds, st.integers(1, 30))
def test_top_k_keeps_k_words_and_those_that_tie_with_the_last(size, seed, k):
    _, scores_bv = drawn(size, seed)
    scores_bv = np.round(scores_bv)

    left_bv = kept(processors.keep_top_k(scores_bv, k))

    for scores_v, left_v in zip(scores_bv, left_bv, strict=True):
        least = np.sort(scores_v)[::-1][min(k, len(scores_v)) - 1]
        np.testing.assert_array_equal(left_v, scores_v >= least)


@given(sizes, seeds, shares)
def test_min_p_keeps_what_is_at_least_so_many_times_as_likely_as_the_likeliest(size, seed, p):
    _, scores_bv = drawn(size, seed)

    left_bv = kept(processors.keep_min_p(scores_bv, p))

    ratio_bv = probs(scores_bv) / probs(scores_bv).max(axis=1, keepdims=True)
    assert (ratio_bv[left_bv] >= p * (1 - 1e-5)).all()
    assert (ratio_bv[~left_bv] <= p * (1 + 1e-5)).all()
    assert left_bv[np.arange(size), scores_bv.argmax(axis=1)].all()


@given(sizes, seeds, shares)
def test_typical_keeps_the_words_nearest_to_the_expected_surprise_until_they_reach_p(size, seed, p):
    _, scores_bv = drawn(size, seed)

    left_bv = kept(processors.keep_typical(scores_bv, p))

    for probs_v, left_v in zip(probs(scores_bv), left_bv, strict=True):
        apart_v = np.abs(-np.log(probs_v) + (probs_v * np.log(probs_v)).sum())
        assert apart_v[left_v].max() <= apart_v[~left_v].min(initial=np.inf) + 1e-4
        assert probs_v[left_v].sum() >= p - 1e-4


@given(sizes, seeds)
def test_a_temperature_towards_0_leaves_the_likeliest_alone(size, seed):
    _, scores_bv = drawn(size, seed)

    cold_bv = probs(processors.temper(scores_bv, 1e-4))

    gap_b = np.diff(np.sort(scores_bv, axis=1)[:, -2:], axis=1)[:, 0]
    clear_b = gap_b > 0.01
    np.testing.assert_allclose(cold_bv.max(axis=1)[clear_b], 1)
    np.testing.assert_array_equal(cold_bv.argmax(axis=1), scores_bv.argmax(axis=1))


@given(sizes, seeds, st.floats(1.1, 5))
def test_a_penalty_makes_each_said_word_less_likely_once_and_leaves_the_others(size, seed, penalty):
    ids_bt, scores_bv = drawn(size, seed)

    penalised_bv = processors.penalise_repetition(np.concatenate([ids_bt, ids_bt], axis=1), scores_bv, penalty)

    for ids_t, scores_v, after_v in zip(ids_bt, scores_bv, penalised_bv, strict=True):
        said_v = np.isin(np.arange(len(scores_v)), ids_t)
        np.testing.assert_array_equal(after_v[~said_v], scores_v[~said_v])
        assert (after_v[said_v] < scores_v[said_v]).all()
        expected_v = np.where(scores_v < 0, scores_v * np.float32(penalty), scores_v / np.float32(penalty))
        np.testing.assert_allclose(after_v[said_v], expected_v[said_v], rtol=1e-6)


@given(sizes, seeds, st.integers(1, 4))
def test_no_n_words_can_be_said_twice(size, seed, n):
    rng = np.random.default_rng(seed)
    ids_bt, scores_bv = rng.integers(3, size=(size, 9)), np.zeros((size, 3))

    left_bv = kept(processors.ban_repeated_ngrams(ids_bt, scores_bv, n))

    for ids_t, left_v in zip(ids_bt.tolist(), left_bv, strict=True):
        said = {tuple(ids_t[t : t + n]) for t in range(len(ids_t) - n + 1)}
        for v in range(3):
            assert left_v[v] == (tuple([*ids_t, v][-n:]) not in said)


@given(sizes, seeds)
def test_a_bad_word_cannot_be_completed_and_nothing_else_is_banned(size, seed):
    rng = np.random.default_rng(seed)
    ids_bt, scores_bv = rng.integers(3, size=(size, 4)), np.zeros((size, 3))
    words = [tuple(rng.integers(3, size=rng.integers(1, 7)).tolist()) for _ in range(3)]

    left_bv = kept(processors.ban_words(ids_bt, scores_bv, words))

    for ids_t, left_v in zip(ids_bt.tolist(), left_bv, strict=True):
        for v in range(3):
            assert left_v[v] == (not any(len(word) <= 5 and tuple([*ids_t, v][-len(word) :]) == word for word in words))


@pytest.mark.parametrize(("said", "minimum", "banned"), [(0, 0, False), (0, 1, True), (4, 5, True), (5, 5, False)])
def test_the_end_waits_for_the_minimum_and_all_ends_do(said, minimum, banned):
    left_bv = kept(processors.delay_end(np.zeros((2, 5)), said, minimum, (1, 3)))

    assert (~left_bv[:, [1, 3]] == banned).all()
    assert left_bv[:, [0, 2, 4]].all()
