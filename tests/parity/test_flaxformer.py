"""What the original code, flaxformer, computed: also for the two kinds of model that transformers cannot run.

Words that are no padding, within the fixtures' 1e-5; who goes where and who is dropped, exactly.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
from references import TESTS, converted, shared

from switchnp import Config, Routing, SwitchTransformer, Tree, equations, kernels, layers, network

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


def sparse_blocks(arrays):
    """Where the Switch layers stand."""
    router = "param/target/{}/layers_{}/mlp/router/router_weights/w/kernel"
    return {f"sparse_{stack}_layers": tuple(i for i in range(99) if router.format(stack, i) in arrays) for stack in STACKS}


XXL = {"dense_act_fn": "gelu_new", "is_gated_act": True, "tie_word_embeddings": False}
KINDS = {"base": {}, "base_nopad": {}, "base_step4": {}, "xxl": XXL, "c": {"tie_word_embeddings": False}}
ENGINES = ["kernels", "equations", "fast"]


def routing_of(name, settings):
    """flaxformer's routing with the numbers of this model's gin file."""
    return replace(
        Routing.flaxformer(settings["GROUP_SIZE"]),
        train_capacity_factor=settings["TRAIN_EXPERT_CAPACITY_FACTOR"],
        eval_capacity_factor=settings["EVAL_EXPERT_CAPACITY_FACTOR"],
        min_capacity=2 if name in ("xxl", "c") else 4,
    )


def loaded(name, routing=None, engine="kernels"):
    """A model from its t5x parameters, and the fixture's arrays."""
    arrays, settings = flaxformer(name)
    config, params = from_t5x(arrays, settings, sparse_blocks(arrays), **KINDS[name])
    return SwitchTransformer(config, params, routing or routing_of(name, settings), engine=engine), arrays


def given(arrays):
    """What flaxformer was given; it sees padding by its id, and the decoder's by the targets' too."""
    prompts, said, targets = (arrays[f"batch/{name}_tokens"] for name in ("encoder_input", "decoder_input", "decoder_target"))
    return {
        "input_ids": prompts,
        "attention_mask": prompts > 0,
        "decoder_input_ids": said,
        "decoder_attention_mask": targets > 0,
        "labels": np.where(targets > 0, targets, -100),
    }


def assert_same_words(out, arrays, against):
    words = arrays["batch/decoder_target_tokens"] > 0
    np.testing.assert_allclose(out.logits[words], arrays[against][words], rtol=0, atol=1e-5)
    assert words.sum() > words.size / 4


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", KINDS)
def test_without_drops_every_word_is_flaxformers(name, engine):
    model, arrays = loaded(name, NO_DROPS, engine)

    assert_same_words(model(**given(arrays)), arrays, "logits_eval_nodrop")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["base", "base_nopad", "c"])
def test_a_converted_folder_says_what_flaxformer_said(name, engine):
    arrays, _ = flaxformer(name)

    model = converted(found(f"hf_{name}"), NO_DROPS, engine)

    assert_same_words(model(**given(arrays)), arrays, "logits_eval_nodrop")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", KINDS)
def test_with_its_groups_its_padding_and_its_drops_every_word_is_flaxformers(name, engine):
    model, arrays = loaded(name, engine=engine)

    evaluated, trained = model(**given(arrays)), model(**given(arrays), training=True)

    assert_same_words(evaluated, arrays, "logits_eval")
    assert_same_words(trained, arrays, "logits_train")
    prompts = arrays["batch/encoder_input_tokens"] > 0
    np.testing.assert_allclose(evaluated.encoder_last_hidden_state[prompts], arrays["encoded_eval"][prompts], rtol=0, atol=1e-5)
    assert evaluated.loss == pytest.approx(float(arrays["loss_eval"]), abs=1e-5)
    assert trained.loss == pytest.approx(float(arrays["loss_train"]), abs=1e-5)
    assert trained.loss > trained.cross_entropy + 1e-3


@pytest.mark.parametrize("name", KINDS)
def test_every_part_of_the_training_loss_is_flaxformers(name):
    model, arrays = loaded(name)
    words = replace(model.routing, balance_coef=0.0)
    losses = {
        "loss_train_router_z_1e-3": replace(model.routing, z_coef=1e-3),
        "loss_train_ce_plus_zloss": words,
    }

    for theirs, routing in losses.items():
        loss = SwitchTransformer(model.config, model.params, routing)(**given(arrays), training=True).loss
        assert loss == pytest.approx(float(arrays[theirs]), abs=1e-5), theirs
    out = SwitchTransformer(model.config, model.params, words)(**given(arrays), training=True)
    assert out.loss - out.cross_entropy == pytest.approx(float(arrays["loss_train_zloss_part"]), abs=1e-5)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_every_token_of_every_layer_goes_where_flaxformer_sent_it(name, training):
    model, arrays = loaded(name)
    everything = given(arrays)
    del everything["labels"]
    mode = "train" if training else "eval"

    trace = model.trace(everything.pop("input_ids"), **everything, training=training)

    compared = 0
    for stack in STACKS:
        for i, block in enumerate(trace[stack].blocks):
            if "switch" in block:
                router = {key: arrays[f"router_{mode}/{stack}/layers_{i}/mlp/{key}"] for key in ("probs", "expert_index", "kept")}
                a = block.switch
                np.testing.assert_allclose(a.p_te.reshape(router["probs"].shape), router["probs"], rtol=0, atol=1e-5)
                np.testing.assert_array_equal(a.expert_t.reshape(router["kept"].shape), router["expert_index"])
                np.testing.assert_array_equal((a.slot_t >= 0).reshape(router["kept"].shape), router["kept"])
                if training:
                    metric = arrays[f"metrics_train/{stack}/layers_{i}/mlp/auxiliary_loss"]
                    assert a.balance == pytest.approx(metric.item(), abs=1e-5)
                compared += 1
    assert compared == len(model.config.sparse_encoder_layers + model.config.sparse_decoder_layers)


@pytest.mark.parametrize("name", KINDS)
def test_selective_precision_is_as_far_off_as_flaxformers_own_bfloat16(name):
    """A few choices flip, so medians are compared: how far each is from float32, and how far they are apart."""
    model, arrays = loaded(name, engine="equations")
    narrow = SwitchTransformer(model.config, model.params, replace(model.routing, precision="selective"), engine="equations")
    words = arrays["batch/decoder_target_tokens"] > 0

    ours, theirs = narrow(**given(arrays)).logits[words], arrays["logits_eval_bf16"][words]

    off, their_off = (np.median(np.abs(logits - arrays["logits_eval"][words])) for logits in (ours, theirs))
    assert their_off / 2 < off < 2 * their_off
    assert np.median(np.abs(ours - theirs)) < 2 * their_off


@pytest.mark.parametrize("engine", [equations, kernels], ids=["equations", "kernels"])
def test_a_scanned_model_with_a_table_of_distances_in_every_block_says_what_flaxformer_said(engine):
    """No released model is one, and no Config makes one: here each block has its own bias, by the layers alone."""
    arrays, settings = flaxformer("scan")
    config, params, biases = unscanned(arrays, settings)
    routing, inputs = routing_of("base", settings), given(arrays)
    words = inputs["decoder_attention_mask"]

    prompts, said = row_of(inputs["input_ids"], inputs["attention_mask"]), row_of(inputs["decoder_input_ids"], words)
    memory_td = passed(engine, config, routing, params, biases["encoder"], prompts)
    last_td = passed(engine, config, routing, params, biases["decoder"], said, memory_td, prompts)
    logits_tv = engine.unembed(last_td, params.embedding_vd).reshape(*words.shape, -1)

    np.testing.assert_allclose(logits_tv[words], arrays["logits_eval"][words], rtol=0, atol=1e-5)


def unscanned(arrays, settings):
    """The stacked parameters of blocks 0, 2 and 1, 3 as those of blocks 0 to 3; each block's own table of distances."""
    plain, biases = dict(arrays), {stack: [None] * 4 for stack in STACKS}
    for name, array in arrays.items():
        stack, _, rest = name.removeprefix("param/target/").partition("/")
        if name.startswith("param/") and "/subblock_" in name:
            _, subblock, rest = rest.split("/", 2)
            for k in range(2):
                i, own = 2 * k + int(subblock[-1]), np.take(array, k, axis=1)
                plain[f"param/target/{stack}/layers_{i}/{rest}"] = own
                if rest.startswith("relpos_bias"):
                    biases[stack][i] = own.T
    for stack in STACKS:
        plain[f"param/target/{stack}/relpos_bias/rel_embedding"] = biases[stack][0].T
    sparse = {f"sparse_{stack}_layers": (1, 3) for stack in STACKS}
    return *from_t5x(plain, settings, sparse), biases


def row_of(ids, mask):
    B, T = ids.shape
    return network.Row(ids.ravel(), np.repeat(np.arange(B), T), np.tile(np.arange(T), B), mask.ravel(), B)


def passed(ops, config, routing, params, biases, row, memory_td=None, memory_row=None):
    """One stack, each block with a bias of its own; the pass of network.encode and network.decode otherwise."""
    stack = params.encoder if memory_td is None else params.decoder
    x_td, groups = ops.embed(row.ids_t, params.embedding_vd), network.groups_of(ops, config, routing, row)
    for p, bias_rh in zip(stack.blocks, biases, strict=True):
        own = network._own_biases(ops, config, bias_rh, row, causal=memory_td is not None)
        x_td, _ = layers.self_attention(
            ops, config, p.attention, x_td, layers.Sight(row.spans, row.spans, [b.bias_hts for b in own])
        )
        if memory_td is not None:
            sight = network._memory_sight(ops, row, memory_row, memory_td.dtype)
            x_td, _ = layers.cross_attention(ops, config, p.cross, x_td, memory_td, sight)
        if "switch" in p:
            x_td, _ = layers.switch(ops, config, routing, p.switch, x_td, groups)
        else:
            x_td, _ = layers.dense(ops, config, p.dense, x_td)
    return ops.rms_norm(x_td, stack.norm_d, config.layer_norm_epsilon)
