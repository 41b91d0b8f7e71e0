"""What transformers 5.23.0, 5.0.0, 4.57.6 and 4.25.1 computed, array by array, on every engine.

Tolerances are those of the fixtures' README: float32 hidden states 5e-5, logits 2e-5, losses 1e-5; float64 1e-9, losses 1e-7.
"""

import numpy as np
import pytest
from references import HUGGINGFACE, LEGACY, TESTS, converted, huggingface_case, inputs, reference, shared

import switchnp
from switchnp import Routing

ENGINES = ["equations", "kernels", "fast"]
READABLE = ["equations", "kernels"]
OUTPUTS = {"logits": "logits", "encoder_last_hidden_state": "encoder/last_hidden_state"}
LOSSES = {
    "loss": "loss_total",
    "cross_entropy": "loss_ce",
    "encoder_z_loss": "encoder_z_loss",
    "decoder_z_loss": "decoder_z_loss",
    "encoder_balance_loss": "encoder_aux_loss",
    "decoder_balance_loss": "decoder_aux_loss",
}


def assert_losses(out, arrays, tolerance, prefix=""):
    for ours, theirs in LOSSES.items():
        assert getattr(out, ours) == pytest.approx(float(arrays[prefix + theirs]), abs=tolerance), ours


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", HUGGINGFACE)
def test_logits_and_losses_are_those_of_5_23_in_float32(name, engine):
    arrays, _ = reference(name)
    model = converted(huggingface_case(name), engine=engine)

    out = model(**inputs(arrays))

    np.testing.assert_allclose(out.logits, arrays["logits"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(out.encoder_last_hidden_state, arrays["encoder/last_hidden_state"], rtol=0, atol=5e-5)
    assert_losses(out, arrays, 1e-5)


@pytest.mark.parametrize("engine", READABLE)
@pytest.mark.parametrize("name", HUGGINGFACE)
def test_logits_and_losses_are_those_of_5_23_in_float64(name, engine):
    arrays, _ = reference(name)
    model = converted(huggingface_case(name), engine=engine, dtype="float64")

    out = model(**inputs(arrays))

    assert out.logits.dtype == np.float64
    for ours, theirs in OUTPUTS.items():
        np.testing.assert_allclose(getattr(out, ours), arrays[f"f64/{theirs}"], rtol=0, atol=1e-9)
    assert_losses(out, arrays, 1e-7, prefix="f64/")


@pytest.mark.parametrize("engine", READABLE)
@pytest.mark.parametrize("name", HUGGINGFACE)
def test_every_array_on_the_way_is_that_of_5_23(name, engine):
    arrays, _ = reference(name)
    model = converted(huggingface_case(name), engine=engine)
    given = inputs(arrays)
    del given["labels"]

    trace = model.trace(given.pop("input_ids"), **given)

    compared = sum(compare_stack(trace[stack], stack, arrays) for stack in ("encoder", "decoder"))
    assert compared > 20


def compare_stack(a, stack, arrays):
    """Every reference array of one stack against ours; how many there were."""
    B, T = arrays[f"{stack}/hidden_states/0"].shape[:2]
    state_names = [name for name in arrays if name.startswith(f"{stack}/hidden_states/")]
    states = [a.x_td, *(block.dense.x_td if "dense" in block else block.switch.x_td for block in a.blocks)]
    states[-1] = a.memory_td if stack == "encoder" else a.last_td
    assert len(state_names) == len(states)
    for i, state_td in enumerate(states):
        theirs = arrays[f"{stack}/hidden_states/{i}"]
        np.testing.assert_allclose(state_td.reshape(theirs.shape), theirs, rtol=0, atol=5e-5)
    count = len(states) + compare_bias(a, stack, arrays, T)
    for i, block in enumerate(a.blocks):
        key = f"{stack}/block{i}"
        out_td = block.dense.x_td if "dense" in block else block.switch.x_td
        np.testing.assert_allclose(out_td.reshape(B, T, -1), arrays[f"{key}/out"], rtol=0, atol=5e-5)
        count += 1 + compare_attention(block, stack, i, arrays, B, T)
        if "switch" in block:
            compare_switch(block.switch, key, arrays, B, T)
            count += 7
    return count


def compare_bias(a, stack, arrays, T):
    """Distance buckets and what they add to scores, where a token may be seen."""
    if f"{stack}/position_bucket" not in arrays:
        return 0
    np.testing.assert_array_equal(a.bucket_ts[:T, :T], arrays[f"{stack}/position_bucket"])
    expected_hts = arrays[f"{stack}/position_bias"][0]
    bias_hts = a.bias_hts[:, : expected_hts.shape[1], :T]
    seen = bias_hts > np.finfo(np.float32).min
    np.testing.assert_allclose(bias_hts[seen], expected_hts[seen], rtol=0, atol=1e-6)
    return 2


def compare_attention(block, stack, i, arrays, B, T):
    """Attention weights, sentence by sentence, and nothing between sentences."""
    names = {"attention": "attention" if stack == "encoder" else "self_attention", "cross": "cross_attention"}
    count = 0
    for ours, theirs in names.items():
        if ours in block and f"{stack}/{theirs}/{i}" in arrays:
            look_hts = block[ours].look_hts
            expected = arrays[f"{stack}/{theirs}/{i}"]
            S = expected.shape[-1]
            for b in range(B):
                row_hts = look_hts[:, b * T : (b + 1) * T]
                np.testing.assert_allclose(row_hts[:, :, b * S : (b + 1) * S], expected[b], rtol=0, atol=1e-5)
                assert row_hts.sum() == pytest.approx(expected[b].sum(), rel=1e-5)
            count += 1
    return count


def compare_switch(a, key, arrays, B, T):
    """Router, choice, queue and answer of one sparse layer."""
    np.testing.assert_allclose(a.n_td.reshape(B, T, -1), arrays[f"{key}/ff_in_normed"], rtol=0, atol=5e-5)
    np.testing.assert_allclose(a.h_te.reshape(B, T, -1), arrays[f"{key}/router_logits"], rtol=0, atol=5e-5)
    np.testing.assert_allclose(a.p_te.reshape(B, T, -1), arrays[f"{key}/router_probs"], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(a.expert_t.reshape(B, T), arrays[f"{key}/expert_index"])
    np.testing.assert_array_equal((a.slot_t >= 0).reshape(B, T), arrays[f"{key}/dispatch"].any(axis=-1))
    np.testing.assert_allclose(a.gate_t.reshape(B, T, 1), arrays[f"{key}/router_prob_max"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(a.y_td.reshape(B, T, -1), arrays[f"{key}/moe_out"], rtol=0, atol=5e-5)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("name", HUGGINGFACE)
def test_greedy_ids_are_those_of_5_23(name, use_cache, engine):
    arrays, meta = reference(name)
    model = converted(huggingface_case(name), engine=engine)
    given = inputs(arrays)

    ids = model.generate(given["input_ids"], given["attention_mask"], meta["max_new_tokens"], use_cache=use_cache)

    np.testing.assert_array_equal(ids, arrays[f"gen/{'greedy' if use_cache else 'greedy_nocache'}/ids"])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", HUGGINGFACE)
def test_losses_are_those_of_4_57_by_its_preset(name, engine):
    arrays, _ = reference(name)
    legacy, _ = reference(name, "legacy_4_57_6.npz")
    model = converted(huggingface_case(name), Routing.huggingface("4.57"), engine)

    out = model(**inputs(arrays))

    np.testing.assert_allclose(out.logits, arrays["logits"], rtol=0, atol=2e-5)
    assert_losses(out, legacy, 1e-5)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", LEGACY)
def test_dropped_tokens_pass_as_in_4_25_by_its_preset(name, engine):
    arrays, meta = reference(name)
    legacy, _ = reference(name, "legacy_4_25_1.npz")
    model = converted(huggingface_case(name), Routing.huggingface("4.25"), engine)
    given = inputs(arrays)

    out = model(**given)
    trace = model.trace(
        **{key: value for key, value in given.items() if key not in ("input_ids", "labels")}, text_or_ids=given["input_ids"]
    )
    ids = model.generate(given["input_ids"], given["attention_mask"], meta["max_new_tokens"])

    np.testing.assert_allclose(out.logits, legacy["logits"], rtol=0, atol=2e-5)
    assert_losses(out, legacy, 1e-5)
    assert all(compare_stack(trace[stack], stack, legacy) for stack in ("encoder", "decoder"))
    np.testing.assert_array_equal(ids, legacy["gen/greedy/ids"])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["p01_basic", "p02_overflow", "p03_allsparse_untied", "p05_bias_masks", "p06_asymmetric"])
def test_words_are_those_of_the_broken_5_0_by_its_preset(name, engine):
    arrays, meta = reference(name)
    broken = dict(np.load(TESTS / f"parity/transformers_5_0/{name}.npz"))
    model = converted(huggingface_case(name), Routing.huggingface("5.0"), engine)
    given = inputs(arrays)

    out = model(**given)
    ids = model.generate(given["input_ids"], given["attention_mask"], meta["max_new_tokens"])

    np.testing.assert_allclose(out.logits, broken["logits"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(out.encoder_last_hidden_state, broken["encoder/last_hidden_state"], rtol=0, atol=5e-5)
    assert out.loss == pytest.approx(float(broken["loss"]), abs=1e-5)
    np.testing.assert_array_equal(ids, broken["gen/greedy/ids"])
    assert np.abs(out.logits - arrays["logits"]).max() > 1


FORMATS = ["bin", "bin_bf16", "bin_legacy_noZip", "bin_sharded", "safetensors_bf16", "safetensors_sharded"]


@pytest.mark.parametrize("layout", ["", *FORMATS])
def test_every_layout_of_one_model_converts_to_the_same_answers(layout, tmp_path):
    if layout.startswith("bin"):
        pytest.importorskip("torch", reason="torch is not installed (the extra switchnp[torch]), so .bin files are not tested")
    name = "reference_bf16_weights.npz" if "bf16" in layout else "reference.npz"
    arrays, _ = reference("p08_formats", name)
    given = inputs(reference("p08_formats")[0])
    folder = shared("fixtures/huggingface/p08_formats") / ("formats" if layout else "") / layout

    switchnp.convert(folder, tmp_path / "model.h5", dtype="bfloat16" if "bf16" in layout else "float32")
    out = switchnp.load(tmp_path / "model.h5")(**given)

    np.testing.assert_allclose(out.logits, arrays["logits"], rtol=0, atol=2e-5)
