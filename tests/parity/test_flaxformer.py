"""What the original code, flaxformer, computed: also for the two kinds of model that transformers cannot run.

Logits without drops, at the words that are no padding, within the fixtures' 1e-5.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
from references import TESTS, converted, shared

from switchnp import Config, Routing, SwitchTransformer, Tree

NO_DROPS = replace(Routing.paper(), name="paper without drops", capacity=1000)
STACKS = {"encoder": ("attention", "pre_attention_layer_norm"), "decoder": ("self_attention", "pre_self_attention_layer_norm")}


def flaxformer(name):
    """A model's arrays and settings."""
    arrays, settings = found(f"model_{name}.npz"), found(f"model_{name}.json")
    return dict(np.load(arrays)), json.loads(settings.read_text())["config"]


def found(name):
    """A fixture in tests/parity, or else in ../shared."""
    here = TESTS / "parity/flaxformer" / name
    return here if here.exists() else shared(f"fixtures/flaxformer/{name}")


def from_t5x(arrays, settings, sparse, **more):
    """The Config and the weights of a t5x parameter tree."""
    numbers = {
        "d_model": "EMBED_DIM",
        "d_ff": "MLP_DIM",
        "d_kv": "HEAD_DIM",
        "num_heads": "NUM_HEADS",
        "num_experts": "NUM_EXPERTS",
    }
    numbers |= {"num_layers": "NUM_ENCODER_LAYERS", "num_decoder_layers": "NUM_DECODER_LAYERS", "vocab_size": "NUM_EMBEDDINGS"}
    config = Config(**{ours: settings[theirs] for ours, theirs in numbers.items()}, **sparse, **more)
    params = {name.removeprefix("param/target/"): array for name, array in arrays.items() if name.startswith("param/")}
    leaves = {"embedding_vd": params["token_embedder/embedding"]}
    if not config.tie_word_embeddings:
        leaves["head_vd"] = params["decoder/logits_dense/kernel"].T
    for stack in STACKS:
        leaves |= t5x_stack(stack, config, params)
    return config, Tree.of({path: np.ascontiguousarray(array) for path, array in leaves.items()})


def t5x_stack(stack, config, params):
    leaves = {
        f"{stack}/bias_rh": params[f"{stack}/relpos_bias/rel_embedding"].T,
        f"{stack}/norm_d": params[f"{stack}/{stack}_norm/scale"],
    }
    layers = config.num_layers if stack == "encoder" else config.num_decoder_layers
    for i in range(layers):
        ours, theirs = f"{stack}/blocks/{i}", f"{stack}/layers_{i}"
        attention, norm = STACKS[stack]
        leaves |= t5x_attention(f"{ours}/attention", params, f"{theirs}/{attention}", f"{theirs}/{norm}", config)
        if stack == "decoder":
            cross = f"{theirs}/encoder_decoder_attention", f"{theirs}/pre_cross_attention_layer_norm"
            leaves |= t5x_attention(f"{ours}/cross", params, *cross, config)
        leaves |= t5x_feedforward(ours, theirs, params)
    return leaves


def t5x_attention(ours, params, theirs, norm, config):
    H, K, D = config.num_heads, config.d_kv, config.d_model
    names = {"wq_dhk": "query", "wk_dhk": "key", "wv_dhk": "value"}
    leaves = {f"{ours}/{name}": params[f"{theirs}/{kernel}/kernel"].reshape(D, H, K) for name, kernel in names.items()}
    return leaves | {f"{ours}/wo_hkd": params[f"{theirs}/out/kernel"].reshape(H, K, D), f"{ours}/norm_d": params[f"{norm}/scale"]}


def t5x_feedforward(ours, theirs, params):
    sparse = f"{theirs}/mlp/router/router_weights/w/kernel" in params
    node, inner, axes = (f"{ours}/switch", "expert/", "e") if sparse else (f"{ours}/dense", "", "")
    leaves = {f"{node}/norm_d": params[f"{theirs}/pre_mlp_layer_norm/scale"]}
    for name, our_name in {"wi": "wi_{}df", "wi_0": "wi0_{}df", "wi_1": "wi1_{}df", "wo": "wo_{}fd"}.items():
        if f"{theirs}/mlp/{inner}{name}/kernel" in params:
            leaves[f"{node}/{our_name.format(axes)}"] = params[f"{theirs}/mlp/{inner}{name}/kernel"]
    if sparse:
        leaves[f"{node}/wr_de"] = params[f"{theirs}/mlp/router/router_weights/w/kernel"]
    return leaves


def assert_same_words(model, arrays, against="logits_eval_nodrop"):
    prompts, said = arrays["batch/encoder_input_tokens"], arrays["batch/decoder_input_tokens"]
    words = arrays["batch/decoder_target_tokens"] > 0

    out = model(prompts, prompts > 0, said, words)

    np.testing.assert_allclose(out.logits[words], arrays[against][words], rtol=0, atol=1e-5)
    assert words.sum() > words.size / 4


@pytest.mark.parametrize("engine", ["kernels", "equations"])
@pytest.mark.parametrize("name", ["base", "base_nopad", "c"])
def test_a_converted_folder_says_what_flaxformer_said(name, engine):
    arrays, _ = flaxformer(name)

    model = converted(found(f"hf_{name}"), NO_DROPS, engine)

    assert_same_words(model, arrays)


@pytest.mark.parametrize("engine", ["kernels", "equations"])
def test_a_gated_untied_model_like_switch_xxl_says_what_flaxformer_said(engine):
    arrays, settings = flaxformer("xxl")
    sparse = {"sparse_encoder_layers": (1,), "sparse_decoder_layers": (1,)}
    kind = {"dense_act_fn": "gelu_new", "is_gated_act": True, "tie_word_embeddings": False}

    model = SwitchTransformer(*from_t5x(arrays, settings, sparse, **kind), NO_DROPS, engine=engine)

    assert_same_words(model, arrays)


@pytest.mark.parametrize("engine", ["kernels", "equations"])
def test_sparse_layers_may_stand_anywhere(engine):
    arrays, settings = flaxformer("base_step4")
    sparse = {
        f"sparse_{stack}_layers": tuple(
            i for i in range(99) if f"param/target/{stack}/layers_{i}/mlp/router/router_weights/w/kernel" in arrays
        )
        for stack in STACKS
    }

    model = SwitchTransformer(*from_t5x(arrays, settings, sparse), NO_DROPS, engine=engine)

    assert_same_words(model, arrays)
