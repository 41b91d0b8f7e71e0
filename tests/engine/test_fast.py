"""The fast engine says what the equations say: every kind of model, routing and batch."""

from dataclasses import replace

import numpy as np
import pytest
from draw import seeds
from drawn import OPEN, ROUTINGS, assert_near, batch_of, config_of, kernels_and_fast, params_of, trio
from hypothesis import given, settings
from small import small_config, small_params

from switchnp import GenerationConfig, Routing, SwitchTransformer, Tree
from switchnp.config import ACTIVATIONS
from switchnp.engine import pool
from switchnp.engine.matrices import ENOUGH

HUGE = {"d_model": 1100, "d_ff": 1300, "d_kv": 5, "num_heads": 2, "num_layers": 1, "num_decoder_layers": 1}
ODD = {"d_model": 72, "d_ff": 100, "d_kv": 8, "num_heads": 3, "num_layers": 2, "num_decoder_layers": 2}
ODD |= {"num_experts": 5, "sparse_encoder_layers": (1,), "sparse_decoder_layers": (1,)}


def a_pair(seed, routing=None, **changes):
    """(kernels', fast) models of one kind, and the generator that drew them."""
    rng = np.random.default_rng(seed)
    config = config_of(rng, **changes)
    return *kernels_and_fast(config, params_of(config, rng), routing), rng


def assert_same_pass(slow, fast, ids, mask, said, said_mask):
    expected, out = (model(ids, mask, said, said_mask) for model in (slow, fast))

    for name in ("logits", "encoder_last_hidden_state", "decoder_last_hidden_state"):
        assert_near(getattr(out, name), getattr(expected, name))
    for name in ("encoder_balance_loss", "decoder_balance_loss", "encoder_z_loss", "decoder_z_loss"):
        assert getattr(out, name) == pytest.approx(getattr(expected, name), rel=1e-5, abs=1e-6), name


@given(seed=seeds)
def test_every_kind_of_model_answers_as_the_equations_do(seed):
    rng = np.random.default_rng(seed)
    config = config_of(rng)
    slow, fast, alone = trio(config, params_of(config, rng), OPEN)
    ids, mask = batch_of(rng, config)
    said, said_mask = batch_of(rng, config, sentences=len(ids))

    assert_same_pass(slow, fast, ids, mask, said, said_mask)
    assert_near(fast.encode(ids, mask), slow.encode(ids, mask))
    np.testing.assert_array_equal(fast.encode(ids, mask), alone.encode(ids, mask))


@pytest.mark.parametrize("routing", ROUTINGS.values(), ids=ROUTINGS)
@settings(max_examples=5)
@given(seed=seeds)
def test_every_routing_drops_and_seats_as_the_kernels_do(routing, seed):
    bias = {"router_bias": True} if routing.needs_bias else {}
    slow, fast, rng = a_pair(seed, routing, **bias, sparse_encoder_layers=(0,), sparse_decoder_layers=(0,))
    ids, mask = batch_of(rng, slow.config)
    said, said_mask = batch_of(rng, slow.config, sentences=len(ids))

    assert_same_pass(slow, fast, ids, mask, said, said_mask)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_every_activation_is_the_equations(act, gated):
    rng = np.random.default_rng(1)
    config = config_of(rng, **ODD, dense_act_fn=act, is_gated_act=gated)
    slow, fast, _ = trio(config, params_of(config, rng), OPEN)
    ids, mask = batch_of(rng, config, 4, 30)

    assert_same_pass(slow, fast, ids, mask, ids, mask)
    assert_same_told(slow, fast, ids[:, :5], [row.tolist() for row in ids[:, :4]])


def assert_same_told(slow, fast, prompts, answers):
    expected, told = (model.score(prompts, answers) for model in (slow, fast))
    for ours, theirs in zip(told, expected, strict=True):
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, rtol=0, atol=4e-5)


@settings(max_examples=20)
@given(seed=seeds)
def test_a_word_at_a_time_has_the_probability_that_the_kernels_give_it(seed):
    slow, fast, rng = a_pair(seed, OPEN)
    prompts, _ = batch_of(rng, slow.config)
    answers = [rng.integers(2, slow.config.vocab_size, rng.integers(1, 9)).tolist() for _ in prompts]

    assert_same_told(slow, fast, prompts, answers)


@pytest.mark.parametrize("routing", ROUTINGS.values(), ids=ROUTINGS)
def test_under_every_routing_a_word_at_a_time_is_the_kernels(routing):
    slow, fast, rng = a_pair(2, routing, **ODD, router_bias=True)
    prompts, _ = batch_of(rng, slow.config, 7, 6)

    assert_same_told(slow, fast, prompts, rng.integers(2, slow.config.vocab_size, (7, 5)).tolist())


@pytest.mark.parametrize("length", [63, 64, 65, 200])
@pytest.mark.parametrize("pads", ["routed", "removed"])
def test_sentences_longer_than_a_block_are_those_of_the_kernels(length, pads):
    slow, fast, rng = a_pair(length, replace(OPEN, pads=pads), **ODD)
    ids, mask = batch_of(rng, slow.config, 3, length)
    mask[0, :9] = 0
    mask[1, 10:20] = 0
    mask[2, -5:] = 0

    assert_same_pass(slow, fast, ids, mask, ids[::-1], mask[::-1])


@pytest.mark.parametrize("holes", [False, True])
def test_a_sentence_of_more_than_1024_words_is_the_kernels(holes):
    slow, fast, rng = a_pair(3, OPEN, **ODD)
    ids, mask = rng.integers(2, slow.config.vocab_size, (1, 1111)), np.ones((1, 1111), int)
    mask[0, 500:510] = 1 - holes

    assert_same_pass(slow, fast, ids, mask, ids[:, :1060], mask[:, :1060])
    assert_same_told(slow, fast, ids, ids[:, :3].tolist())


@pytest.mark.parametrize("sparse", [(), (0,)])
@pytest.mark.parametrize("act", ["relu", "silu"])
def test_widths_beyond_one_span_are_the_kernels(sparse, act):
    choices = {"dense_act_fn": act, "sparse_encoder_layers": sparse, "sparse_decoder_layers": sparse, "num_experts": 2}
    slow, fast, rng = a_pair(4, OPEN, **HUGE, **choices)
    ids, mask = batch_of(rng, slow.config, 5, 9)

    assert_same_pass(slow, fast, ids, mask, ids, mask)
    assert_same_told(slow, fast, ids[:2], ids[:2, :3].tolist())


@pytest.mark.parametrize("experts", range(1, 10))
def test_any_number_of_experts_gets_the_words_that_the_kernels_give_it(experts):
    slow, fast, rng = a_pair(experts, OPEN, **ODD | {"num_experts": experts})
    ids, mask = batch_of(rng, slow.config, 20, 5)

    assert_same_pass(slow, fast, ids, mask, ids, mask)
    assert_same_told(slow, fast, ids, ids.tolist())


def test_of_experts_that_tie_the_first_is_asked():
    rng = np.random.default_rng(8)
    config = config_of(rng, **ODD | {"sparse_encoder_layers": (0, 1), "sparse_decoder_layers": (0, 1), "router_bias": False})
    leaves = dict(params_of(config, rng).leaves())
    for path, wr_de in leaves.items():
        if path.endswith("wr_de"):
            wr_de[:, 3:] = wr_de[:, 1:2]
            wr_de[:, 0] = wr_de[:, 2]
    slow, fast = kernels_and_fast(config, Tree.of(leaves), OPEN)
    ids, mask = batch_of(rng, config, 9, 6)

    assert_same_pass(slow, fast, ids, mask, ids, mask)
    assert_same_told(slow, fast, ids, ids.tolist())


@pytest.mark.parametrize("d_kv, heads", [(64, 3), (16, 9), (64, 9), (5, 9)])
@pytest.mark.parametrize("d_ff", [7, 64, 100, 520])
def test_a_word_is_the_kernels_whoever_has_more_shares_heads_or_hidden_units(d_ff, d_kv, heads):
    slow, fast, rng = a_pair(9, OPEN, **ODD | {"d_ff": d_ff, "d_kv": d_kv, "num_heads": heads})
    ids, _ = batch_of(rng, slow.config, 3, 5)

    assert_same_told(slow, fast, ids, ids.tolist())


def test_experts_that_are_drawn_are_those_that_the_kernels_draw():
    slow, fast, rng = a_pair(10, Routing(eval_policy="sample", temperature=3.0), **ODD)
    ids, mask = batch_of(rng, slow.config, 5, 6)

    passes = [model(ids, mask, ids, rng=np.random.default_rng(1)).logits for model in (slow, fast)]
    told = [model.score(ids, ids.tolist(), rng=np.random.default_rng(1)) for model in (slow, fast)]

    assert_near(passes[1], passes[0])
    for ours, theirs in zip(*told, strict=True):
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, rtol=0, atol=4e-5)


def test_a_distance_beyond_what_was_said_has_its_bias_word_after_word():
    slow, fast, rng = a_pair(5, OPEN, **ODD)
    prompts = rng.integers(2, slow.config.vocab_size, (2, 5))

    assert_same_told(slow, fast, prompts, rng.integers(2, slow.config.vocab_size, (2, 150)).tolist())


def test_block_0_alone_has_a_bias_where_the_routing_says_so():
    slow, fast, rng = a_pair(6, Routing.huggingface("5.0"), **ODD)
    ids, mask = batch_of(rng, slow.config, 3, 20)
    everywhere = SwitchTransformer(slow.config, slow.params, OPEN, engine="fast")

    assert_same_pass(slow, fast, ids, mask, ids, mask)
    assert_same_told(slow, fast, ids, ids.tolist())
    assert np.abs(everywhere.encode(ids, mask) - fast.encode(ids, mask)).max() > 1e-2


def test_a_loss_is_the_kernels():
    slow, fast, rng = a_pair(7, Routing.flaxformer(), **ODD)
    ids, mask = batch_of(rng, slow.config, 6, 8)

    for training in (False, True):
        expected, out = (model(ids, mask, labels=ids, training=training) for model in (slow, fast))
        assert out.loss == pytest.approx(expected.loss, abs=1e-5)


def test_a_trace_and_params_are_those_of_the_readable_engines():
    slow, fast, _ = a_pair(8, OPEN, **ODD)

    one, other = (model.trace([[5, 6, 7]], decoder_input_ids=[[0, 3]]) for model in (slow, fast))

    for (path, ours), (_, theirs) in zip(one.leaves(), other.leaves(), strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=path)
    assert fast.params is slow.params


def test_new_params_are_what_is_multiplied_from_then_on():
    _, fast, rng = a_pair(9, OPEN, **ODD)
    before = fast.encode([[5, 6]])
    params = params_of(fast.config, rng)

    fast.params = params

    again = SwitchTransformer(fast.config, params, OPEN, engine="fast").encode([[5, 6]])
    np.testing.assert_array_equal(fast.encode([[5, 6]]), again)
    assert np.abs(before - again).max() > 0.1


def test_fast_is_what_there_is_when_nothing_is_asked_for():
    slow, fast, _ = a_pair(10)

    assert SwitchTransformer(fast.config, fast.params).engine == "fast"
    assert GenerationConfig() == fast.generation
    assert slow.engine == "kernels"


def test_all_of_a_layer_is_shared_by_threads_where_its_matrices_are_worth_it(monkeypatch):
    shape = {"d_model": 256, "d_kv": 64, "num_heads": 4, "d_ff": 256, "sparse_encoder_layers": (), "num_experts": 2}
    config = small_config(**shape)
    model = SwitchTransformer(config, small_params(config), OPEN, dtype="float32", threads=2)
    asked = []
    monkeypatch.setattr(pool.Pool, "run", lambda self, threads, program, *_: asked.append((program.__name__, threads)))

    for tokens in (ENOUGH // 256**2 - 1, ENOUGH // 256**2):
        model.encode(np.full((1, tokens), 5))

    counts = {name: [count for program, count in asked if program == name] for name in ("asked", "home", "dense")}
    assert counts == {"asked": [1, 1, 2, 2], "home": [2] * 4, "dense": [1, 1, 2, 2]}  # home looks at pairs of tokens too
