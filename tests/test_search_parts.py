"""The parts of a search one by one: tasks, samples, beams, voices, gaps, where whole answers do not show a slip."""

import numpy as np
import pytest
from small import small_model

from switchnp import GenerationConfig, Routing, generation, infilling
from switchnp.equations import log_softmax
from switchnp.errors import InputError
from switchnp.generation import Task, beams, processors, sampling
from switchnp.layers import EVALUATION
from switchnp.network import Row
from switchnp.speech import Speech

START = np.array([0])


def task(ends=(1,), bad_words=(), start=START, **settings):
    """A Task of these settings."""
    return Task(GenerationConfig(**settings), start, ends, bad_words)


# ---- tasks ----


def test_the_minimum_counts_the_words_behind_the_prefix():
    four = task(min_new_tokens=2, start=np.array([0, 7, 8]))
    scores_bv = np.zeros((1, 10), np.float32)

    ends = [four.processed(np.array([ids]), scores_bv)[0, 1] for ids in ([0, 7, 8], [0, 7, 8, 9], [0, 7, 8, 9, 9])]

    assert ends == [-np.inf, -np.inf, 0]


def test_one_answer_without_a_word_left_is_enough_to_refuse():
    banned = task(bad_words=tuple((3, v) for v in range(4)))

    with pytest.raises(InputError, match="every word is banned after 1 words"):
        banned.processed(np.array([[0, 3], [0, 2]]), np.zeros((2, 4), np.float32))


def test_a_penalty_below_one_makes_what_was_said_likelier():
    scores_bv = task(repetition_penalty=0.5).processed(np.array([[0, 3]]), np.ones((1, 5), np.float32))

    assert scores_bv.tolist() == [[2, 1, 1, 2, 1]]


def test_log_probabilities_of_far_apart_rows_stay_finite_and_apart():
    logits_bv = np.float32([[1000, 0], [0, -1], [-1000, -1000]])

    logprob_bv = log_softmax(logits_bv)

    np.testing.assert_allclose(logprob_bv, [[0, -1000], [-0.31326, -1.31326], [-np.log(2)] * 2], rtol=1e-4)


@pytest.mark.parametrize("arguments", [{}, {"num_beams": 3}], ids=str)
def test_log_probabilities_are_the_models_own_whatever_is_done_to_scores(arguments):
    model = small_model(Routing.huggingface())
    changes = {"repetition_penalty": 3.0, "bad_words": [[5], [30]], "max_new_tokens": 6, "return_scores": True}

    said = model.generate([[5, 6, 7], [8, 9, 10]], **changes, **arguments)
    told = model.score([[5, 6, 7], [8, 9, 10]], [list(answer.ids) for answer in said])

    for one, two in zip(said, told, strict=True):
        np.testing.assert_allclose(one.logprobs, two.logprobs, atol=1e-5)


# ---- samples ----


def test_a_sample_depends_on_seed_prompt_and_number():
    draws = [sampling.stream_of(*key).random() for key in ((0, [3], 0), (1, [3], 0), (0, [4], 0), (0, [3], 1), (0, [3], 0))]

    assert draws[0] == draws[4]
    assert len(set(draws)) == 4


def test_words_of_equal_scores_are_drawn_in_equal_parts():
    class Stream:
        def __init__(self, number):
            self.random = lambda: number

    parts = [0.0, 0.25, 0.5, 0.999999]
    words = sampling.draw(np.zeros((4, 32128), np.float32), [Stream(part) for part in parts])

    assert words.tolist() == [0, 8032, 16064, int(0.999999 * 32128)]


def test_samples_of_one_prompt_are_streamed_by_their_own_numbers():
    heard = {}
    model = small_model(Routing.huggingface())
    config = GenerationConfig(do_sample=True, num_return_sequences=3, max_new_tokens=5)
    ours = Task(config, START, (1,), heard=lambda number, said: heard.update({number: tuple(said)}))
    row = model._edge.batch("input_ids", [[5, 6]], None).row

    found = generation.search(model._voices(row, True, EVALUATION), ours)

    assert [heard[number] for number in range(3)] == [answer.ids for answer in found]


def test_answers_of_unequal_lengths_are_told_whole():
    told = small_model().score([[5, 6], [5, 6]], [[3], [4, 5, 1]])

    assert [len(answer.logprobs) for answer in told] == [1, 3]
    assert told[1].ids == (4, 5, 1)


# ---- beams ----


def prompt(ends=(1,), **settings):
    """One prompt's beams, before its first word."""
    return beams._Prompt(task(ends, max_new_tokens=10, num_beams=2, **settings))


def test_running_beams_are_not_those_that_ended_however_many_ends_there_are():
    one = prompt(ends=(1, 2, 3))
    scores_bv = np.float32([[-9, -1, -1.1, -1.2, -5, -6], [-9] * 6])

    one.step(scores_bv, scores_bv)

    assert one.ids_bt[:, -1].tolist() == [4, 5]
    assert one.score_b.tolist() == [-5, -6]
    assert [ended.ids for ended in one.ended] == [(1,), (2,)]


def test_ends_beyond_the_first_beams_are_neither_kept_nor_continued():
    one = prompt(ends=(1, 2, 3))
    scores_bv = np.float32([[-9, -3, -3.1, -3.2, -1, -2], [-9] * 6])

    one.step(scores_bv, scores_bv)

    assert one.ended == []
    assert one.ids_bt[:, -1].tolist() == [4, 5]


@pytest.mark.parametrize(
    ("settings", "running", "improves"),
    [
        ({"early_stopping": "never", "length_penalty": -1.0}, -1.0, True),
        ({"early_stopping": "never", "length_penalty": 1.0}, -29.0, True),
        ({"early_stopping": "never", "length_penalty": 1.0}, -31.0, False),
        ({}, -2.9, True),
        ({}, -3.0, False),
    ],
)
def test_a_search_goes_on_while_a_running_beam_could_still_be_better(settings, running, improves):
    one = prompt(**settings)
    one.ids_bt = np.column_stack([one.ids_bt, [5, 5]])
    one.ended = [beams.Ended(-3.0, (4, 1), (0.0, 0.0))] * 2
    one.score_b = np.float32([running, -99])

    one._look_ahead(all_over=False)

    assert one.can_improve == one.searching == improves


def test_of_equal_answers_the_one_that_ended_first_stays_first():
    one = prompt()
    first, second = beams.Ended(-1.0, (9, 1), (0.0, 0.0)), beams.Ended(-1.0, (2, 3, 1), (0.0,) * 3)

    one._end([first])
    one._end([second])

    assert one.ended == [first, second]


def test_of_equal_values_the_first_stand_first():
    assert beams._largest(np.zeros(100), 5).tolist() == [0, 1, 2, 3, 4]
    assert beams._largest(np.array([1.0, 3.0, 3.0, 2.0]), 9).tolist() == [1, 2, 3, 0]


# ---- processors at their edges ----


def test_an_ngram_as_long_as_what_was_said_is_banned_too():
    assert np.isneginf(processors.ban_repeated_ngrams(np.array([[5, 5]]), np.zeros((1, 6)), 2)[0, 5])
    assert np.isneginf(processors.ban_repeated_ngrams(np.array([[5]]), np.zeros((1, 6)), 1)[0, 5])


def test_a_bad_word_that_began_with_the_first_word_is_banned():
    assert np.isneginf(processors.ban_words(np.array([[3]]), np.zeros((1, 6)), ((3, 4),))[0, 4])


def test_shares_beyond_rounding_keep_one_word_or_nearly_all():
    scores_bv = np.random.default_rng(0).normal(size=(20, 32128)).astype(np.float32)

    few, all_of_them = processors.keep_top_p(scores_bv, 1e-9), processors.keep_typical(scores_bv, 1 - 1e-12)

    np.testing.assert_array_equal(np.isfinite(few).argmax(axis=1), scores_bv.argmax(axis=1))
    assert np.isfinite(all_of_them).mean() > 0.99


def test_exactly_half_is_reached_by_one_of_two_and_equals_go_by_their_number():
    assert np.isfinite(processors.keep_top_p(np.zeros((1, 2)), 0.5)).sum() == 1
    assert np.isfinite(processors.keep_top_p(np.zeros((1, 4)), 0.5))[0].tolist() == [False, False, True, True]


# ---- texts ----


class Letters:
    """A tokenizer whose words are letters."""

    def answer(self, ids):
        return "".join("abcdefgh"[i - 2] for i in ids if i > 1)

    def encode(self, text):
        return ["abcdefgh".index(letter) + 2 for letter in text] + [1]


def speech(**settings):
    """A Speech of a model that spells."""
    return Speech(GenerationConfig(**settings), Letters(), small_model().config)


def test_any_of_several_stops_ends_an_answer_and_a_long_first_word_is_looked_at_from_its_beginning():
    ends = speech(stop=("cd", "zzz")).task().has_ended

    assert [ends(said) for said in ([2], [4], [4, 5], [4, 5, 6])] == [False, False, True, False]
    assert speech(stop=("abcd",)).task().has_ended([2, 3, 4, 5])


def test_what_is_streamed_begins_with_the_prefix_and_is_never_nothing():
    said = []
    heard = speech(prefix="ab").task(said.append).heard

    for words in ([4], [4, 5], [4, 5, 1]):
        heard(0, words)

    assert said == ["abc", "d"]


# ---- gaps ----


def filled(monkeypatch, answers, text="<extra_id_0> and <extra_id_1>"):
    """What `fill` makes of answers that beams would have found, and the Tasks that they were asked."""
    model = small_model(vocab_size=40)
    asked = []

    class Tokenizer(Letters):
        vocab_size = 140

        def encode(self, text):
            return [139 - int(text[10:-1]), 1]

        def decode(self, ids):
            return "".join("abcdefgh"[i - 2] for i in ids)

    monkeypatch.setattr(infilling, "beam_search", lambda voices, task: asked.append(task) or answers)
    row = model._edge.batch("input_ids", [5, 6], None).row
    result = infilling.fill(model._voices(row, True, EVALUATION), model.config, Tokenizer(), text, infilling.beams_for(3, 4), 3)
    return result, asked


def found(ids, probability):
    """An answer of beams."""
    return generation.Answer(ids, (0.0,) * len(ids), float(np.log(probability)))


def test_one_text_with_two_ends_has_the_probability_of_both_and_the_likeliest_fills_the_gap(monkeypatch):
    answers = [found((2, 1), 0.3), found((3, 1), 0.2), found((3, 139), 0.25), found((4, 5), 0.1)]

    result, asked = filled(monkeypatch, answers)

    first = result.gaps[0].candidates
    assert [text for text, _ in first] == ["b", "a", "cd"]
    np.testing.assert_allclose([probability for _, probability in first], [0.45, 0.3, 0.1])
    assert result.text == "b and b"
    assert asked[0].start_t.tolist() == [0, 139]
    assert asked[1].start_t.tolist() == [0, 139, 3, 138]


def test_a_gap_ends_at_the_end_and_at_every_sentinel(monkeypatch):
    _, asked = filled(monkeypatch, [found((2, 1), 1.0)])

    assert asked[0].end_ids == (1, *range(40, 140))


def test_gaps_draw_from_the_generator_that_they_are_given(monkeypatch):
    model = small_model(Routing(eval_policy="sample"))
    modes = []
    monkeypatch.setattr(type(model), "_tokenizer", lambda self: Letters())
    monkeypatch.setattr("switchnp.model.fill", lambda voices, *_: modes.append(voices._mode))
    rng = np.random.default_rng(0)

    model.fill("ab", rng=rng)

    assert modes[0].rng is rng


# ---- rows and voices ----


def test_sentences_that_are_chosen_bring_their_own_tokens_places_and_masks():
    row = Row(np.arange(6), np.array([0, 0, 0, 1, 2, 2]), np.array([0, 1, 2, 0, 3, 4]), np.array([1, 1, 0, 1, 1, 0], bool), 3)

    chosen, token_t = row.chosen([2, 0, 0])

    assert token_t.tolist() == [4, 5, 0, 1, 2, 0, 1, 2]
    assert chosen.ids_t.tolist() == token_t.tolist()
    assert chosen.position_t.tolist() == [3, 4, 0, 1, 2, 0, 1, 2]
    assert chosen.mask_t.tolist() == [True, False, True, True, False, True, True, False]
    assert [(span.start, span.stop) for span in chosen.spans] == [(0, 2), (2, 5), (5, 8)]


@pytest.mark.parametrize("use_cache", [True, False])
def test_voices_that_change_places_go_on_with_their_own_prompts(use_cache):
    model = small_model(Routing.huggingface())
    row = model._edge.batch("input_ids", [[5, 6, 7], [8, 9, 10]], None).row
    straight, swapped = (model._voices(row, use_cache, EVALUATION) for _ in range(2))
    for voices in (straight, swapped):
        voices.next_logits(np.array([[0], [0]]))

    swapped.keep([1, 0])
    ours, theirs = straight.next_logits(np.array([[0, 3], [0, 4]])), swapped.next_logits(np.array([[0, 4], [0, 3]]))

    np.testing.assert_allclose(theirs, ours[::-1], atol=1e-6)
    assert np.abs(ours[0] - ours[1]).max() > 0.01
