"""The gradient of a whole model is the slope of its loss, under every routing, policy and kind of layer.

Whatever is drawn is drawn alike on both sides, and a direction is small enough that no choice changes.
"""

from dataclasses import replace

import numpy as np
import pytest
from small import small_config, small_params

from switchnp import Routing, SwitchTransformer, Tree
from switchnp.errors import InputError
from switchnp.routing import PRESETS

STEP = 1e-6
GATED = {"dense_act_fn": "gelu_new", "is_gated_act": True, "tie_word_embeddings": False}
MODELS = {
    "relu": {"num_layers": 3, "sparse_encoder_layers": (0, 2)},
    "gated, untied": GATED,
    "two tables": GATED | {"separate_embeddings": True, "dense_act_fn": "silu"},
    "all sparse, with a bias": {"sparse_encoder_layers": (0, 1), "sparse_decoder_layers": (0, 1), "router_bias": True},
    "all dense": {"sparse_encoder_layers": (), "sparse_decoder_layers": (), "dense_act_fn": "gelu"},
}
PAPER = Routing.paper()
ROUTINGS = {name: preset() for name, preset in PRESETS.items()} | {
    "policy input dropout": replace(PAPER, train_policy="input dropout"),
    "policy logit jitter": replace(PAPER, train_policy="logit jitter", jitter=0.1),
    "policy leaking jitter": replace(PAPER, train_policy="leaking jitter", jitter=0.1, pads="routed", z_coef=0.1),
    "policy sample": replace(PAPER, train_policy="sample"),
    "top k": replace(PAPER, router="top k", decoder_router="top 1", loss_tokens="sequence", z_coef=0.1),
    "gshard": replace(PAPER, router="gshard", decoder_router="top 1"),
    "no token left behind": replace(PAPER, router="no token left behind", decoder_router="top 1"),
    "expert choice": replace(PAPER, router="expert choice", decoder_router="hash"),
    "concatenated, pads left out": replace(PAPER, loss_layers="concatenated", loss_pads="left out", pads="routed", z_coef=0.1),
    "pads zeroed, mean": replace(Routing.flaxformer(8), loss_pads="zeroed", z_coef=0.1, balance_coef=0.3),
    "by gate": replace(PAPER, order="by gate", decoder_order="first come", capacity=2, balance_coef=0.0),
}
BIASED = replace(PAPER, router="bias")
PROMPTS = np.array([[5, 9, 3, 8, 2], [4, 6, 7, 0, 0], [4, 6, 7, 11, 0]])
MASK = PROMPTS > 0
LABELS = np.array([[7, 2, 1], [3, 1, -100], [9, 1, -100]])


def model_of(routing, kind="relu", engine="kernels", dtype=np.float64):
    config = small_config(**MODELS[kind])
    return SwitchTransformer(config, small_params(config, 3, dtype), routing, engine=engine)


def both(model, **more):
    return model.loss_and_grads(PROMPTS, MASK, labels=LABELS, rng=np.random.default_rng(5), **more)


def assert_slope(model, **more):
    """The gradient along a random direction of all weights, against differences."""
    params, rng = model.params, np.random.default_rng(1)
    _, grads = both(model, **more)
    assert [path for path, _ in grads.leaves()] == [path for path, _ in params.leaves()]
    moves = {path: rng.normal(size=w.shape) for path, w in params.leaves()}

    along = [np.sum(gradient * moves[path]) for path, gradient in grads.leaves()]
    assert np.sum(along) == pytest.approx(slope(model, moves, **more), rel=2e-6, abs=2e-7)


def slope(model, moves, **more):
    """Differences of the loss over a small step of some arrays."""
    params, ends = model.params, []
    for sign in (1, -1):
        model.params = Tree.of({path: w + sign * STEP * moves.get(path, 0) for path, w in params.leaves()})
        ends.append(both(model, **more)[0])
    model.params = params
    return (ends[0] - ends[1]) / (2 * STEP)


@pytest.mark.parametrize("routing", ROUTINGS, ids=str)
def test_the_gradient_is_the_slope_under_every_routing(routing):
    assert_slope(model_of(ROUTINGS[routing]))


@pytest.mark.parametrize("kind", MODELS)
def test_the_gradient_is_the_slope_for_every_kind_of_layer(kind):
    assert_slope(model_of(replace(PAPER, z_coef=0.1, logit_z_coef=0.05), kind))


@pytest.mark.parametrize("kind", MODELS)
def test_no_array_hides_a_wrong_gradient_behind_larger_ones(kind):
    model = model_of(replace(PAPER, z_coef=0.1, logit_z_coef=0.05), kind)
    _, grads = both(model, dropout=0.2)

    for path, gradient in grads.leaves():
        move = np.sign(gradient)
        expected = pytest.approx(slope(model, {path: move}, dropout=0.2), rel=1e-5, abs=1e-8)
        assert np.sum(gradient * move) == expected, path


def test_the_gradient_is_the_slope_where_a_bias_chooses():
    assert_slope(model_of(BIASED, "all sparse, with a bias"))


def test_the_gradient_is_the_slope_with_dropout_and_smoothing():
    assert_slope(model_of(PAPER), dropout=0.3, expert_dropout=0.4, smoothing=0.1)
    assert_slope(model_of(ROUTINGS["top k"], "gated, untied"), dropout=0.3)


def test_the_gradient_is_the_slope_of_the_evaluation_loss_too():
    assert_slope(model_of(PAPER), training=False)


@pytest.mark.parametrize("routing", ["paper", "flaxformer", "huggingface:4.25", "top k", "no token left behind"])
@pytest.mark.parametrize("kind", ["relu", "gated, untied"])
def test_both_engines_have_the_same_gradient(kind, routing):
    (loss, grads), (other, others) = (both(model_of(ROUTINGS[routing], kind, engine)) for engine in ("equations", "kernels"))

    assert loss == pytest.approx(other, rel=1e-12)
    for (path, gradient), (_, twin) in zip(grads.leaves(), others.leaves(), strict=True):
        np.testing.assert_allclose(gradient, twin, rtol=1e-9, atol=1e-11, err_msg=path)


def test_without_dropout_the_loss_is_that_of_a_plain_call():
    model = model_of(replace(PAPER, train_policy="argmax"))

    loss, _ = both(model)

    assert loss == pytest.approx(model(PROMPTS, MASK, labels=LABELS, training=True).loss, rel=1e-12)


def test_the_same_seed_has_the_same_gradient_to_the_bit():
    (loss, grads), (other, others) = (both(model_of(PAPER, dtype=np.float32), dropout=0.2) for _ in range(2))

    assert loss == other
    assert all(np.array_equal(one, two) for (_, one), (_, two) in zip(grads.leaves(), others.leaves(), strict=True))


def test_an_expert_that_kept_nobody_has_no_gradient_and_bucket_16_never_has():
    """2l, §4.1."""
    model = model_of(replace(PAPER, capacity=0))

    _, grads = both(model)

    switch = grads.encoder.blocks[0].switch
    assert not switch.wi_edf.any()
    assert not switch.wo_efd.any()
    assert switch.wr_de.any()
    assert not grads.encoder.bias_rh[16].any()


def test_what_is_no_share_is_refused():
    model = model_of(PAPER)

    for wrong in ({"dropout": 1.0}, {"expert_dropout": -0.1}, {"smoothing": "much"}, {"dropout": True}):
        with pytest.raises(InputError, match="expected 0 or more and below 1"):
            both(model, **wrong)
    with pytest.raises(InputError, match="labels are missing"):
        model.loss_and_grads(PROMPTS, decoder_input_ids=[[1], [2], [3]], rng=np.random.default_rng(0))
    with pytest.raises(InputError, match="rng"):
        model_of(replace(PAPER, train_policy="argmax")).loss_and_grads(PROMPTS, labels=LABELS, dropout=0.1)
