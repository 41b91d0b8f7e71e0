"""Gaps that are filled: which words, how probable, and what is no gap."""

import numpy as np
import pytest
from references import ROOT, shared
from small import small_model

import switchnp
from switchnp.errors import ConfigError, InputError, TokenizerError


@pytest.fixture(scope="module")
def numbers():
    """A model that knows no gaps; what it puts there is nonsense, with the right probabilities."""
    return switchnp.load(ROOT / "weights/switch-numbers.h5")


TEXT = "say in <extra_id_0>: 19<extra_id_1>"


def test_each_gap_holds_its_likeliest_candidate_and_the_text_around_it_stays(numbers):
    filled = numbers.fill(TEXT)

    (first, second), (one, two) = filled.gaps, (gap.candidates[0][0] for gap in filled.gaps)
    assert (first.sentinel, second.sentinel) == ("<extra_id_0>", "<extra_id_1>")
    assert filled.text == f"say in {one}: 19{two}"


def test_candidates_come_likeliest_first_and_share_out_at_most_one(numbers):
    for gap in numbers.fill(TEXT, candidates=4).gaps:
        probabilities = [probability for _, probability in gap.candidates]
        assert 1 <= len(probabilities) <= 4
        assert probabilities == sorted(probabilities, reverse=True)
        assert 0 < sum(probabilities) <= 1 + 1e-6
        assert len({text for text, _ in gap.candidates}) == len(gap.candidates)


def test_gaps_are_filled_in_the_order_in_which_they_stand(numbers):
    filled = numbers.fill("<extra_id_3> and <extra_id_1>", candidates=1)

    assert [gap.sentinel for gap in filled.gaps] == ["<extra_id_3>", "<extra_id_1>"]
    assert all(len(gap.candidates) == 1 for gap in filled.gaps)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no gap", "the text has no gap, expected <extra_id_0>"),
        ("<extra_id_100>", "the text has no gap"),
        ("<extra_id_0> and <extra_id_0>", "the text has the gap <extra_id_0> more than once"),
    ],
)
def test_a_text_without_proper_gaps_is_refused(numbers, text, message):
    with pytest.raises(InputError, match=message):
        numbers.fill(text)


def test_numbers_out_of_range_are_refused(numbers):
    for candidates in (0, 101, 10**9, None, "x", 1.5, True, float("inf")):
        with pytest.raises(InputError, match="expected a whole number from 1 to 100"):
            numbers.fill(TEXT, candidates=candidates)
    with pytest.raises(ConfigError, match="max_new_tokens is 0"):
        numbers.fill(TEXT, max_new_tokens=0)


def test_a_model_without_a_tokenizer_fills_nothing():
    with pytest.raises(TokenizerError):
        small_model().fill("<extra_id_0>")


def test_a_gap_at_the_limit_is_filled_with_what_there_is(numbers):
    filled = numbers.fill("say in <extra_id_0>: 84", candidates=2, max_new_tokens=1)

    prompt, sentinel = numbers.tokenizer.encode("say in <extra_id_0>: 84"), numbers.tokenizer.encode("<extra_id_0>")[0]
    likely = numbers([prompt], decoder_input_ids=[[0, sentinel]]).logits[0, -1]
    best = np.argsort(-likely)[:2]
    ends = [1, *range(numbers.tokenizer.vocab_size - 100, numbers.tokenizer.vocab_size)]
    texts = {numbers.tokenizer.decode([word]).strip() if word not in ends else "" for word in best.tolist()}
    assert {text for text, _ in filled.gaps[0].candidates} == texts
    probability = np.exp(likely - likely.max()) / np.exp(likely - likely.max()).sum()
    assert sum(p for _, p in filled.gaps[0].candidates) == pytest.approx(float(probability[best].sum()), rel=1e-4)


def test_a_model_with_t5s_vocabulary_fills_t5s_gaps(tmp_path):
    tokenizer = shared("fixtures/tokenizer/spiece.model").read_bytes()
    model = small_model(vocab_size=32128)
    model.tokenizer = switchnp.tokenizer.Tokenizer(tokenizer)

    filled = model.fill("A <extra_id_0> walks into a bar and orders a <extra_id_1>.", candidates=3, max_new_tokens=4)

    one, two = (gap.candidates[0][0] for gap in filled.gaps)
    assert filled.text == f"A {one} walks into a bar and orders a {two}."
    assert "<extra_id_" not in filled.text
