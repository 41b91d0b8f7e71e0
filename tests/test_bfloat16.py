"""The simulator of bfloat16: what it rounds, what it leaves, and what that does to a router (Switch §2.4, table 2)."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from draw import arguments, seeds, sizes
from hypothesis import given
from references import ROOT
from small import small_model

import switchnp
from switchnp import Routing, SwitchTransformer, equations
from switchnp.bfloat16 import Bfloat16, Selective, rounded, simulated
from switchnp.errors import InputError

IDS, SAID = [[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 15, 16]], [[0, 2, 3], [0, 4, 5]]
ROUNDED = [
    *("rms_norm", "split_heads", "attention_weights", "attend", "merge_heads", "ffn", "gated_ffn", "expert_ffn", "mixture"),
    *("combine", "dispatch", "embed", "unembed", "softmax", "router_logits", "load_balance", "router_z", "gelu", "silu"),
]


def is_bfloat16(values):
    """Are they numbers that bfloat16 has?"""
    plain = np.asarray(values, np.float32)
    return np.array_equal(plain, plain.astype(ml_dtypes.bfloat16).astype(np.float32))


def drawn(name, size, seed, kind):
    """Arguments of an equation with its floats as simulated ones."""
    given = arguments(getattr(equations, name), size, seed, np.float32)
    router = ("wr_de", "br_e") if kind is Selective else ()
    floats = {key for key, it in given.items() if getattr(it, "dtype", None) == np.float32 and key not in router}
    return {key: rounded(value).view(kind) if key in floats else value for key, value in given.items()}


def test_rounding_is_to_nearest_and_ties_go_to_even():
    step = 2.0**-7  # between neighbours of 1 and more

    near = rounded(np.float32([1, 1 + 0.4 * step, 1 + 0.5 * step, 1 + 1.5 * step, 1 + 0.6 * step, -1 - 0.5 * step]))

    np.testing.assert_array_equal(near, [1, 1, 1, 1 + 2 * step, 1 + step, -1])
    assert rounded(np.finfo(np.float32).min) == -float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)
    assert np.isinf(rounded(np.float32(np.inf)))
    assert rounded(np.arange(3)).dtype == np.int64


@pytest.mark.parametrize("kind", [Bfloat16, Selective])
@pytest.mark.parametrize("name", ROUNDED)
@given(size=sizes, seed=seeds)
def test_an_equation_on_rounded_arrays_answers_rounded_numbers(name, kind, size, seed):
    given = drawn(name, size, seed, kind)

    answer = getattr(equations, name)(**given)

    escapes = kind is Selective and name == "router_logits"
    assert isinstance(answer, kind) != escapes
    assert is_bfloat16(answer) or escapes


@given(size=sizes, seed=seeds)
def test_every_operation_rounds_and_not_the_last_alone(size, seed):
    rng = np.random.default_rng(seed)
    a, b, c = (rounded(rng.normal(size=size).astype(np.float32)) for _ in range(3))

    by_steps = (a.view(Bfloat16) * b + c) / b

    np.testing.assert_array_equal(np.asarray(by_steps), rounded(rounded(rounded(a * b) + c) / b))


def test_in_place_and_reduced_results_are_rounded_too():
    x_t = rounded(np.float32([1.0, 1.0 + 2**-7])).view(Bfloat16)

    total, x_t = x_t.sum(), x_t * 1
    x_t += np.float32(2.0**-9)

    assert is_bfloat16(total)
    assert is_bfloat16(x_t)
    assert isinstance(x_t, Bfloat16)


def test_what_meets_a_rounded_array_is_rounded_first():
    gate = np.float32([1 + 2.0**-8 + 2.0**-9])  # rounds up to 1 + 2^-7; times 1.5, only then is it above a tie

    product = rounded(np.float32([1.5])).view(Selective) * gate
    matmul = np.einsum("t,t->", rounded(np.float32([1.5])).view(Bfloat16), gate)

    assert np.asarray(product) == np.asarray(matmul) == rounded(np.float32(1.5 * (1 + 2.0**-7)))
    assert rounded(np.float32(1.5) * gate) != np.asarray(product)


@pytest.mark.parametrize("precision", ["bfloat16", "selective"])
def test_a_pass_is_near_the_exact_one_and_not_the_same(precision):
    exact = small_model(Routing(capacity="unlimited"), "equations")
    model = small_model(Routing(capacity="unlimited", precision=precision), "equations")

    difference = np.abs(model(IDS, decoder_input_ids=SAID).logits - exact(IDS, decoder_input_ids=SAID).logits)

    assert 1e-4 < np.median(difference) < 0.05
    assert type(model(IDS, decoder_input_ids=SAID).logits) is np.ndarray


def test_selective_precision_is_bfloat16_everywhere_but_in_the_router():
    selective, all_rounded = (
        small_model(Routing(precision=precision), "equations").trace(IDS, decoder_input_ids=SAID).encoder.blocks[1]
        for precision in ("selective", "bfloat16")
    )

    for block, router_is_rounded in ((selective, False), (all_rounded, True)):
        a = block.switch
        assert all(is_bfloat16(it) for it in (a.n_td, a.y_td, a.x_td, block.attention.o_thk))
        assert is_bfloat16(a.h_te) == is_bfloat16(a.p_te) == is_bfloat16(a.gate_t) == router_is_rounded


def test_the_routers_weights_stay_in_float32_in_selective_precision():
    params = small_model(router_bias=True).params

    narrow, all_rounded = simulated(params, "selective"), simulated(params, "bfloat16")

    for path, leaf in params.leaves():
        router = path.endswith(("wr_de", "br_e"))
        assert np.array_equal(np.asarray(narrow[path]), leaf) == (router or is_bfloat16(leaf)), path
        np.testing.assert_array_equal(np.asarray(all_rounded[path]), rounded(leaf))


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0, 20.0])
def test_a_router_in_bfloat16_flips_ties_and_misgates_and_selective_precision_does_not(scale):
    """Switch, §2.4: 4000 tokens of 256 numbers and 32 experts; about 1 in 100 is a tie whatever the scale, gates are worse off
    the larger the logits."""
    rng = np.random.default_rng(0)
    x_td = rounded(rng.normal(size=(4000, 256)).astype(np.float32))
    wr_de = (scale / 16 * rng.normal(size=(256, 32))).astype(np.float32)
    exact_te = equations.router_probs(x_td, wr_de)

    narrow_te = np.asarray(equations.router_probs(x_td.view(Bfloat16), rounded(wr_de)))
    selective_te = equations.router_probs(x_td.view(Selective), wr_de)

    best_tn = np.sort(narrow_te, axis=1)[:, -2:]
    ties, flips = np.mean(best_tn[:, 0] == best_tn[:, 1]), np.mean(narrow_te.argmax(axis=1) != exact_te.argmax(axis=1))
    error = np.abs(narrow_te.max(axis=1) - exact_te.max(axis=1)).max()
    assert 0.002 < flips < 0.05
    assert ties > 0.002
    assert error > {0.1: 1e-4, 1.0: 5e-4, 5.0: 5e-3, 20.0: 2e-2}[scale]
    np.testing.assert_array_equal(selective_te, exact_te)


def test_a_flip_happens_only_where_two_experts_were_closer_than_rounding():
    rng = np.random.default_rng(1)
    x_td = rounded(rng.normal(size=(4000, 64)).astype(np.float32))
    wr_de = rounded((rng.normal(size=(64, 8)) / 8).astype(np.float32))
    h_te = equations.router_logits(x_td, wr_de)

    narrow_te = np.asarray(equations.router_logits(x_td.view(Bfloat16), wr_de))

    flipped = narrow_te.argmax(axis=1) != h_te.argmax(axis=1)
    best_tn = np.sort(h_te, axis=1)[:, -2:]
    assert flipped.any()
    assert (best_tn[flipped, 1] - best_tn[flipped, 0] <= 2.0**-7 * np.abs(best_tn[flipped]).max(axis=1)).all()


def test_simulated_precision_needs_the_equations_and_float32():
    with pytest.raises(InputError, match="precision is 'selective', expected engine='equations' and float32 weights"):
        small_model(Routing(precision="selective"), "kernels")
    with pytest.raises(InputError, match="expected engine='equations'"):
        small_model(Routing(precision="bfloat16"), "equations", dtype=np.float64)
    model = small_model(Routing(), "kernels")
    model.routing = replace(model.routing, precision="bfloat16")
    with pytest.raises(InputError, match="expected engine='equations'"):
        model(IDS, decoder_input_ids=SAID)


def test_a_model_generates_and_costs_in_simulated_precision():
    model = small_model(Routing(precision="bfloat16"), "equations")
    exact = SwitchTransformer(model.config, model.params, Routing(), engine="equations")

    ids = model.generate(IDS, max_new_tokens=4)
    out = model(IDS, labels=SAID)

    assert ids.shape[0] == 2
    assert out.loss == pytest.approx(exact(IDS, labels=SAID).loss, rel=0.02)
    assert is_bfloat16(out.logits)


def test_a_model_of_two_tables_is_simulated_too():
    model = small_model(Routing(precision="selective"), "equations", tie_word_embeddings=False, separate_embeddings=True)

    assert np.isfinite(model(IDS, decoder_input_ids=SAID).logits).all()


def test_weights_that_are_changed_are_rounded_anew():
    model = small_model(Routing(precision="bfloat16"), "equations")
    before = model(IDS, decoder_input_ids=SAID).logits
    model.params.embedding_vd[:] *= 2

    assert np.abs(model(IDS, decoder_input_ids=SAID).logits - before).max() > 0.1


def test_in_selective_precision_the_jitter_is_drawn_in_float32():
    """Switch, §2.4: the router's input is cast first, so that 1 % of noise is not lost to 0.8 % steps."""
    x_td = rounded(np.ones((1, 500), np.float32)).view(Selective)

    heard_td = equations.input_jitter(x_td, 0.01, np.random.default_rng(0))
    dropped_td = equations.input_dropout(x_td, 0.1, np.random.default_rng(0))

    assert len(np.unique(heard_td)) > 450
    assert not is_bfloat16(heard_td)
    assert type(dropped_td) is np.ndarray
    np.testing.assert_array_equal(np.unique(dropped_td), np.float32([0, 1 / np.float32(0.9)]))


def test_a_norms_squares_are_in_float32_and_its_answer_is_not():
    x_td = np.random.default_rng(0).normal(size=(1, 400)).astype(np.float32)
    x_td, norm_d = rounded(x_td).view(Bfloat16), np.ones(400, np.float32)

    square = np.square(x_td, dtype=np.float32)

    assert not is_bfloat16(square)
    assert is_bfloat16(equations.rms_norm(x_td, norm_d, 1e-6))


def test_load_takes_a_precision_instead_of_the_files():
    model = switchnp.load(ROOT / "weights/switch-numbers.h5", engine="equations", precision="selective")

    assert model.routing.precision == "selective"
    assert model.generate("say in German: 84") == "vierundachtzig"
