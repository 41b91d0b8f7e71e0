"""Switch §4.2: a small dense student of a large sparse teacher."""

import itertools
import math

import numpy as np
import pytest
from draw import arguments, array, seeds, sizes, slope
from hypothesis import given
from hypothesis import strategies as st

from switchnp import equations as eq
from switchnp.equations import distillation

# student, dense, teacher; half a unit of their last digit; the percentage printed, and the nearest to the quotient
CELLS = {
    "table 6, distillation": (-1.631, -1.636, -1.444, 0.0005, 3, 3),
    "table 6, + initial weights": (-1.598, -1.636, -1.444, 0.0005, 20, 20),
    "table 6, + hard loss": (-1.580, -1.636, -1.444, 0.0005, 29, 29),
    "table 7, 1.1B": (-1.587, -1.636, -1.505, 0.0005, 37, 37),
    "table 7, 2.0B": (-1.585, -1.636, -1.474, 0.0005, 32, 31),
    "table 7, 3.8B": (-1.579, -1.636, -1.444, 0.0005, 30, 30),
    "table 7, 7.4B": (-1.582, -1.636, -1.432, 0.0005, 27, 26),
    "table 7, 14.7B": (-1.578, -1.636, -1.427, 0.0005, 28, 28),
    "table 8, SuperGLUE": (76.6, 74.6, 81.3, 0.05, 30, 30),
}


def drawn(size, seed, dtype=np.float64):
    """A student's logits, the words that came (-100 for some), a teacher's probabilities, and a share."""
    logits_tv, target_t, h_tv = arguments(lambda logits_tv, target_t, h_tv: None, size, seed, dtype).values()
    rng = np.random.default_rng(seed)
    target_t[1:][rng.integers(2, size=len(target_t) - 1) == 1] = -100
    return logits_tv, target_t, eq.softmax(h_tv), float(rng.uniform(0.1, 0.9))


def labels(target_t, V):
    """A teacher that is certain of the word that came, and says anything where none is to come."""
    return (np.maximum(target_t, 0)[:, None] == np.arange(V)).astype(float)


@given(sizes, seeds)
def test_the_mixture_is_the_formula_written_out(size, seed):
    """E13: share teacher + (1 - share) label, one number at a time; it is a distribution again."""
    _, target_t, teacher_tv, share = drawn(size, seed)
    target_t = np.maximum(target_t, 0)

    mixed_tv = distillation.mixed_target(target_t, teacher_tv, share)

    for (t, v), mixed in np.ndenumerate(mixed_tv):
        assert mixed == pytest.approx(share * teacher_tv[t, v] + (1 - share if v == target_t[t] else 0), rel=1e-14)
    np.testing.assert_allclose(mixed_tv.sum(axis=1), 1, rtol=1e-14)


@given(sizes, seeds)
def test_soft_cross_entropy_is_the_surprise_per_word(size, seed):
    """E13: -mean_t sum_v target log softmax(logits), one number at a time."""
    logits_tv, _, target_tv, _ = drawn(size, seed)
    T, V = logits_tv.shape

    loss = distillation.soft_cross_entropy(logits_tv, target_tv)

    log_sums = [math.log(sum(map(math.exp, logits_v))) for logits_v in logits_tv]
    expected = sum(target_tv[t, v] * (log_sums[t] - logits_tv[t, v]) for t in range(T) for v in range(V)) / T
    np.testing.assert_allclose(loss, expected, rtol=1e-10, atol=1e-14)


@given(sizes, seeds)
def test_a_quarter_is_the_teachers_and_three_quarters_are_the_words(size, seed):
    """E13: unless told otherwise, 0.25 of the soft loss and 0.75 of the hard one, over the words to be predicted."""
    logits_tv, target_t, teacher_tv, share = drawn(size, seed)
    words_t = target_t != -100

    paper = distillation.distilled_cross_entropy(logits_tv, target_t, teacher_tv)
    told = distillation.distilled_cross_entropy(logits_tv, target_t, teacher_tv, share)

    soft = distillation.soft_cross_entropy(logits_tv[words_t], teacher_tv[words_t])
    hard = eq.cross_entropy(logits_tv, target_t)
    np.testing.assert_allclose(paper, 0.25 * soft + 0.75 * hard, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(told, share * soft + (1 - share) * hard, rtol=1e-12, atol=1e-14)


@given(sizes, seeds)
def test_a_teacher_that_says_the_label_teaches_nothing_new(size, seed):
    """E13: the loss is the plain cross entropy, whatever the teacher's share."""
    logits_tv, target_t, _, share = drawn(size, seed)
    teacher_tv = labels(target_t, logits_tv.shape[1])

    loss = distillation.distilled_cross_entropy(logits_tv, target_t, teacher_tv, share)

    np.testing.assert_allclose(loss, eq.cross_entropy(logits_tv, target_t), rtol=1e-12, atol=1e-14)


@given(sizes, seeds)
def test_the_loss_pulls_each_logit_towards_the_mixture(size, seed):
    """E13: dL/dlogits = (q - (0.25 teacher + 0.75 label)) / T for T words, and 0 where there is nothing to predict."""
    logits_tv, target_t, teacher_tv, _ = drawn(size, seed)

    dlogits_tv = slope(lambda logits_tv: distillation.distilled_cross_entropy(logits_tv, target_t, teacher_tv), logits_tv)

    words_t1 = (target_t != -100)[:, None]
    pull_tv = eq.softmax(logits_tv) - (0.25 * teacher_tv + 0.75 * labels(target_t, logits_tv.shape[1]))
    np.testing.assert_allclose(dlogits_tv, words_t1 * pull_tv / words_t1.sum(), rtol=1e-6, atol=1e-9)


@given(sizes, st.integers(2, 9), seeds)
def test_no_student_does_better_than_the_entropy_of_the_mixture(T, V, seed):
    """E13: logits = log mixture cost its entropy, the least there is; others cost KL(mixture, student) more."""
    rng = np.random.default_rng(seed)
    teacher_tv, nudge_tv = array("p_tv", {"t": T, "v": V}, rng), array("nudge_tv", {"t": T, "v": V}, rng)
    target_t = rng.integers(V, size=T)
    mixed_tv = 0.25 * teacher_tv + 0.75 * labels(target_t, V)

    least = distillation.distilled_cross_entropy(np.log(mixed_tv), target_t, teacher_tv)
    other = distillation.distilled_cross_entropy(np.log(mixed_tv) + nudge_tv, target_t, teacher_tv)

    q_tv = eq.softmax(np.log(mixed_tv) + nudge_tv)
    np.testing.assert_allclose(least, -np.sum(mixed_tv * np.log(mixed_tv)) / T, rtol=1e-12)
    np.testing.assert_allclose(other - least, np.sum(mixed_tv * np.log(mixed_tv / q_tv)) / T, rtol=1e-9, atol=1e-13)
    assert other > least


@given(sizes, st.integers(2, 9), seeds)
def test_a_student_sure_of_the_wrong_word_does_not_overflow(T, V, seed):
    """E13: logits of 10000 cost 10000 times the mixture's weight of all other words; a warning would fail this test."""
    rng = np.random.default_rng(seed)
    teacher_tv = array("p_tv", {"t": T, "v": V}, rng, np.float32)
    target_t, wrong_t = rng.integers(V, size=T), rng.integers(V, size=T)
    logits_tv = 1e4 * labels(wrong_t, V).astype(np.float32)

    loss = distillation.distilled_cross_entropy(logits_tv, target_t, teacher_tv)

    weight_t = (0.25 * teacher_tv + 0.75 * labels(target_t, V))[np.arange(T), wrong_t]
    np.testing.assert_allclose(loss, 1e4 * np.mean(1 - weight_t), rtol=1e-5)


@given(sizes, seeds)
def test_where_nothing_is_to_be_predicted_neither_student_nor_teacher_counts(size, seed):
    """E13: rows at -100 do not move the loss by a bit, nor does it matter how many there are or that they are NaN."""
    logits_tv, target_t, teacher_tv, share = drawn(size, seed)
    padded_tv = np.concatenate([logits_tv, np.nan * logits_tv])
    padded_t = np.concatenate([target_t, np.full(len(target_t), -100)])
    opinion_tv = np.concatenate([teacher_tv, np.nan * teacher_tv])

    loss = distillation.distilled_cross_entropy(padded_tv, padded_t, opinion_tv, share)

    assert loss == distillation.distilled_cross_entropy(logits_tv, target_t, teacher_tv, share)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(size=sizes, seed=seeds)
def test_the_loss_stays_in_the_precision_of_student_and_teacher(dtype, size, seed):
    """E13: the label adds none of its own."""
    loss = distillation.distilled_cross_entropy(*drawn(size, seed, dtype))

    assert loss.dtype == dtype


@pytest.mark.parametrize("cell", CELLS)
def test_the_papers_percentages_follow_from_its_perplexities(cell):
    """E14: tables 6, 7 and 8; some numbers that round to the printed ones give the percentage that is printed."""
    student, dense, teacher, half, percent, _ = CELLS[cell]

    box = itertools.product(*[(score - half, score + half) for score in (student, dense, teacher)])
    fractions = [100 * distillation.fraction_preserved(*corner) for corner in box]

    assert min(fractions) - 0.5 <= percent <= max(fractions) + 0.5


@pytest.mark.parametrize("cell", CELLS)
def test_two_of_the_papers_percentages_are_one_more_than_its_digits_say(cell):
    """E14: 31.48 is printed as 32 and 26.47 as 27, the authors may have had more digits; all others are the nearest."""
    student, dense, teacher, _, percent, nearest = CELLS[cell]

    fraction = distillation.fraction_preserved(student, dense, teacher)

    assert round(100 * fraction) == nearest
    assert percent - nearest == (cell in ("table 7, 2.0B", "table 7, 7.4B"))


def test_weights_of_the_teacher_without_its_opinion_preserve_less_than_nothing():
    """E14: table 6, the initialization baseline: -1.639 is below the dense model's -1.636."""
    fraction = distillation.fraction_preserved(-1.639, -1.636, -1.444)

    assert fraction == pytest.approx(-3 / 192)


@given(seeds)
def test_nothing_is_preserved_by_the_dense_model_and_all_by_the_teacher(seed):
    """E14: 0 and 1 exactly, and in proportion between."""
    dense, teacher, part = np.random.default_rng(seed).uniform([-2, -1, 0], [-1, 0, 1])

    fraction = distillation.fraction_preserved(dense + part * (teacher - dense), dense, teacher)

    assert distillation.fraction_preserved(dense, dense, teacher) == 0
    assert distillation.fraction_preserved(teacher, dense, teacher) == 1
    assert fraction == pytest.approx(part, rel=1e-9, abs=1e-9)


@given(seeds)
def test_the_fraction_is_the_same_in_nats_and_in_bits(seed):
    """E14: neither the unit nor the zero of the score matters."""
    score_e = np.random.default_rng(seed).uniform([-1.6, -1.7, -1.5], [-1.5, -1.6, -1.4])

    nats, bits = (distillation.fraction_preserved(*scaled_e) for scaled_e in (score_e, 3 + score_e / math.log(2)))

    assert bits == pytest.approx(nats, rel=1e-9, abs=1e-9)


def test_switch_base_is_as_good_as_t5_base_in_seven_and_a_half_times_fewer_steps():
    """E15: §3.1, step 60k against step 450k."""
    speedup = distillation.step_speedup(450_000, 60_000)

    assert speedup == 7.5


@given(seeds)
def test_speedups_multiply(seed):
    """E15: over a model that is faster than the baseline, and so by the product over the baseline; over itself it is 1."""
    baseline, better, best = np.random.default_rng(seed).integers(1, 10**6, size=3).tolist()

    speedup = distillation.step_speedup(baseline, best)

    product = distillation.step_speedup(baseline, better) * distillation.step_speedup(better, best)
    assert speedup == pytest.approx(product, rel=1e-14)
    assert distillation.step_speedup(best, best) == 1
