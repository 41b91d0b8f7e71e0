"""Greedy search, with the key/value cache and without."""

import numpy as np
import pytest
from draw import seeds
from hypothesis import given, settings
from small import small_model

from switchnp import Routing, equations


@settings(max_examples=15)
@given(seed=seeds)
def test_cached_and_uncached_agree_where_nothing_is_dropped(seed):
    ids = np.random.default_rng(seed).integers(2, 40, (2, 5))
    model = small_model(Routing.huggingface(), seed=seed % 100)

    cached = model.generate(ids, max_new_tokens=6)
    uncached = model.generate(ids, max_new_tokens=6, use_cache=False)

    np.testing.assert_array_equal(cached, uncached)


@settings(max_examples=15)
@given(seed=seeds)
def test_a_cached_step_has_the_logits_of_the_full_decoder(seed):
    ids = np.random.default_rng(seed).integers(2, 40, (1, 5))
    model = small_model(Routing.huggingface(), seed=seed % 100)

    answer = model.generate(ids, max_new_tokens=6)
    logits = model(ids, decoder_input_ids=answer[:, :-1]).logits

    np.testing.assert_array_equal(logits.argmax(axis=-1), answer[:, 1:])


def test_a_capacity_of_one_drops_words_only_without_the_cache():
    answers = []
    for seed in range(20):
        model = small_model(Routing.huggingface(), seed=seed, expert_capacity=1)
        cached, uncached = (model.generate([[5, 6, 7]], max_new_tokens=8, use_cache=use) for use in (True, False))
        answers.append(cached.shape == uncached.shape and (cached == uncached).all())

    assert not all(answers)


def test_answers_begin_with_the_start_id_and_are_padded_after_the_end():
    model = small_model(Routing.huggingface())
    model.params.embedding_vd[1] *= 3
    ids = np.random.default_rng(1).integers(2, 40, (12, 4))

    answers = model.generate(ids, max_new_tokens=9)

    assert (answers[:, 0] == 0).all()
    assert answers.shape[1] <= 10
    ended = [answer.tolist().index(1) for answer in answers if 1 in answer]
    assert ended
    for answer in answers:
        if 1 in answer:
            assert (answer[answer.tolist().index(1) + 1 :] == 0).all()


def test_a_batch_answers_as_its_sentences_alone():
    model = small_model(Routing.huggingface())
    ids = np.random.default_rng(2).integers(2, 40, (4, 6))

    together = model.generate(ids, max_new_tokens=7)

    for b in range(4):
        alone = model.generate(ids[b], max_new_tokens=7)[0]
        np.testing.assert_array_equal(together[b, : len(alone)], alone)


@pytest.mark.parametrize("use_cache", [True, False])
def test_no_answer_is_longer_than_asked(use_cache):
    answer = small_model().generate([[5, 6]], max_new_tokens=1, use_cache=use_cache)

    assert answer.shape == (1, 2)


def test_the_configs_own_special_ids_start_end_and_pad_an_answer():
    model = small_model(Routing.huggingface(), pad_token_id=3, eos_token_id=5, decoder_start_token_id=2)
    model.params.embedding_vd[5] *= 3

    answers = model.generate(np.random.default_rng(1).integers(6, 40, (12, 4)), max_new_tokens=9)

    assert (answers[:, 0] == 2).all()
    ends = [answer.tolist().index(5) for answer in answers if 5 in answer]
    assert ends
    for answer in answers:
        if 5 in answer:
            assert (answer[answer.tolist().index(5) + 1 :] == 3).all()


def test_the_memory_is_looked_up_once_not_at_every_word(monkeypatch):
    model = small_model(Routing.huggingface(), engine="equations")
    projected = []
    split_heads = equations.split_heads
    monkeypatch.setattr(equations, "split_heads", lambda x_td, w: projected.append(len(x_td)) or split_heads(x_td, w))

    model.generate([[5, 6, 7, 8, 9, 10, 11]], max_new_tokens=4)

    assert projected.count(7) == 2 * 3 + 2 * 2  # encoder q, k, v in two layers; cross k, v in two blocks
