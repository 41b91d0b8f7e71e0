"""An int8 file holds the weights as nearly as int8 can, is read as what it stands for, and is refused where it is not sound."""

import os
import random
import re

import h5py
import hostile
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from references import ROOT
from test_weights import BIG, CONFIG, PARAMS, ROUTING, TINY, one_line, params_of, peak_bytes, same

import switchnp
from switchnp import pieces, quantization, weights
from switchnp.config import Config
from switchnp.errors import WeightsError
from switchnp.params import blueprint, layout
from switchnp.quantization import LARGEST, SCALES, SMALLEST, quantized, scale_path, widened

ODD = Config(
    **TINY | {"is_gated_act": True, "dense_act_fn": "gelu_new", "router_bias": True},
    tie_word_embeddings=False,
    separate_embeddings=True,
)
HUGE = float(np.finfo(np.float32).max)
NUMBERS = st.floats(-HUGE, HUGE, width=32)


def axes(name):
    return name.rpartition("_")[2]


@st.composite
def matrices(draw):
    """The name of an array that may be int8, and an array with these axes."""
    name = draw(st.sampled_from(sorted(SCALES)))
    shape = tuple(draw(st.integers(1, 4)) for _ in axes(name))
    return name, draw(arrays(np.float32, shape, elements=NUMBERS))


@pytest.fixture
def file(tmp_path):
    """A sound int8 file of PARAMS."""
    path = tmp_path / "mine.h5"
    weights.save(path, PARAMS, CONFIG, ROUTING, dtype="int8", tokenizer=b"pieces", provenance={"source": "a test"})
    return path


# Numbers


@pytest.mark.parametrize("name", SCALES)
def test_a_scale_is_named_after_its_array_and_what_a_product_leaves(name):
    added_up = {"dhk": "d", "hkd": "hk", "df": "d", "fd": "f", "edf": "d", "efd": "f", "vd": "d"}[axes(name)]

    left = axes(name).translate(str.maketrans("", "", added_up))

    assert SCALES[name] == f"{name.rpartition('_')[0]}_scale_{left}"
    assert scale_path(f"encoder/blocks/3/x/{name}") == f"encoder/blocks/3/x/{SCALES[name]}"


@given(matrices(), st.sampled_from([np.float64, ml_dtypes.bfloat16]))
def test_other_floats_are_quantized_as_float32(matrix, kind):
    name, w = matrix
    w = (w / 2).astype(kind)

    (whole, scale), (single, single_scale) = quantized(name, w), quantized(name, w.astype(np.float32))

    assert (scale.dtype, whole.tobytes(), scale.tobytes()) == (np.float32, single.tobytes(), single_scale.tobytes())


@given(matrices())
def test_every_number_is_off_by_half_a_step_at_most_and_the_largest_of_each_unit_by_none(matrix):
    name, w = matrix

    whole, scale = quantized(name, w)

    spread = np.einsum(f"{axes(SCALES[name])},{axes(name)}->{axes(name)}", scale.astype(float), np.ones_like(w, float))
    most = np.abs(w, dtype=float).max(tuple(i for i, letter in enumerate(axes(name)) if letter not in axes(SCALES[name])))
    assert (whole.dtype, scale.dtype, whole.shape) == (np.int8, np.float32, w.shape)
    assert np.abs(whole.astype(int)).max() <= 127
    assert np.all(np.abs(w - whole * spread) <= spread * (0.5 + 1e-4))
    np.testing.assert_allclose(scale, np.maximum(most / 127, SMALLEST), rtol=1e-6)
    assert np.all((scale >= SMALLEST) & (scale <= LARGEST))


@given(matrices())
def test_what_is_widened_is_whole_times_scale_and_finite(matrix):
    name, w = matrix
    whole, scale = quantized(name, w)

    single, double = widened(name, whole, scale), widened(name, whole, scale, np.float64)

    letters = axes(name)
    product = np.einsum(f"{letters},{axes(SCALES[name])}->{letters}", whole.astype(np.float32), scale)
    assert (single.dtype, double.dtype) == (np.float32, np.float64)
    assert single.tobytes() == product.tobytes()
    assert double.tobytes() == product.astype(float).tobytes()
    assert np.isfinite(single).all()


@given(matrices())
def test_what_was_quantized_is_quantized_to_the_same_whole_numbers(matrix):
    name, w = matrix
    whole, scale = quantized(name, w)

    again, _ = quantized(name, widened(name, whole, scale))

    assert np.array_equal(again, whole)


@given(matrices(), st.randoms())
def test_the_order_of_rows_changes_nothing(matrix, chance):
    name, w = matrix
    order = chance.sample(range(len(w)), len(w))
    whole, scale = quantized(name, w)

    mixed, mixed_scale = quantized(name, w[order])

    assert np.array_equal(mixed, whole[order])
    assert np.array_equal(mixed_scale, scale[order] if quantization.output_first(name) else scale)


def test_halves_go_to_the_even_number():
    whole, scale = quantized("wi_df", np.array([[127, 0.5, 1.5, 2.5, -0.5, -1.5, 63.5]], np.float32).T)

    assert whole[:, 0].tolist() == [127, 0, 2, 2, 0, -2, 64]
    assert scale.tolist() == [1.0]


def test_a_unit_of_zeros_is_zeros_again():
    w = np.array([[0, 3], [0, -4]], np.float32)

    whole, scale = quantized("wo_fd", w)

    assert whole.tolist() == [[0, 95], [0, -127]]
    assert scale[0] == SMALLEST
    assert widened("wo_fd", whole, scale)[:, 0].tolist() == [0, 0]


@pytest.mark.parametrize("name", SCALES)
def test_small_blocks_make_the_same(monkeypatch, name):
    w = np.random.default_rng(0).normal(size=(5, 6, 7)[: len(axes(name))]).astype(np.float32)
    whole, scale = quantized(name, w)

    monkeypatch.setattr(quantization, "BLOCK", 13)
    again, scale_again = quantized(name, w)

    assert np.array_equal(again, whole)
    assert np.array_equal(scale_again, scale)


@pytest.mark.parametrize("config", [CONFIG, ODD, Config(**TINY | {"tie_word_embeddings": False})])
def test_every_matrix_is_int8_and_nothing_else(config):
    stored = layout(config, "int8")

    assert [path for path in stored if path in blueprint(config)] == list(blueprint(config))
    small = re.compile(r".*(norm_d|bias_rh|wr_de|br_e|_scale_[a-z]+)")
    assert {path for path, (_, dtype) in stored.items() if dtype == "float32"} == set(filter(small.fullmatch, stored))
    assert {path for path, (_, dtype) in stored.items() if dtype == "int8"} == {
        path for path in blueprint(config) if not small.fullmatch(path)
    }
    assert stored.keys() - blueprint(config).keys() == {scale_path(path) for path in blueprint(config)} - {None}
    assert all(stored[path][0] == tuple(config.axes[letter] for letter in axes(path)) for path in stored)


# Files


@pytest.mark.parametrize("config", [CONFIG, ODD])
def test_what_was_saved_as_int8_is_read_widened(tmp_path, config):
    params = params_of(config)

    weights.save(tmp_path / "m.h5", params, config, ROUTING, dtype="int8", tokenizer=b"\0\1", provenance={"größe": "groß"})
    (single, header), (double, _) = weights.read(tmp_path / "m.h5"), weights.read(tmp_path / "m.h5", "float64")

    assert header == weights.Header(config, ROUTING, {"größe": "groß"}, "int8", b"\0\1")
    assert [path for path, _ in single.leaves()] == [path for path, _ in params.leaves()]
    for path, w in params.leaves():
        expected = widened(path, *quantized(path, w)) if scale_path(path) else w
        assert single[path].tobytes() == expected.tobytes()
        assert single[path].flags.c_contiguous
        assert single[path].flags.writeable
        assert double[path].tobytes() == expected.astype(float).tobytes()


def test_h5py_reads_the_same_numbers(file):
    found, _ = weights.read(file)

    with h5py.File(file) as opened:
        wi_edf, wi_scale_ef = (opened[f"encoder/blocks/1/switch/{name}"][()] for name in ("wi_edf", "wi_scale_ef"))
    assert (wi_edf.dtype, wi_scale_ef.dtype) == (np.int8, np.float32)
    assert np.array_equal(wi_edf * wi_scale_ef[:, None, :], found.encoder.blocks[1].switch.wi_edf)


def test_the_same_model_is_the_same_int8_in_any_order_and_any_pieces(file, monkeypatch):
    def cut(leaf):
        yield leaf[:1]
        yield leaf[1:1]
        yield np.asfortranarray(leaf[1:])

    monkeypatch.setattr(pieces, "PIECE", 20)
    backwards = ((path, cut(leaf)) for path, leaf in reversed(list(PARAMS.leaves())))
    other, more = file.with_name("pieces.h5"), {"tokenizer": b"pieces", "provenance": {"source": "a test"}}

    weights.write(other, CONFIG, ROUTING, backwards, dtype="int8", **more)

    assert other.read_bytes() == file.read_bytes()


@pytest.mark.parametrize("kind", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_any_float_type_is_quantized_by_way_of_float32(tmp_path, kind):
    narrow = PARAMS.map(lambda leaf: leaf.astype(kind))

    weights.save(tmp_path / "narrow.h5", narrow, CONFIG, ROUTING, dtype="int8")
    weights.save(tmp_path / "wide.h5", narrow.map(lambda leaf: leaf.astype(np.float32)), CONFIG, ROUTING, dtype="int8")

    assert (tmp_path / "narrow.h5").read_bytes() == (tmp_path / "wide.h5").read_bytes()


def test_an_int8_file_costs_little_more_than_a_byte_a_weight(file):
    assert file.stat().st_size < CONFIG.num_parameters * 1.8 + 1024 * len(layout(CONFIG, "int8"))


@pytest.mark.parametrize(("value", "says"), [(np.nan, "1 values"), (1e39, "1 values that int8 cannot hold as finite numbers")])
@pytest.mark.parametrize("path", ["embedding_vd", "encoder/blocks/0/dense/wi_df"])
def test_what_is_not_finite_is_not_quantized(tmp_path, path, value, says):
    leaf = PARAMS[path].astype(float)
    leaf[1, 2] = value

    with pytest.raises(WeightsError, match=f"{path} has {says}"):
        weights.write(tmp_path / "m.h5", CONFIG, ROUTING, dict(PARAMS.leaves()) | {path: leaf}, dtype="int8")

    assert list(tmp_path.iterdir()) == []


def test_a_scale_is_not_given_but_made(tmp_path):
    given = dict(PARAMS.leaves()) | {"embedding_scale_v": np.ones(40, np.float32)}

    with pytest.raises(WeightsError, match="embedding_scale_v is not part of this Config"):
        weights.write(tmp_path / "m.h5", CONFIG, ROUTING, given, dtype="int8")


def test_quantizing_needs_memory_for_pieces_only(tmp_path):
    ones = ((path, np.ones(shape, np.float32)) for path, shape in blueprint(BIG).items())
    weights.write(tmp_path / "m.h5", BIG, ROUTING, ones)
    params, _ = weights.mapped(tmp_path / "m.h5")

    peak = peak_bytes(lambda: weights.save(tmp_path / "i.h5", params, BIG, ROUTING, dtype="int8"))

    assert peak < 0.6 * BIG.num_parameters * 4
    assert peak_bytes(lambda: weights.read(tmp_path / "i.h5")) < 1.3 * BIG.num_parameters * 4 + 10 * weights.hdf5.BLOCK


@pytest.mark.parametrize("engine", ["kernels", "equations", "fast"])
def test_a_model_saved_as_int8_speaks(tmp_path, engine):
    switchnp.load(ROOT / "weights/switch-numbers.h5").save(tmp_path / "i.h5", dtype="int8")

    model = switchnp.load(tmp_path / "i.h5", engine=engine)

    assert model.generate("say in French: 1984") == "mille neuf cent quatre-vingt-quatre"


# Strangers


@pytest.mark.parametrize("name", hostile.INT8_SPOILERS)
def test_a_stranger_of_int8_is_refused_by_its_structure(file, name):
    spoil, says = hostile.INT8_SPOILERS[name]
    spoil(file)

    for read in (weights.read, weights.read_header, weights.verify, weights.mapped):
        with pytest.raises(WeightsError, match=says) as error:
            read(file)
        assert one_line(error)


@pytest.mark.parametrize("name", hostile.INT8_NUMBERS)
def test_a_stranger_of_int8_is_refused_by_its_numbers(file, name):
    spoil, says = hostile.INT8_NUMBERS[name]
    spoil(file)

    for read in (weights.read, weights.verify, lambda path: weights.mapped(path, verify=True)):
        with pytest.raises(WeightsError, match=says) as error:
            read(file)
        assert one_line(error)


@pytest.mark.parametrize("name", hostile.SPOILERS)
def test_what_is_refused_in_floats_is_refused_in_int8(file, name):
    spoil, _ = hostile.SPOILERS[name]
    if name == "int8_for_weights":
        return
    spoil(file)

    with pytest.raises(WeightsError) as error:
        weights.read(file)

    assert one_line(error)


def test_every_flipped_bit_of_an_int8_file_is_noticed(file):
    data, chance = file.read_bytes(), random.Random(0)
    _, stored = weights.read_header(file)

    for array in stored:
        spoiled = bytearray(data)
        spoiled[array.offset + chance.randrange(array.nbytes)] ^= 1 << chance.randrange(8)
        file.write_bytes(spoiled)
        with pytest.raises(WeightsError, match=f"the sha256 of {re.escape(array.path)} is"):
            weights.read(file)


# Mapped


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("verify", [False, True])
def test_what_is_mapped_is_what_is_read(tmp_path, dtype, verify):
    weights.save(tmp_path / "m.h5", PARAMS, CONFIG, ROUTING, dtype=dtype, tokenizer=b"t")
    params, header = weights.read(tmp_path / "m.h5")

    views, view_header = weights.mapped(tmp_path / "m.h5", verify=verify)

    found = dict(views.leaves())
    kinds = {"float32": "<f4", "bfloat16": ml_dtypes.bfloat16, "int8": "i1"}
    assert view_header == header
    assert {path: (leaf.shape, leaf.dtype) for path, leaf in found.items()} == {
        path: (shape, np.dtype(kinds[kind])) for path, (shape, kind) in layout(CONFIG, dtype).items()
    }
    for path, leaf in params.leaves():
        view, scale = found[path], found.get(scale_path(path))
        assert np.array_equal(view if scale is None else widened(path, view, scale), leaf)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_map_is_one_of_the_file_and_nobody_can_write_it(tmp_path, dtype):
    weights.save(tmp_path / "m.h5", PARAMS, CONFIG, ROUTING, dtype=dtype)

    views, _ = weights.mapped(tmp_path / "m.h5")

    def owner(array):
        while isinstance(array, np.ndarray):
            array = array.base
        return array.obj if isinstance(array, memoryview) else array

    assert len({id(owner(view)) for _, view in views.leaves()}) == 1
    assert type(owner(views.encoder.norm_d)).__name__ == "mmap"
    assert all(view.ctypes.data % 64 == 0 for _, view in views.leaves())
    for _, view in views.leaves():
        with pytest.raises(ValueError, match="read-only"):
            view[...] = 0
        with pytest.raises(ValueError, match="WRITEABLE"):
            view.flags.writeable = True


def test_mapping_reads_no_number(file, monkeypatch):
    def unreachable(*_):
        raise AssertionError("numbers were read")

    weights.save(file, PARAMS, CONFIG, ROUTING, dtype="int8", force=True)
    monkeypatch.setattr(weights.os, "pread", unreachable)

    weights.mapped(file)

    with pytest.raises(AssertionError, match="numbers were read"):
        weights.mapped(file, verify=True)


@pytest.mark.parametrize("spoil", [hostile.wrong_sha256, hostile.signalling_nan, hostile.changed_tokenizer])
def test_a_map_that_is_verified_is_refused_where_a_file_that_is_read_is(tmp_path, spoil):
    weights.save(tmp_path / "mine.h5", PARAMS, CONFIG, ROUTING, tokenizer=b"pieces")
    spoil(tmp_path / "mine.h5")

    with pytest.raises(WeightsError, match=r"sha256|not finite"):
        weights.mapped(tmp_path / "mine.h5", verify=True)


@pytest.mark.parametrize("name", hostile.SPOILERS)
def test_a_stranger_is_not_mapped(tmp_path, name):
    weights.save(tmp_path / "mine.h5", PARAMS, CONFIG, ROUTING, tokenizer=b"pieces", provenance={"source": "a test"})
    spoil, says = hostile.SPOILERS[name]
    spoil(tmp_path / "mine.h5")

    with pytest.raises(WeightsError, match=says) as error:
        weights.mapped(tmp_path / "mine.h5", verify=True)

    assert one_line(error)


def test_a_file_that_is_replaced_does_not_disturb_its_map(file):
    views, _ = weights.mapped(file)
    before = views.map(np.array)

    weights.save(file, params_of(seed=1), CONFIG, ROUTING, dtype="int8", force=True)

    assert same(views, before)
    assert not same(weights.mapped(file)[0], before)


def test_a_map_that_nobody_holds_leaves_no_descriptor_open(file):
    views, _ = weights.mapped(file)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        views, _ = weights.mapped(file)

    assert len(os.listdir("/proc/self/fd")) == before
    assert views.encoder.norm_d.shape == (8,)


def test_what_does_not_begin_at_a_multiple_of_64_is_read_but_not_mapped(tmp_path):
    weights.save(tmp_path / "m.h5", PARAMS, CONFIG, ROUTING)
    with h5py.File(tmp_path / "m.h5") as sound, h5py.File(tmp_path / "odd.h5", "w", libver=("v110", "v110")) as odd:
        for name, text in sound.attrs.items():
            odd.attrs[name] = text
        for path in blueprint(CONFIG):
            hostile.put(odd, path, sound[path][()])

    assert same(weights.read(tmp_path / "odd.h5")[0], PARAMS)
    with pytest.raises(WeightsError, match=r"in .*odd\.h5 begins at byte \d+, expected a multiple of 64") as error:
        weights.mapped(tmp_path / "odd.h5")
    assert one_line(error)
