"""Optimizers: values of PyTorch and T5X, what the formulas promise, experts without tokens, and going on after a stop."""

import resource
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from references import TESTS, shared

from switchnp import Tree
from switchnp.errors import ConfigError, InputError
from switchnp.optimizers import Adafactor, AdamW, clip

SHAPES = {
    "embedding_vd": (9, 4),
    "encoder/bias_rh": (8, 2),
    "encoder/norm_d": (4,),
    "encoder/blocks/0/switch/br_e": (3,),
    "encoder/blocks/0/switch/wi_edf": (3, 4, 5),
    "encoder/blocks/0/switch/wo_efd": (3, 5, 4),
    "encoder/blocks/0/attention/wq_dhk": (4, 2, 3),
}
EXPERTS = [path for path in SHAPES if path.endswith(("_edf", "_efd"))]
UNDECAYED = ["encoder/bias_rh", "encoder/norm_d", "encoder/blocks/0/switch/br_e"]
T5X = {
    "dense/kernel": "dense/wi_df",
    "moe/expert/wi/kernel": "switch/wi_edf",
    "moe/router/kernel": "switch/wr_de",
    "norm/scale": "norm_d",
    "small/kernel": "small/wi_df",
    "token_embedder/embedding": "embedding_vd",
}
KINDS = {
    "AdamW": lambda params: AdamW(params, weight_decay=0.1),
    "AdamW with rest": lambda params: AdamW(params, weight_decay=0.1, rest=True),
    "Adafactor": Adafactor,
}
kinds = pytest.mark.parametrize("kind", KINDS)
seeds = st.integers(0, 2**32 - 1)
rates = st.sampled_from([1e-4, 1e-2, 0.3])


def drawn(seed, dtype=np.float64, shapes=SHAPES, scale=1.0):
    rng = np.random.default_rng(seed)
    return Tree.of({path: (scale * rng.normal(size=shape)).astype(dtype) for path, shape in shapes.items()})


def leaves(tree):
    return {path: array.copy() for path, array in tree.leaves()}


def without_tokens(grads, expert):
    """The same gradients where one expert had no tokens."""
    for path in EXPERTS:
        grads[path][expert] = 0
    return grads


# -- the values of others ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-13), (np.float32, 2e-6)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adamw_moves_as_pytorch_does(weight_decay, dtype, tolerance):
    """torch 2.13.0, optim.AdamW(lr=0.01, betas=(0.9, 0.98), eps=1e-8), float64, the norm in a group without decay.

    The gradients of wi_edf are about as small as eps.
    """
    golden = dict(np.load(TESTS / "parity/pytorch/adamw.npz"))
    names = ["embedding_vd", "norm_d", "wi_edf"]
    params = Tree.of({name: golden[f"param0/{name}"].astype(dtype) for name in names})
    optimizer = AdamW(params, beta2=0.98, weight_decay=weight_decay)

    for step in range(4):
        optimizer.update(Tree.of({name: golden[f"grad{step}/{name}"] for name in names}), 0.01)

        for name in names:
            np.testing.assert_allclose(params[name], golden[f"{weight_decay}/param{step + 1}/{name}"], tolerance, tolerance)
    for name in names:
        np.testing.assert_allclose(optimizer.state()[f"m/{name}"], golden[f"m/{name}"], tolerance * 10, 0)
        np.testing.assert_allclose(optimizer.state()[f"v/{name}"], golden[f"v/{name}"], tolerance * 10, 0)


@pytest.mark.parametrize("theirs", T5X)
def test_adafactor_moves_as_t5x_does(theirs):
    """Three steps of T5X (d8342fd): weights, and v whole or as its rows and columns."""
    here = TESTS / "parity/flaxformer/adafactor.npz"
    golden = dict(np.load(shared("fixtures/flaxformer/adafactor.npz") if theirs == "dense/kernel" else here))
    ours, rate = T5X[theirs], float(golden["learning_rate"])
    params = Tree.of({ours: golden[f"param0/{theirs}"].copy()})
    optimizer = Adafactor(params)

    for step in range(3):
        optimizer.update(Tree.of({ours: golden[f"grad{step}/{theirs}"]}), rate)

        np.testing.assert_allclose(params[ours], golden[f"param{step + 1}/{theirs}"], rtol=0, atol=1e-6)
        kept = {path.split("/")[0]: array for path, array in optimizer.state().items() if path != "step"}
        assert set(kept) == ({"v_row", "v_col"} if "dense" in theirs or "expert" in theirs else {"v"})
        for name, array in kept.items():
            np.testing.assert_allclose(array, golden[f"state{step + 1}/{theirs}/{name}"], rtol=1e-5, atol=0)


# -- what the formulas promise ----------------------------------------------------------------------------------------------


@given(seeds, rates, st.integers(1, 6))
def test_adamw_with_a_constant_gradient_moves_each_weight_by_the_rate(seed, rate, steps):
    params, grads = drawn(seed), drawn(seed + 1)
    before, optimizer = leaves(params), AdamW(params, eps=1e-12)

    for _ in range(steps):
        optimizer.update(grads, rate)

    for path, grad in grads.leaves():
        np.testing.assert_allclose(params[path], before[path] - steps * rate * np.sign(grad), rtol=1e-6, atol=1e-6 * rate)


@given(seeds, rates)
def test_only_matrices_and_experts_decay(seed, rate):
    params, grads = drawn(seed), drawn(seed, scale=0.0)
    before, optimizer = leaves(params), AdamW(params, weight_decay=0.1)

    optimizer.update(grads, rate)

    for path in SHAPES:
        np.testing.assert_allclose(params[path], before[path] * (1 if path in UNDECAYED else 1 - 0.1 * rate), rtol=1e-14)


@given(seeds, rates, st.sampled_from([1e-6, 1.0, 1e6]))
def test_adafactor_does_not_see_the_scale_of_gradients(seed, rate, scale):
    one, other = drawn(seed), drawn(seed)
    first, second = Adafactor(one), Adafactor(other)

    for step in range(3):
        first.update(drawn(seed + step), rate)
        second.update(drawn(seed + step, scale=scale), rate)

    for path, param in one.leaves():
        np.testing.assert_allclose(param, other[path], rtol=1e-9, atol=1e-9)


@given(seeds, st.sampled_from([0.0, 1e-6, 1e-3, 1.0, 50.0]))
def test_a_step_of_adafactor_is_the_rate_times_the_weights_size_at_most(seed, size):
    """And the size counts as 1e-3 at least, so that zeros can move."""
    params = drawn(seed, scale=size)
    before, optimizer = leaves(params), Adafactor(params)

    optimizer.update(drawn(seed + 1), 0.01)

    for path, param in params.leaves():
        matrices = param.reshape(3, -1) if path in EXPERTS else param.reshape(1, -1)
        weights = before[path].reshape(matrices.shape)
        moved = np.sqrt(np.mean((matrices - weights) ** 2, axis=1))
        bound = 0.01 * np.maximum(np.sqrt(np.mean(weights**2, axis=1)), 1e-3)
        assert (moved <= bound * (1 + 1e-6)).all()
        assert (moved >= bound / 10).all()


@pytest.mark.parametrize(
    ("path", "shape", "kept"),
    [
        ("wq_dhk", (128, 16, 8), {"v_row": (128,), "v_col": (128,)}),
        ("wo_hkd", (16, 8, 130), {"v_row": (128,), "v_col": (130,)}),
        ("wq_dhk", (128, 16, 7), {"v": (128, 16, 7)}),
        ("embedding_vd", (300, 127), {"v": (300, 127)}),
        ("wi_df", (128, 128), {"v_row": (128,), "v_col": (128,)}),
        ("wi_edf", (2, 3, 4), {"v_row": (2, 3), "v_col": (2, 4)}),
        ("wo_efd", (2, 4, 3), {"v_row": (2, 4), "v_col": (2, 3)}),
        ("norm_d", (200,), {"v": (200,)}),
    ],
)
def test_adafactor_factors_experts_and_large_matrices(path, shape, kept):
    state = Adafactor(Tree.of({path: np.ones(shape)})).state()

    assert {name.split("/")[0]: array.shape for name, array in state.items() if name != "step"} == kept


@pytest.mark.parametrize(
    ("path", "shape", "matrix"), [("wq_dhk", (128, 16, 9), (128, 144)), ("wo_hkd", (16, 9, 128), (144, 128))]
)
def test_adafactor_moves_an_attention_as_its_matrix(path, shape, matrix):
    heads, plain, grad = drawn(1, shapes={path: shape}), drawn(1, shapes={"wi_df": matrix}), drawn(2, shapes={path: shape})

    Adafactor(heads).update(grad, 0.01)
    Adafactor(plain).update(Tree.of({"wi_df": grad[path].reshape(matrix)}), 0.01)

    assert np.array_equal(heads[path].reshape(matrix), plain.wi_df)


@kinds
@pytest.mark.parametrize("shape", [(1000, 130), (2, 50_000)])
def test_many_blocks_move_as_one(kind, shape, monkeypatch):
    shapes = {"embedding_vd": shape}

    monkeypatch.setattr("switchnp.optimizers.BLOCK", 1 << 18)
    whole = moved(kind, shapes)
    monkeypatch.setattr("switchnp.optimizers.BLOCK", 999)
    pieces = moved(kind, shapes)

    np.testing.assert_allclose(pieces.embedding_vd, whole.embedding_vd, rtol=1e-12, atol=1e-12)


def moved(kind, shapes, dtype=np.float64):
    """Weights after three steps."""
    params = drawn(1, dtype, shapes)
    optimizer = KINDS[kind](params)
    for step in range(3):
        optimizer.update(drawn(2 + step, dtype, shapes), 0.01)
    return params


@kinds
def test_gradients_may_lie_in_any_order_and_are_left_as_they_were(kind):
    straight, turned, grads = drawn(1), drawn(1), drawn(2)
    fortran = grads.map(np.asfortranarray)

    KINDS[kind](straight).update(grads, 0.01)
    KINDS[kind](turned).update(fortran, 0.01)

    for path, grad in drawn(2).leaves():
        assert np.array_equal(straight[path], turned[path])
        assert np.array_equal(grads[path], grad)
        assert np.array_equal(fortran[path], grad)


@kinds
def test_float32_weights_move_as_float64_ones_do(kind):
    wide, narrow = moved(kind, SHAPES), moved(kind, SHAPES, np.float32)

    for path, param in narrow.leaves():
        assert param.dtype == np.float32
        np.testing.assert_allclose(param, wide[path], rtol=1e-5, atol=1e-6)


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
def test_moments_take_no_memory_before_the_first_step():
    params = Tree.of({"embedding_vd": np.ones((1 << 12, 1 << 12), np.float32)})
    before = resident()

    optimizer = AdamW(params)

    assert resident() - before < optimizer.nbytes / 10


@kinds
def test_a_rate_that_numpy_computed_moves_to_the_same_bits(kind):
    one, other = drawn(1, np.float32), drawn(1, np.float32)

    KINDS[kind](one).update(drawn(2, np.float32), 0.01)
    KINDS[kind](other).update(drawn(2, np.float32), np.float64(0.01))

    assert all(np.array_equal(param, other[path]) for path, param in one.leaves())


@kinds
def test_gradients_in_fewer_bits_are_widened_before_they_are_squared(kind):
    one, other, grads = drawn(1, np.float32), drawn(1, np.float32), drawn(2, np.float16, scale=1e-4)

    KINDS[kind](one).update(grads, 0.01)
    KINDS[kind](other).update(grads.map(lambda grad: grad.astype(np.float32)), 0.01)

    assert all(np.array_equal(param, other[path]) for path, param in one.leaves())


@given(seeds, st.integers(1, 3))
def test_adafactor_moves_nothing_without_a_gradient(seed, steps):
    params = drawn(seed)
    before, optimizer = leaves(params), Adafactor(params)

    for _ in range(steps):
        optimizer.update(drawn(1, scale=0.0), 0.01)

    assert all(np.array_equal(param, before[path]) for path, param in params.leaves())


# -- experts without tokens -------------------------------------------------------------------------------------------------


@given(seeds, st.integers(0, 2), st.integers(0, 3))
def test_a_resting_expert_is_as_if_the_steps_had_not_been(seed, expert, idle):
    """Paper.md 2l: an expert without tokens has a gradient of exactly 0. It rests, to the bit, also in the t of its moments."""
    one, other = drawn(seed), drawn(seed)
    busy, idling = AdamW(one, weight_decay=0.1, rest=True), AdamW(other, weight_decay=0.1, rest=True)

    busy.update(drawn(seed + 1), 0.01)
    busy.update(drawn(seed + 2), 0.01)
    idling.update(drawn(seed + 1), 0.01)
    for step in range(idle):
        idling.update(without_tokens(drawn(seed + 3 + step), expert), 0.01)
    idling.update(drawn(seed + 2), 0.01)

    for path in EXPERTS:
        assert np.array_equal(one[path][expert], other[path][expert])
        for name in ("m", "v", "steps"):
            assert np.array_equal(busy.state()[f"{name}/{path}"][expert], idling.state()[f"{name}/{path}"][expert])
        assert idle == 0 or not np.array_equal(one[path][expert - 1], other[path][expert - 1])


@given(seeds, st.integers(0, 2))
def test_without_rest_momentum_and_decay_still_move_an_expert_without_tokens(seed, expert):
    params = drawn(seed)
    optimizer = AdamW(params)
    optimizer.update(drawn(seed + 1), 0.01)
    before, state = leaves(params), optimizer.state()

    optimizer.update(without_tokens(drawn(seed + 2), expert), 0.01)

    for path in EXPERTS:
        assert (params[path][expert] != before[path][expert]).all()
        np.testing.assert_allclose(optimizer.state()[f"m/{path}"][expert], 0.9 * state[f"m/{path}"][expert], rtol=1e-12)
        np.testing.assert_allclose(optimizer.state()[f"v/{path}"][expert], 0.999 * state[f"v/{path}"][expert], rtol=1e-12)


@given(seeds)
def test_rest_changes_nothing_for_experts_that_work_nor_for_other_arrays(seed):
    one, other = drawn(seed), drawn(seed)
    plain, resting = AdamW(one, weight_decay=0.1), AdamW(other, weight_decay=0.1, rest=True)

    for step in range(2):
        grads = drawn(seed + 1 + step)
        grads["encoder/norm_d"][:] = 0
        plain.update(grads, 0.01)
        resting.update(grads, 0.01)

    for path, param in one.leaves():
        assert np.array_equal(param, other[path])


@given(seeds, st.integers(0, 2))
def test_adafactor_does_not_move_an_expert_without_tokens_and_its_v_decays(seed, expert):
    params = drawn(seed)
    optimizer = Adafactor(params)
    optimizer.update(drawn(seed + 1), 0.01)
    before, state = leaves(params), optimizer.state()

    optimizer.update(without_tokens(drawn(seed + 2), expert), 0.01)

    for path in EXPERTS:
        assert np.array_equal(params[path][expert], before[path][expert])
        for name in ("v_row", "v_col"):
            decayed = (1 - 2**-0.8) * state[f"{name}/{path}"][expert]
            np.testing.assert_allclose(optimizer.state()[f"{name}/{path}"][expert], decayed, rtol=1e-12)


@kinds
def test_an_expert_that_never_had_a_token_stays_finite_in_float32(kind):
    params, grads = drawn(1, np.float32), without_tokens(drawn(2, np.float32), 1)
    optimizer = KINDS[kind](params)

    for _ in range(3):
        optimizer.update(grads, 0.01)
    optimizer.update(drawn(3, np.float32), 0.01)

    assert all(np.isfinite(param).all() for _, param in params.leaves())


# -- going on after a stop, and what is refused -----------------------------------------------------------------------------


@kinds
@given(seeds, st.integers(0, 3), st.sampled_from([np.float32, np.float64]))
def test_going_on_from_a_state_gives_the_bits_of_no_stop(kind, seed, stop, dtype):
    params = drawn(seed, dtype)
    optimizer, state = KINDS[kind](params), None
    for step in range(5):
        if step == stop:
            state, saved = optimizer.state(), Tree.of(leaves(params))
        optimizer.update(without_tokens(drawn(seed + 1 + step, dtype), step % 3), 0.01)

    resumed = KINDS[kind](saved)
    resumed.restore(state)
    for step in range(stop, 5):
        resumed.update(without_tokens(drawn(seed + 1 + step, dtype), step % 3), 0.01)

    for path, param in params.leaves():
        assert np.array_equal(param, saved[path])
    for path, array in optimizer.state().items():
        assert np.array_equal(array, resumed.state()[path])


@kinds
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {path: array for path, array in state.items() if path != "step"}, "step is missing in the state"),
        (lambda state: state | {"m/poem": np.ones(3)}, "m/poem is too much in the state"),
        (lambda state: state | {"v/encoder/norm_d": np.ones(3)}, r"v/encoder/norm_d in the state is \(3,\), expected \(4,\)"),
        (lambda state: state | {"v/encoder/norm_d": np.ones(4, np.float32)}, "v/encoder/norm_d in the state is float32"),
    ],
)
def test_a_state_of_another_model_is_refused_and_nothing_is_changed(kind, change, message):
    optimizer, other = KINDS[kind](drawn(1)), KINDS[kind](drawn(1))
    other.update(drawn(2), 0.01)

    with pytest.raises(InputError, match=message):
        optimizer.restore(change(other.state()))

    assert not any(array.any() for array in optimizer.state().values())


@kinds
@pytest.mark.parametrize(
    ("grads", "rate", "message"),
    [
        (Tree.of({"norm_d": np.ones(4)}), 0.01, "wi_df is missing in the gradient"),
        (Tree.of({"norm_d": np.ones(3), "wi_df": np.ones((2, 2))}), 0.01, r"norm_d in the gradient is \(3,\), expected \(4,\)"),
        (Tree.of({"norm_d": np.ones(4), "wi_df": np.ones((2, 2))}), np.nan, "the learning rate is nan"),
        (Tree.of({"norm_d": np.ones(4), "wi_df": np.ones((2, 2))}), -1.0, "the learning rate is -1.0"),
    ],
)
def test_a_step_that_cannot_be_taken_moves_nothing(kind, grads, rate, message):
    params = drawn(1, shapes={"norm_d": (4,), "wi_df": (2, 2)})
    before, optimizer = leaves(params), KINDS[kind](params)

    with pytest.raises(InputError, match=message):
        optimizer.update(grads, rate)

    assert optimizer.state()["step"] == 0
    assert all(np.array_equal(param, before[path]) for path, param in params.leaves())


@kinds
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda array: array.astype(np.float16), "wi_df is float16, expected float32 or float64"),
        (np.asfortranarray, "wi_df cannot be moved in place"),
        (lambda array: np.broadcast_to(array, array.shape), "wi_df cannot be moved in place"),
    ],
)
def test_weights_that_cannot_be_moved_in_place_are_refused(kind, spoil, message):
    params = Tree.of({"wi_df": spoil(np.ones((2, 3)))})

    with pytest.raises(InputError, match=message):
        KINDS[kind](params)


@pytest.mark.parametrize("wrong", [{"beta1": 1.0}, {"beta2": -0.1}, {"eps": 0}, {"weight_decay": -1.0}, {"beta1": "much"}])
def test_adamw_refuses_numbers_that_make_no_sense(wrong):
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} is .*, expected a number"):
        AdamW(drawn(1), **wrong)


@pytest.mark.parametrize("wrong", [{"decay": 0.0}, {"eps1": 0}, {"eps2": -1.0}, {"clip": np.inf}])
def test_adafactor_refuses_numbers_that_make_no_sense(wrong):
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} is .*, expected a number above 0"):
        Adafactor(drawn(1), **wrong)


# -- clipping ---------------------------------------------------------------------------------------------------------------


@given(seeds, st.sampled_from([np.float32, np.float64]), st.floats(0.01, 0.999))
def test_clipping_brings_large_gradients_to_the_norm_and_keeps_their_direction(seed, dtype, share):
    grads, original = drawn(seed, dtype), drawn(seed, dtype)
    norm = np.sqrt(sum(np.sum(np.square(grad, dtype=np.float64)) for _, grad in original.leaves()))

    before = clip(grads, share * norm)

    assert before == pytest.approx(norm, rel=1e-12)
    for path, grad in original.leaves():
        np.testing.assert_allclose(grads[path], share * grad, rtol=1e-6 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_gradients_in_fewer_bits_are_clipped_as_wide_ones_are(dtype):
    grads = Tree.of({"wi_df": np.full((4, 4), 2.0).astype(dtype)})

    assert clip(grads, 1.0) == 8
    assert grads.wi_df.dtype == dtype
    assert (grads.wi_df == 0.25).all()


@given(seeds, st.floats(1.0, 1e6))
def test_clipping_leaves_small_gradients_alone_to_the_bit(seed, times):
    grads, original = drawn(seed, np.float32), drawn(seed, np.float32)
    norm = clip(original, np.inf)

    clip(grads, norm * times)

    assert all(np.array_equal(grad, original[path]) for path, grad in grads.leaves())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_norm_that_is_not_finite_is_returned_and_nothing_is_scaled(bad):
    grads = drawn(1)
    grads.embedding_vd[0, 0] = bad
    before = leaves(grads)

    norm = clip(grads, 1.0)

    assert not np.isfinite(norm)
    assert all(np.array_equal(grad, before[path], equal_nan=True) for path, grad in grads.leaves())


def test_the_norm_of_gradients_beyond_the_root_of_float32_is_finite():
    grads = Tree.of({"wi_df": np.full((3, 3), 1e30, np.float32).T})

    assert clip(grads, 1.0) == pytest.approx(3e30)
    np.testing.assert_allclose(grads.wi_df, 1 / 3, rtol=1e-6)


@pytest.mark.parametrize("norm", [0, -1.0, np.nan])
def test_a_norm_to_clip_to_is_above_0(norm):
    with pytest.raises(InputError, match="expected one above 0"):
        clip(drawn(1), norm)
