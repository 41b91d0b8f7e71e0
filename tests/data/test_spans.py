"""Span corruption as T5 does it: how much goes, in how many spans, and nothing is lost."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchnp.data.spans import corrupt, noise_spans, raw_length, restored, span_counts
from switchnp.errors import InputError
from switchnp.tokenizer import SENTINELS

VOCAB, EOS = 1100, 1
lengths = st.integers(2, 3000)
densities = st.floats(0.01, 0.9)
mean_spans = st.floats(1, 10)
seeds = st.integers(0, 2**32)
texts = st.lists(st.integers(2, VOCAB - SENTINELS - 1), min_size=2, max_size=300)


def runs(mask):
    """The lengths of a mask's spans, as (is noise, length)."""
    return [(value, len(list(run))) for value, run in itertools.groupby(mask.tolist())]


class EveryPermutation:
    """A generator whose calls together go through all combinations of permutations, one combination a round."""

    def __init__(self, *sizes):
        self.rounds = itertools.product(*(itertools.permutations(range(size)) for size in sizes))

    def __iter__(self):
        for answers in self.rounds:
            self.answers = [*answers]
            yield self

    def permutation(self, size):
        answer = self.answers.pop(0)
        assert len(answer) == size
        return np.array(answer, int)


@given(lengths, seeds, densities, mean_spans)
def test_as_many_tokens_and_spans_go_as_were_counted(length, seed, density, mean_span):
    noise, spans = span_counts(length, density, mean_span)

    mask = noise_spans(length, np.random.default_rng(seed), density, mean_span)

    assert mask.shape == (length,)
    assert mask.dtype == bool
    assert mask.sum() == noise
    assert [value for value, _ in runs(mask)] == [False, True] * spans


@given(lengths)
def test_fifteen_percent_go_in_spans_of_three(length):
    noise, spans = span_counts(length)

    assert abs(noise - 0.15 * length) <= 0.5001 or noise == 1
    assert 1 <= noise < length
    assert abs(spans - noise / 3) <= 0.5 or spans in (1, SENTINELS)


def test_noise_is_counted_in_float32():
    double = {length for length in range(2, 780) if span_counts(length)[0] != max(1, round(0.15 * length))}

    assert double == {190, 350, 390, 670, 710, 750}


def test_halves_are_rounded_to_even():
    assert span_counts(50)[0] == 8  # 7.5
    assert span_counts(70)[0] == 10  # 10.5
    assert [span_counts(100, spans / 100, 2.0)[1] for spans in (3, 5, 7)] == [2, 2, 4]  # 1.5, 2.5, 3.5


def test_no_text_has_more_spans_than_there_are_sentinels():
    assert span_counts(2003) == (300, 100)
    assert span_counts(2010) == (302, 100)
    assert span_counts(100_000) == (15_000, 100)


def test_every_way_to_cut_is_alike_likely():
    """Under each outcome of the generator once, each mask that begins with what stays comes equally often."""
    noise, spans = span_counts(11, 0.45, 2.0)
    ways = math.comb(noise - 1, spans - 1) * math.comb(11 - noise - 1, spans - 1)

    masks = Counter(tuple(noise_spans(11, rng, 0.45, 2.0)) for rng in EveryPermutation(11 - noise - 1, noise - 1))

    assert (noise, spans) == (5, 2)
    assert len(masks) == ways
    assert len({*masks.values()}) == 1


@given(texts, seeds, densities, mean_spans)
def test_inputs_and_targets_make_the_text_again(ids, seed, density, mean_span):
    inputs, targets = corrupt(ids, VOCAB, EOS, np.random.default_rng(seed), density, mean_span)

    assert restored(inputs, targets, VOCAB) == ids


@given(texts, seeds)
def test_sentinels_descend_from_the_last_id_and_both_sides_end_once(ids, seed):
    noise, spans = span_counts(len(ids))

    inputs, targets = corrupt(ids, VOCAB, EOS, np.random.default_rng(seed))

    for side in (inputs, targets):
        assert [i for i in side if i >= VOCAB - SENTINELS] == [VOCAB - 1 - n for n in range(spans)]
        assert side.index(EOS) == len(side) - 1
    assert (len(inputs), len(targets)) == (len(ids) - noise + spans + 1, noise + spans + 1)


@given(texts, seeds)
def test_the_text_begins_with_what_stays_and_ends_with_what_goes(ids, seed):
    inputs, targets = corrupt(ids, VOCAB, EOS, np.random.default_rng(seed))

    assert inputs[0] == ids[0]
    assert inputs[-2] >= VOCAB - SENTINELS
    assert targets[0] == VOCAB - 1
    assert targets[-2] == ids[-1]


@given(texts, seeds)
def test_the_same_generator_takes_the_same_spans(ids, seed):
    once, again = (corrupt(ids, VOCAB, EOS, np.random.default_rng(seed)) for _ in range(2))

    assert once == again


def test_512_inputs_are_568_raw_tokens_and_114_targets():
    assert raw_length(512) == (568, 114)


@given(st.integers(3, 700), st.integers(3, 300) | st.none(), st.floats(0.01, 0.5), mean_spans)
def test_one_raw_token_more_would_not_fit(max_inputs, max_targets, density, mean_span):
    raw, targets = raw_length(max_inputs, max_targets, density, mean_span)

    def sides(length):
        return corrupt([2] * length, VOCAB, EOS, np.random.default_rng(0), density, mean_span)

    here, beyond = (tuple(map(len, sides(length))) for length in (raw, raw + 1))
    room = (max_inputs, math.inf if max_targets is None else max_targets)
    assert here[1] == targets
    assert here[0] <= room[0] and here[1] <= room[1]
    assert beyond[0] > room[0] or beyond[1] > room[1]


def test_room_without_limits_is_found_at_once():
    assert raw_length(10**9, 10**9)[0] > 10**9


@pytest.mark.parametrize("length", [-1, 0, 1])
def test_a_text_of_less_than_two_tokens_is_refused(length):
    with pytest.raises(InputError, match=f"a text of {length} tokens is to lose spans, expected at least 2"):
        noise_spans(length, np.random.default_rng(0))


@pytest.mark.parametrize("settings", [(0.0, 3.0), (1.0, 3.0), (float("nan"), 3.0), (0.15, 0.5), (0.15, float("nan"))])
def test_impossible_spans_are_refused(settings):
    with pytest.raises(InputError, match="expected 1 or more and a share between 0 and 1"):
        span_counts(20, *settings)


def test_a_text_with_sentinels_is_not_corrupted():
    with pytest.raises(InputError, match=r"the text has the id 1000, expected ids below .* begin at 1000"):
        corrupt([5, 1000, 6], VOCAB, EOS, np.random.default_rng(0))


@pytest.mark.parametrize("targets", [[5, 1099, EOS], [1098, 5, EOS], [1099, 5, 1098, 6, EOS], [EOS]])
def test_what_does_not_belong_together_is_not_put_together(targets):
    with pytest.raises(InputError, match="expected"):
        restored([5, 1099, EOS], targets, VOCAB)


def test_no_room_for_two_tokens_is_refused():
    with pytest.raises(InputError, match="there is room for 2 inputs and None targets, expected at least 3 of each"):
        raw_length(2)
    with pytest.raises(InputError, match="room for 9 inputs and 2 targets"):
        raw_length(9, 2)
