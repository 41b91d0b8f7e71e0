"""Appendix C: the router tries other experts than the best, in training, by four policies; and by figure 15's."""

import numpy as np
import pytest
from draw import arguments, seeds, sizes
from hypothesis import given
from hypothesis import strategies as st

from switchnp import equations as eq

rates = st.sampled_from([0.0, 0.01, 0.1, 0.5])
DRAWS = 100_000
LOUDNESS = np.array([0.0, 1.0, -1.0, 0.5])
POLICIES = {
    "input jitter": lambda x_td, rng: eq.input_jitter(x_td, 0.1, rng),
    "logit jitter": lambda x_td, rng: eq.logit_jitter(x_td, 0.1, rng),
    "input dropout": lambda x_td, rng: eq.input_dropout(x_td, 0.5, rng),
    "sample": lambda x_td, rng: eq.sampled_expert(x_td, 1.0, rng),
}


class Extreme:
    """A generator that always draws an end of the range; what it may draw, some generator will."""

    def __init__(self, lowest):
        self.lowest = lowest

    def uniform(self, low, high, shape):
        """The lowest number, or the last below the highest."""
        return np.full(shape, low if self.lowest else np.nextafter(float(high), float(low)))


def drawn_x(size, seed, dtype=np.float64):
    """x_td alone."""
    return arguments(lambda x_td: None, size, seed, dtype)["x_td"]


def frequencies(h_e, temperature):
    """How often each expert is sampled for tokens that are all alike."""
    expert_t = eq.sampled_expert(np.tile(h_e, (DRAWS, 1)), temperature, np.random.default_rng(0))
    return np.bincount(expert_t, minlength=len(h_e)) / DRAWS


def chi_square(share_e, p_e):
    """Pearson's: about as large as there are degrees of freedom if p is what was drawn from."""
    return DRAWS * np.sum((share_e - p_e) ** 2 / p_e)


@pytest.mark.parametrize("policy", POLICIES)
@given(seed=seeds)
def test_the_same_seed_explores_alike(policy, seed):
    """E11: bit for bit; all chance comes from rng, and goes on in it."""
    x_td, rng = np.zeros((20, 20)) + 1, np.random.default_rng(seed)

    first, following, again = (POLICIES[policy](x_td, source) for source in (rng, rng, np.random.default_rng(seed)))

    np.testing.assert_array_equal(first, again)
    assert (first != following).any()


@pytest.mark.parametrize("policy", POLICIES)
@given(size=sizes, seed=seeds)
def test_exploring_leaves_the_experts_input_alone(policy, size, seed):
    """E11: it works on a copy; transformers jitter in place, so that the experts see it too."""
    x_td = drawn_x(size, seed)
    untouched_td = x_td.copy()

    explored = POLICIES[policy](x_td, np.random.default_rng(seed))

    np.testing.assert_array_equal(x_td, untouched_td)
    assert not np.shares_memory(explored, x_td)


@pytest.mark.parametrize("policy", ["input jitter", "logit jitter", "input dropout"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(size=sizes, seed=seeds)
def test_exploring_keeps_the_precision(policy, dtype, size, seed):
    """§2.4: a router in single precision stays there."""
    explored_td = POLICIES[policy](drawn_x(size, seed, dtype), np.random.default_rng(seed))

    assert explored_td.dtype == dtype


@given(sizes, seeds, rates)
def test_jitter_makes_each_number_a_little_larger_or_smaller(size, seed, eps):
    """E11: x U(1 - eps, 1 + eps), so never by more than eps of itself."""
    x_td = drawn_x(size, seed)

    jittered_td = eq.input_jitter(x_td, eps, np.random.default_rng(seed))

    assert (np.abs(jittered_td - x_td) <= (eps + 1e-15) * np.abs(x_td)).all()


@given(sizes, seeds)
def test_jitter_of_nothing_changes_nothing(size, seed):
    """E11: the identity at eps = 0, bit for bit."""
    x_td = drawn_x(size, seed, np.float32)

    jittered_td = eq.input_jitter(x_td, 0.0, np.random.default_rng(seed))

    np.testing.assert_array_equal(jittered_td, x_td)


@pytest.mark.parametrize("eps", [0.01, 0.1, 0.5])
def test_on_average_jitter_shows_the_truth(eps):
    """E11: E[x U] = x with the spread of U, eps / sqrt(3); 4 standard errors of the mean, 1 % of the spread."""
    jittered_td = eq.input_jitter(np.full((DRAWS, 1), 3.0), eps, np.random.default_rng(0))

    spread = 3.0 * eps / 3**0.5
    assert jittered_td.mean() == pytest.approx(3.0, abs=4 * spread / DRAWS**0.5)
    assert jittered_td.std() == pytest.approx(spread, rel=0.01)


@given(sizes, seeds)
def test_every_number_is_jittered_by_a_draw_of_its_own(size, seed):
    """E11: elementwise, neither a token nor a feature as a whole."""
    x_td = drawn_x(size, seed)

    factor_td = eq.input_jitter(x_td, 0.5, np.random.default_rng(seed)) / x_td

    assert len(np.unique(factor_td.round(9))) == x_td.size


@given(sizes, seeds, rates)
def test_the_one_of_figure_15_cancels(size, seed, eps):
    """E11: softmax of h + U(1 - eps, 1 + eps) is that of h + U(-eps, eps), by the same draws."""
    h_te = arguments(eq.softmax, size, seed)["h_te"]
    noise_te = np.random.default_rng(seed).uniform(-eps, eps, h_te.shape)

    jittered_te = eq.logit_jitter(h_te, eps, np.random.default_rng(seed))

    np.testing.assert_allclose(eq.softmax(jittered_te), eq.softmax(h_te + noise_te), rtol=1e-12)
    np.testing.assert_allclose(jittered_te, h_te + 1 + noise_te, rtol=1e-12, atol=1e-14)


@given(sizes, seeds)
def test_figure_15_is_not_the_text(size, seed):
    """E11: added to the logits, noise moves those of a zero input; multiplied with the input, it does not."""
    wr_de = arguments(eq.router_probs, size + 1, seed)["wr_de"]
    x_td = np.zeros((1, len(wr_de)))

    by_text_te = eq.router_logits(eq.input_jitter(x_td, 0.1, np.random.default_rng(seed)), wr_de)
    by_figure_te = eq.logit_jitter(eq.router_logits(x_td, wr_de), 0.1, np.random.default_rng(seed))

    assert (by_text_te == 0).all()
    assert (by_figure_te != 0).all()


@given(sizes, seeds, rates)
def test_input_dropout_hides_a_number_or_enlarges_it(size, seed, rate):
    """App. C: 0, or x / (1 - rate)."""
    x_td = drawn_x(size, seed)

    seen_td = eq.input_dropout(x_td, rate, np.random.default_rng(seed))

    assert ((seen_td == 0) | (seen_td == x_td / (1 - rate))).all()


@given(sizes, seeds)
def test_a_dropout_of_nothing_changes_nothing(size, seed):
    """App. C: the identity at a rate of 0, bit for bit."""
    x_td = drawn_x(size, seed, np.float32)

    seen_td = eq.input_dropout(x_td, 0.0, np.random.default_rng(seed))

    np.testing.assert_array_equal(seen_td, x_td)


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
def test_input_dropout_hides_its_rate_and_on_average_shows_the_truth(rate):
    """App. C: each number by a draw of its own, wherever it stands; 4 standard errors."""
    x_td = np.full((DRAWS // 10, 10), 3.0)

    seen_td = eq.input_dropout(x_td, rate, np.random.default_rng(0))

    error = 4 * (rate * (1 - rate) / DRAWS) ** 0.5
    assert (seen_td == 0).mean() == pytest.approx(rate, abs=error)
    assert seen_td.mean() == pytest.approx(3.0, abs=3.0 * error / (1 - rate))
    for share in (*(seen_td == 0).mean(axis=0), *(seen_td == 0).reshape(10, -1).mean(axis=1)):
        assert share == pytest.approx(rate, abs=error * 10**0.5)


@given(sizes, seeds)
def test_a_temperature_of_zero_samples_the_best(size, seed):
    """App. C: argmax; of equals the lowest number."""
    h_te = np.round(arguments(eq.softmax, size, seed)["h_te"])

    expert_t = eq.sampled_expert(h_te, 0.0, np.random.default_rng(seed))

    np.testing.assert_array_equal(expert_t, eq.top1(h_te))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_experts_are_sampled_as_often_as_their_probability_says(temperature):
    """App. C: p_i at a temperature of 1; softmax(h / temperature) at any; each token by draws of its own."""
    share_e = frequencies(LOUDNESS, temperature)

    expected_e = eq.softmax(LOUDNESS[None] / temperature)[0]
    assert chi_square(share_e, expected_e) < 16.27  # one in a thousand, 3 degrees of freedom


def test_no_temperature_but_one_samples_the_probabilities():
    """App. C: the temperature scales the noise."""
    p_e = eq.softmax(LOUDNESS[None])[0]

    cold_e, hot_e = frequencies(LOUDNESS, 0.5), frequencies(LOUDNESS, 2.0)

    assert cold_e[1] > p_e[1] > hot_e[1]
    assert cold_e[2] < p_e[2] < hot_e[2]


def test_at_a_high_temperature_every_expert_is_as_good():
    """App. C: the limit is uniform."""
    share_e = frequencies(LOUDNESS, 1e6)

    assert chi_square(share_e, np.full(4, 1 / 4)) < 16.27  # one in a thousand, 3 degrees of freedom


@pytest.mark.parametrize("temperature", [0.0, 1.0, 100.0])
@pytest.mark.parametrize("lowest", [True, False])
def test_no_draw_makes_noise_that_is_not_a_number(lowest, temperature):
    """App. C: neither end of U(0, 1) reaches log 0, which would warn and fail here, or make every expert infinitely good."""
    h_te = np.stack([LOUDNESS, LOUDNESS[::-1]])

    expert_t = eq.sampled_expert(h_te, temperature, Extreme(lowest))

    assert expert_t.tolist() == [1, 2]
