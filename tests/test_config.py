"""The numbers of a model: published ones, Hugging Face's reading of them, and what is refused."""

import json
import math

import pytest
from references import HUGGINGFACE, huggingface_case
from small import small_config

from switchnp import Config
from switchnp.config import PRESETS
from switchnp.errors import ConfigError
from switchnp.params import blueprint

RELEASED = {
    "switch-base-8": (619_339_008, 269),
    "switch-base-16": (1_072_397_568, 269),
    "switch-base-32": (1_978_514_688, 269),
    "switch-base-64": (3_790_748_928, 269),
    "switch-base-128": (7_415_217_408, 269),
    "switch-base-256": (14_664_154_368, 269),
    "switch-large-128": (26_309_291_008, 533),
    "switch-xxl-128": (394_675_073_024, 582),
    "switch-c-2048": (1_571_327_875_360, 351),
}


@pytest.mark.parametrize("name", RELEASED)
def test_a_preset_has_as_many_parameters_and_arrays_as_flaxformer_builds(name):
    config = Config.preset(name)

    arrays = blueprint(config)

    assert (config.num_parameters, len(arrays)) == RELEASED[name]
    assert sum(math.prod(shape) for shape in arrays.values()) == config.num_parameters
    assert list(PRESETS) == list(RELEASED)


@pytest.mark.parametrize(
    "changes", [{"router_bias": True, "is_gated_act": True}, {"tie_word_embeddings": False, "separate_embeddings": True}]
)
def test_the_closed_form_counts_what_the_blueprint_lists(changes):
    config = small_config(**changes)

    assert config.num_parameters == sum(math.prod(shape) for shape in blueprint(config).values())


@pytest.mark.parametrize(
    ("layers", "sparse", "expected"),
    [
        (12, 6, (1, 3, 5, 7, 9, 11)),
        (12, 3, (1, 5, 9)),
        (12, 5, (1, 3, 5, 7, 9, 11)),
        (5, 3, (0, 1, 2, 3, 4)),
        (6, 4, (0, 1, 2, 3, 4, 5)),
        (12, 0, (1,)),
        (2, 0, (1,)),
        (1, 0, (0,)),
        (1, 1, (0,)),
        (3, 5, ()),
    ],
)
def test_sparse_layers_follow_hugging_faces_arithmetic(layers, sparse, expected):
    config = Config.from_huggingface({"num_layers": layers, "num_sparse_encoder_layers": sparse})

    assert config.sparse_encoder_layers == expected


def test_a_stored_sparse_step_replaces_the_derived_one():
    config = Config.from_huggingface({"num_decoder_layers": 12, "num_sparse_decoder_layers": 15, "decoder_sparse_step": 0})
    another = Config.from_huggingface({"num_layers": 4, "num_sparse_encoder_layers": 2, "encoder_sparse_step": 3})

    assert config.sparse_decoder_layers == ()
    assert another.sparse_encoder_layers == (1,)


def test_missing_keys_are_hugging_faces_defaults():
    config = Config.from_huggingface({})

    assert (config.d_model, config.d_ff, config.d_kv, config.num_heads) == (768, 2048, 64, 12)
    assert (config.num_experts, config.expert_capacity, config.vocab_size) == (8, 64, 32128)
    assert config.sparse_encoder_layers == config.sparse_decoder_layers == (1, 5, 9)
    assert config.tie_word_embeddings


def test_aliases_and_null_are_read_as_hugging_face_reads_them():
    settings = {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 3, "num_decoder_layers": None}

    config = Config.from_huggingface(settings | {"decoder_start_token_id": None})

    assert (config.d_model, config.num_layers, config.num_heads, config.num_decoder_layers) == (24, 4, 3, 4)
    assert config.decoder_start_token_id == 0


def test_inert_keys_change_nothing():
    inert = {
        "feed_forward_proj": "gated-gelu",
        "is_gated_act": True,
        "router_ignore_padding_tokens": True,
        "num_selected_experts": 2,
        "router_type": "x",
        "add_router_probs": True,
    }

    assert Config.from_huggingface(inert) == Config.from_huggingface({})


@pytest.mark.parametrize("name", HUGGINGFACE)
def test_a_real_config_has_the_sparse_layers_that_transformers_built(name):
    folder = huggingface_case(name)
    meta = json.loads((folder / "meta.json").read_text())

    config = Config.from_huggingface(json.loads((folder / "config.json").read_text()))

    assert list(config.sparse_encoder_layers) == meta["sparse_encoder_layers"]
    assert list(config.sparse_decoder_layers) == meta["sparse_decoder_layers"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_model": 0}, "d_model is 0, expected at least 1"),
        ({"d_model": "12"}, "d_model is '12', expected a whole number below 10^15"),
        ({"d_model": True}, "d_model is True, expected a whole number"),
        ({"num_experts": -3}, "num_experts is -3"),
        ({"expert_capacity": -1}, "expert_capacity is -1, expected at least 0"),
        ({"sparse_encoder_layers": (2,)}, "sparse_encoder_layers is (2,), expected rising layer numbers below 2"),
        ({"sparse_encoder_layers": (1, 0)}, "sparse_encoder_layers is (1, 0)"),
        ({"sparse_encoder_layers": (1, 1)}, "sparse_encoder_layers is (1, 1)"),
        ({"sparse_encoder_layers": [1]}, "expected a list of whole numbers"),
        ({"dense_act_fn": "tanh"}, "dense_act_fn is 'tanh', expected one of relu"),
        ({"relative_attention_num_buckets": 2}, "expected at least 4"),
        ({"relative_attention_max_distance": 16}, "expected more than half of the 32 buckets"),
        ({"layer_norm_epsilon": 0.0}, "layer_norm_epsilon is 0.0, expected above 0"),
        ({"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon is nan, expected a finite number"),
        ({"layer_norm_epsilon": 10**400}, "expected a finite number below 10^15"),
        ({"expert_capacity": 2**63}, "expected a whole number below 10^15"),
        ({"dropout_rate": 1.0}, "dropout_rate is 1.0"),
        ({"eos_token_id": 40}, "eos_token_id is 40, expected an id below 40"),
        ({"separate_embeddings": True}, "separate_embeddings is true"),
    ],
)
def test_an_impossible_config_is_refused_in_one_sentence(changes, message):
    with pytest.raises(ConfigError) as refusal:
        small_config(**changes)

    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tie_word_embeddings": None}, "tie_word_embeddings is None, expected true or false"),
        ({"model_type": "t5"}, "model_type is 't5'"),
        ({"num_layers": 10**9}, "a number of layers is 1000000000"),
        ({"num_layers": "12"}, "a number of layers is '12'"),
        ({"encoder_sparse_step": 1.5}, "a stored sparse step is 1.5"),
        ({"dense_act_fn": "gated-gelu"}, "dense_act_fn is 'gated-gelu'"),
        ({"router_z_loss_coef": "much"}, "router_z_loss_coef is 'much'"),
    ],
)
def test_an_impossible_config_json_is_refused_in_one_sentence(settings, message):
    with pytest.raises(ConfigError) as refusal:
        Config.from_huggingface(settings)

    assert message in str(refusal.value)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"d_model": 1e999}', '{"d_model": 3, "d_model": 3}', '{"d_model": 3}', '{"speed": 3}', "[" * 100_000]
)
def test_a_config_that_is_not_one_is_refused(text):
    with pytest.raises(ConfigError):
        Config.from_json(text)


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(ConfigError, match="switch-base-8"):
        Config.preset("switch-base-9")
