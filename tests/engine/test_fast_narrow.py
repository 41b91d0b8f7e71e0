"""The fast engine in bfloat16 and int8: how far off it is, and from what file it makes no difference."""

import json

import numpy as np
import pytest
from drawn import OPEN, assert_near, batch_of, config_of, params_of
from references import ROOT, TESTS

import switchnp
from switchnp import Routing, SwitchTransformer, Tree
from switchnp.cli import main
from switchnp.errors import InputError
from switchnp.quantization import SCALES, quantized, widened

NUMBERS = ROOT / "weights/switch-numbers.h5"
HASH = Routing(router="hash", capacity="unlimited")
"""Experts by the word alone, so that rounding sends nobody elsewhere."""
SPARSE = {"sparse_encoder_layers": (0,), "sparse_decoder_layers": (0,), "num_layers": 2, "num_decoder_layers": 2}
WIDTHS = {
    "odd": {"d_model": 72, "d_ff": 100, "d_kv": 8, "num_heads": 3},
    "whole": {"d_model": 192, "d_ff": 256, "d_kv": 64, "num_heads": 2},
    "beyond a span": {"d_model": 1100, "d_ff": 2100, "d_kv": 16, "num_heads": 3, "num_layers": 1, "num_decoder_layers": 1},
}
BOUNDS = {"bfloat16": 0.012, "int8": 0.06}
"""Of the largest logit."""
TYPICAL = {"bfloat16": 0.01, "int8": 0.045}
"""Root mean squares, of those of the logits."""


def saved_as(dtype, params):
    """Float32 weights that a file of this dtype would hold, exactly."""
    return Tree.of({path: _as(dtype, path, leaf) for path, leaf in params.leaves()})


def _as(dtype, path, leaf):
    if path.rpartition("/")[2] not in SCALES:
        return leaf
    if dtype == "int8":
        return widened(path, *quantized(path, leaf))
    bits = leaf.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)


def narrow_pair(seed, dtype, routing, **changes):
    """The kernels on weights of few bits, the fast engine in as few, and the generator that drew them."""
    rng = np.random.default_rng(seed)
    config = config_of(rng, **changes)
    params = params_of(config, rng)
    exact = SwitchTransformer(config, saved_as(dtype, params), routing, engine="kernels")
    return exact, SwitchTransformer(config, params, routing, engine="fast", dtype=dtype), rng


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("experts", [1, 3])
def test_only_what_goes_into_a_product_is_rounded(experts, gated, width, dtype):
    changes = SPARSE | WIDTHS[width] | {"is_gated_act": gated, "dense_act_fn": "gelu" if gated else "relu"}
    exact, narrow, rng = narrow_pair(1, dtype, HASH, num_experts=experts, **changes)
    for B, T in ((1, 3), (5, 9)):
        ids, mask = batch_of(rng, exact.config, B, T)

        expected, out = (model(ids, mask, ids) for model in (exact, narrow))

        assert_near(out.logits, expected.logits, BOUNDS[dtype])
        assert _rms(out.logits - expected.logits) < TYPICAL[dtype] * _rms(expected.logits)
        assert_near(out.encoder_last_hidden_state, expected.encoder_last_hidden_state, BOUNDS[dtype])
        assert np.abs(out.logits - expected.logits).max() > 1e-5 * np.abs(expected.logits).max()


def _rms(x):
    return np.sqrt(np.mean(np.square(x)))


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("sentences", [1, 2, 9, 20])
def test_a_word_at_a_time_is_as_near_as_a_pass(sentences, gated, width, dtype):
    changes = SPARSE | WIDTHS[width] | {"is_gated_act": gated, "dense_act_fn": "silu" if gated else "relu", "num_experts": 1}
    exact, narrow, rng = narrow_pair(2, dtype, OPEN, **changes)
    ids, _ = batch_of(rng, exact.config, sentences, 5)

    expected, told = ([each.logprobs for each in model.score(ids, ids.tolist())] for model in (exact, narrow))

    logits = exact(ids, decoder_input_ids=ids).logits
    np.testing.assert_allclose(told, expected, rtol=0, atol=2 * BOUNDS[dtype] * np.abs(logits).max())


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("dtype", BOUNDS)
def test_most_words_keep_their_expert_and_their_logits(dtype, seed):
    exact, narrow, rng = narrow_pair(seed, dtype, OPEN, **SPARSE | WIDTHS["odd"], num_experts=4)
    ids, mask = batch_of(rng, exact.config, 20, 9)

    expected, logits = (model(ids, mask, ids).logits for model in (exact, narrow))

    off = np.abs(logits - expected).max(axis=-1) / np.abs(expected).max()
    assert np.median(off) < BOUNDS[dtype] / 2
    assert np.mean(off < BOUNDS[dtype]) > 0.9


# Files


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The shipped model, and what `switchnp quantize` makes of it."""
    folder = tmp_path_factory.mktemp("files")
    for dtype in BOUNDS:
        assert main(["quantize", str(NUMBERS), "-o", str(folder / f"{dtype}.h5"), "--dtype", dtype]) == 0
    return {"float32": NUMBERS, **{dtype: folder / f"{dtype}.h5" for dtype in BOUNDS}}


ANSWERS = json.loads((TESTS / "parity/numbers/answers.json").read_text())
LOGITS = dict(np.load(TESTS / "parity/numbers/logits.npz"))
GIVEN = LOGITS["input_ids"], LOGITS["attention_mask"], LOGITS["decoder_input_ids"]
SAID = np.arange(LOGITS["logits"].shape[1]) < LOGITS["decoder_lengths"][:, None]


@pytest.mark.parametrize("dtype, wrong", [("bfloat16", 0), ("int8", 3)])
def test_the_reference_answers_are_given_in_fewer_bits(dtype, wrong):
    model = switchnp.load(NUMBERS, dtype=dtype)

    answers = model.generate([case["prompt"] for case in ANSWERS])

    assert sum(answer != case["answer"] for answer, case in zip(answers, ANSWERS, strict=True)) <= wrong


@pytest.mark.parametrize("dtype", BOUNDS)
def test_the_references_logits_are_near_in_fewer_bits(dtype):
    logits = switchnp.load(NUMBERS, dtype=dtype)(*GIVEN).logits

    off = np.abs(logits - LOGITS["logits"])[SAID].max(axis=-1) / np.abs(LOGITS["logits"][SAID]).max()
    assert np.median(off) < BOUNDS[dtype] / 5
    assert np.mean(off < BOUNDS[dtype]) > 0.9


def test_an_int8_file_gives_the_bits_of_a_float32_file_that_is_loaded_as_int8(files):
    stored, rounded = switchnp.load(files["int8"]), switchnp.load(NUMBERS, dtype="int8")

    for ours, theirs in zip(_everything(stored), _everything(rounded), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_bfloat16_file_gives_the_bits_of_the_same_numbers_in_float32(files, dtype):
    """A file of bfloat16 has all in it, the router too, which `dtype` leaves as it is."""
    wide = switchnp.load(files["bfloat16"], engine="kernels")
    stored = switchnp.load(files["bfloat16"], dtype=dtype)
    widened_ = SwitchTransformer(wide.config, wide.params, wide.routing, dtype=dtype)

    for ours, theirs in zip(_everything(stored), _everything(widened_), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def _everything(model):
    out = model(*GIVEN)
    told = model.score(GIVEN[0][:3], GIVEN[2][:3].tolist())
    return out.logits, out.encoder_last_hidden_state, np.concatenate([each.logprobs for each in told])


@pytest.mark.parametrize("stored", BOUNDS)
@pytest.mark.parametrize("verify", [True, False])
def test_weights_of_few_bits_are_multiplied_exactly_in_float32(files, stored, verify):
    exact = switchnp.load(files[stored], engine="kernels")

    model = switchnp.load(files[stored], dtype="float32", verify=verify)

    for ours, theirs in zip(_everything(model), _everything(exact), strict=True):
        assert_near(ours, theirs)


def test_without_a_dtype_bfloat16_is_multiplied_in_float32_and_int8_in_int8(files):
    for stored, dtype in {"float32": "float32", "bfloat16": "float32", "int8": "int8"}.items():
        by_itself, asked = switchnp.load(files[stored]), switchnp.load(files[stored], dtype=dtype)

        np.testing.assert_array_equal(by_itself(*GIVEN).logits, asked(*GIVEN).logits, err_msg=stored)
    assert_near(
        switchnp.load(files["bfloat16"])(*GIVEN).logits, switchnp.load(files["bfloat16"], engine="kernels")(*GIVEN).logits
    )


def test_a_mapped_file_gives_the_bits_of_arrays_in_memory(files):
    mapped, read = switchnp.load(NUMBERS, verify=False), switchnp.load(NUMBERS, engine="kernels")
    in_memory = SwitchTransformer(read.config, read.params, read.routing, read.tokenizer, engine="fast")

    for ours, theirs in zip(_everything(mapped), _everything(in_memory), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("stored", ["float32", *BOUNDS])
def test_params_are_what_the_file_means_in_float32(files, stored):
    ours, theirs = switchnp.load(files[stored]).params, switchnp.load(files[stored], engine="kernels").params

    for (path, leaf), (same, other) in zip(ours.leaves(), theirs.leaves(), strict=True):
        assert path == same
        assert leaf.dtype == np.float32
        np.testing.assert_array_equal(leaf, other)


def test_what_is_no_dtype_of_the_engine_is_refused():
    with pytest.raises(InputError, match="dtype is 'float64', expected engine='kernels' or engine='equations'"):
        switchnp.load(NUMBERS, engine="fast", dtype="float64")
    with pytest.raises(InputError, match="dtype is 'float16', expected one of 'float32', 'bfloat16', 'int8'"):
        switchnp.load(NUMBERS, dtype="float16")
    for threads in (0, 1025, 1.5, True, "2"):
        with pytest.raises(InputError, match="threads is"):
            switchnp.load(NUMBERS, threads=threads)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_not_made_int8(value):
    config = config_of(np.random.default_rng(0))
    leaves = dict(params_of(config, np.random.default_rng(0)).leaves())
    path = next(path for path in leaves if path.endswith("wq_dhk"))
    leaves[path] = leaves[path].copy()
    leaves[path][0, 0, 0] = value

    with pytest.raises(InputError, match=f"^{path} has values that are no finite numbers, expected only such for int8$"):
        SwitchTransformer(config, Tree.of(leaves), OPEN, dtype="int8")
