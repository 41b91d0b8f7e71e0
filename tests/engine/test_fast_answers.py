"""What the fast engine generates, scores and fills is what the kernels do, word for word."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from draw import seeds
from drawn import OPEN, ROUTINGS, batch_of, config_of, kernels_and_fast, params_of
from hypothesis import given, settings
from references import ROOT

import switchnp
from switchnp import Tree
from switchnp.layers import EVALUATION

SEARCHES = {
    "greedy": {},
    "uncached": {"use_cache": False},
    "beams": {"num_beams": 4, "num_return_sequences": 3, "early_stopping": True},
    "short beams": {"num_beams": 3, "length_penalty": -1.0, "min_new_tokens": 2},
    "uncached beams": {"num_beams": 3, "use_cache": False},
    "many beams": {"num_beams": 21},
    "prefix": {"prefix": [5, 9, 7]},
    "beams behind a prefix": {"prefix": [5, 9], "num_beams": 3, "num_return_sequences": 2},
    "sampled": {"do_sample": True, "num_return_sequences": 4, "seed": 3},
    "narrowly sampled": {"do_sample": True, "top_k": 5, "top_p": 0.9, "temperature": 0.7, "seed": 1},
    "forbidden": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "bad_words": [[5], [6, 7]]},
}


def lively_pair(seed, routing=OPEN, **changes):
    """Models whose answers end here and there."""
    rng = np.random.default_rng(seed)
    config = config_of(rng, **changes)
    params = params_of(config, rng)
    tables = [path for path, _ in params.leaves() if path.endswith(("embedding_vd", "head_vd"))]
    leaves = {path: np.float32(2.5 if path in tables else 1) * leaf for path, leaf in params.leaves()}
    for path in tables:
        leaves[path][1] *= 1.5
    return *kernels_and_fast(config, Tree.of(leaves), routing), rng


def answers(model, ids, mask, settings):
    """Every Answer in one list."""
    found = model.generate(ids, mask, 9, return_scores=True, **settings)
    return [each for answer in found for each in (answer if isinstance(answer, list) else [answer])]


def assert_same_answers(slow, fast, ids, mask, settings):
    """The same words and scores; where scores of several beams are within rounding of each other, any of their words."""
    expected, found = (answers(model, ids, mask, settings) for model in (slow, fast))

    np.testing.assert_allclose([each.score for each in found], [each.score for each in expected], rtol=0, atol=2e-4)
    for mine, theirs in zip(found, expected, strict=True):
        tied = abs(mine.score - theirs.score) < 2e-6 and settings.get("num_beams", 1) > 1
        assert mine.ids == theirs.ids or tied


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
@settings(max_examples=6)
@given(seed=seeds)
def test_every_search_finds_the_answers_of_the_kernels(search, seed):
    slow, fast, rng = lively_pair(seed)

    assert_same_answers(slow, fast, *batch_of(rng, slow.config), search)


@pytest.mark.parametrize("routing", ROUTINGS.values(), ids=ROUTINGS)
@pytest.mark.parametrize("name", ["greedy", "uncached", "beams", "prefix"])
def test_every_routing_is_answered_under_as_by_the_kernels(name, routing):
    slow, fast, rng = lively_pair(11, routing, router_bias=True, sparse_encoder_layers=(0,), sparse_decoder_layers=(0,))

    assert_same_answers(slow, fast, *batch_of(rng, slow.config, 5, 6), SEARCHES[name])


@pytest.mark.parametrize("search", [{}, {"num_beams": 3}, {"prefix": [5, 9]}], ids=str)
@pytest.mark.parametrize("routing", [OPEN, ROUTINGS["everything"]], ids=["one program a word", "layer by layer"])
def test_answers_of_a_hundred_words_are_those_of_the_kernels(routing, search):
    slow, fast, rng = lively_pair(4, routing)
    ids, mask = batch_of(rng, slow.config, 3, 6)
    long = {"max_new_tokens": 101, "min_new_tokens": 100, "no_repeat_ngram_size": 2, "return_scores": True, **search}

    expected, found = (model.generate(ids, mask, **long) for model in (slow, fast))

    assert [each.ids for each in found] == [each.ids for each in expected]
    np.testing.assert_allclose([each.score for each in found], [each.score for each in expected], rtol=1e-5)


def test_answers_end_and_differ():
    """The tests above compare something."""
    _, fast, rng = lively_pair(1)
    ids, mask = batch_of(rng, fast.config, 20, 6)

    said = {each.ids for each in answers(fast, ids, mask, {})}

    assert len(said) > 3
    assert len({len(each) for each in said}) > 1


def test_a_batch_answers_as_each_of_its_sentences_does():
    _, fast, rng = lively_pair(1)
    ids, mask = batch_of(rng, fast.config, 20, 6)

    together = answers(fast, ids, mask, {})

    for b in range(20):
        (alone,) = answers(fast, ids[b : b + 1], mask[b : b + 1], {})
        assert alone.ids == together[b].ids


def test_cached_and_uncached_words_are_the_same_where_nothing_is_dropped():
    for seed in range(12):
        _, fast, rng = lively_pair(seed)
        ids, mask = batch_of(rng, fast.config)

        cached, uncached = (answers(fast, ids, mask, {"use_cache": use}) for use in (True, False))

        assert [each.ids for each in cached] == [each.ids for each in uncached]


def test_long_answers_are_those_of_the_kernels():
    slow, fast, rng = lively_pair(1)
    ids, mask = batch_of(rng, slow.config, 3, 9)

    said = [model.generate(ids, mask, 90, min_new_tokens=90, repetition_penalty=1.5) for model in (slow, fast)]

    assert said[0].shape == (3, 91)
    np.testing.assert_array_equal(*said)


def test_a_stream_is_the_answer():
    fast = switchnp.load(ROOT / "weights/switch-numbers.h5")
    pieces = []

    answer = fast.generate("say in French: 1984", stream=pieces.append)

    assert "".join(pieces) == answer == "mille neuf cent quatre-vingt-quatre"


@pytest.mark.parametrize("text", ["say in <extra_id_0>: 19<extra_id_1>", "<extra_id_0> 4711"])
def test_gaps_are_filled_as_the_kernels_fill_them(text):
    expected, filled = (
        switchnp.load(ROOT / "weights/switch-numbers.h5", engine=engine).fill(text) for engine in ("kernels", "fast")
    )

    assert filled.text == expected.text
    for gap, other in zip(filled.gaps, expected.gaps, strict=True):
        assert [words for words, _ in gap.candidates] == [words for words, _ in other.candidates]
        np.testing.assert_allclose([p for _, p in gap.candidates], [p for _, p in other.candidates], rtol=1e-3)


def test_models_that_speak_by_turns_do_not_disturb_each_other():
    one, other = (lively_pair(seed) for seed in (1, 2))
    ids, mask = batch_of(one[2], one[0].config, 4, 5)
    prompt = batch_of(other[2], other[0].config, 4, 5)
    expected = other[1].generate(*prompt, 5)
    voices = one[1]._voices(one[1]._edge.batch("input_ids", ids, mask).row, True, EVALUATION)
    said = np.zeros((4, 1), int)

    for _ in range(4):
        said = np.concatenate([said, voices.next_logits(said).argmax(axis=1)[:, None]], axis=1)
        np.testing.assert_array_equal(other[1].generate(*prompt, 5), expected)

    for answer, alone in zip(said, answers(one[1], ids, mask, {}), strict=True):
        assert tuple(answer[1:][: len(alone.ids)]) == alone.ids[:4]


def test_many_threads_of_a_program_speak_at_once_and_say_what_each_says_alone():
    _, fast, rng = lively_pair(3)
    prompts = [batch_of(rng, fast.config) for _ in range(8)]
    alone = [fast.generate(*prompt, 5) for prompt in prompts]

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda prompt: fast.generate(*prompt, 5), prompts))

    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)
