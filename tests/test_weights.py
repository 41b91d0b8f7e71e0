"""A weights file gives back what was put in, is there whole or not at all, and cannot harm its reader."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import re
import subprocess
import sys
import textwrap
import threading
import tracemalloc
from pathlib import Path

import h5py
import hostile
import ml_dtypes
import numpy as np
import pytest
from h5py import h5pl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from switchnp import files, hdf5, weights
from switchnp.config import Config
from switchnp.errors import FileError, InputError, ShapeError, SwitchError, WeightsError
from switchnp.params import blueprint
from switchnp.routing import Routing
from switchnp.tree import Tree

TINY = {
    "d_model": 8,
    "d_ff": 12,
    "d_kv": 4,
    "num_heads": 2,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_experts": 2,
    "sparse_encoder_layers": (1,),
    "sparse_decoder_layers": (1,),
    "vocab_size": 40,
}
CONFIG, ROUTING = Config(**TINY), Routing.paper()
ROOT = Path(__file__).parents[1]


def params_of(config=CONFIG, seed=0):
    rng = np.random.default_rng(seed)
    return Tree.of({path: rng.normal(size=shape).astype(np.float32) for path, shape in blueprint(config).items()})


PARAMS, OTHERS = params_of(), params_of(seed=1)


def same(one, other):
    return all(a.tobytes() == b.tobytes() for (_, a), (_, b) in zip(one.leaves(), other.leaves(), strict=True))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def one_line(error):
    return "\n" not in str(error.value) and str(error.value).isprintable() and len(str(error.value)) < 500


@pytest.fixture
def file(tmp_path):
    """A sound file of PARAMS."""
    path = tmp_path / "mine.h5"
    weights.save(path, PARAMS, CONFIG, ROUTING, tokenizer=b"pieces", provenance={"source": "a test"})
    return path


# Round trips


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"is_gated_act": True, "dense_act_fn": "gelu_new", "router_bias": True},
        {"tie_word_embeddings": False, "separate_embeddings": True},
        {"num_layers": 12, "sparse_encoder_layers": tuple(range(1, 12, 2))},
    ],
)
def test_what_was_saved_is_read(tmp_path, more):
    config = Config(**TINY | more)
    params = params_of(config)

    weights.save(tmp_path / "m.h5", params, config, ROUTING, tokenizer=b"\0\1\2", provenance={"größe": "groß"})
    found, header = weights.read(tmp_path / "m.h5")

    assert header == weights.Header(config, ROUTING, {"größe": "groß"}, "float32", b"\0\1\2")
    assert [path for path, _ in found.leaves()] == [path for path, _ in params.leaves()]
    assert same(found, params)


def test_a_file_without_tokenizer_and_provenance_has_none(tmp_path):
    weights.save(tmp_path / "m.h5", PARAMS, CONFIG, ROUTING)

    _, header = weights.read(tmp_path / "m.h5")

    assert header.tokenizer is None
    assert header.provenance == {}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_arrays_are_of_the_dtype_asked_for_and_contiguous(file, dtype):
    found, _ = weights.read(file, dtype)

    assert {leaf.dtype for _, leaf in found.leaves()} == {np.dtype(dtype)}
    assert all(leaf.flags.c_contiguous and leaf.flags.writeable for _, leaf in found.leaves())
    assert same(found, PARAMS.map(lambda leaf: leaf.astype(dtype)))


def test_every_finite_bfloat16_survives(tmp_path):
    config = Config(**TINY | {"vocab_size": 65_280 // 8})
    every = np.arange(65_536, dtype=np.uint16)
    finite = every[every & 0x7F80 != 0x7F80].view(ml_dtypes.bfloat16).reshape(-1, 8)
    params = params_of(config)
    params.embedding_vd = finite.astype(np.float32)

    weights.save(tmp_path / "m.h5", params, config, ROUTING, dtype="bfloat16")
    found, header = weights.read(tmp_path / "m.h5")

    assert header.dtype == "bfloat16"
    assert found.embedding_vd.tobytes() == finite.astype(np.float32).tobytes()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(table_vd=arrays(np.float32, (40, 8), elements=st.floats(-(2.0**127), 2.0**127, width=32)))
def test_bfloat16_rounds_as_ml_dtypes_does(tmp_path, table_vd):
    leaves = dict(PARAMS.leaves()) | {"embedding_vd": table_vd}

    weights.write(tmp_path / "m.h5", CONFIG, ROUTING, leaves, dtype="bfloat16", force=True)
    found, _ = weights.read(tmp_path / "m.h5")

    assert found.embedding_vd.tobytes() == table_vd.astype(ml_dtypes.bfloat16).astype(np.float32).tobytes()


def test_float64_is_rounded_by_way_of_float32(tmp_path):
    nearly_a_tie = dict(PARAMS.leaves()) | {"encoder/norm_d": np.full(8, 1 + 2.0**-8 + 2.0**-40)}

    weights.write(tmp_path / "m.h5", CONFIG, ROUTING, nearly_a_tie, dtype="bfloat16")

    assert weights.read(tmp_path / "m.h5")[0].encoder.norm_d.tolist() == [1.0] * 8


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_h5py_reads_the_same_numbers(tmp_path, dtype):
    weights.save(tmp_path / "m.h5", PARAMS, CONFIG, ROUTING, dtype=dtype)
    found, _ = weights.read(tmp_path / "m.h5")

    with h5py.File(tmp_path / "m.h5") as file:
        assert all(np.array_equal(file[path][()], leaf) for path, leaf in found.leaves())


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_pieces_of_any_float_type_are_taken(tmp_path, kind):
    leaves = {path: leaf.astype(kind) for path, leaf in PARAMS.leaves()}

    weights.write(tmp_path / "m.h5", CONFIG, ROUTING, leaves)
    found, _ = weights.read(tmp_path / "m.h5")

    assert same(found, PARAMS.map(lambda leaf: leaf.astype(kind).astype(np.float32)))


def test_a_header_is_read_without_the_weights(file):
    hostile.wrong_sha256(file)

    header, stored = weights.read_header(file)

    assert header == weights.Header(CONFIG, ROUTING, {"source": "a test"}, "float32", b"pieces")
    assert {array.path: array.shape for array in stored} == blueprint(CONFIG)
    assert {array.dtype for array in stored} == {"float32"}


# The file


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_same_model_is_the_same_bytes_in_any_order_and_any_pieces(tmp_path, dtype):
    def pieces(leaf):
        yield leaf[:1]
        yield leaf[1:1]
        yield np.asfortranarray(leaf[1:])

    backwards = ((path, pieces(leaf)) for path, leaf in reversed(list(PARAMS.leaves())))

    weights.save(tmp_path / "whole.h5", PARAMS, CONFIG, ROUTING, dtype=dtype, tokenizer=b"t")
    weights.write(tmp_path / "pieces.h5", CONFIG, ROUTING, backwards, dtype=dtype, tokenizer=b"t")

    assert (tmp_path / "whole.h5").read_bytes() == (tmp_path / "pieces.h5").read_bytes()


def test_arrays_are_aligned_and_their_names_say_their_place(file):
    _, stored = weights.read_header(file)

    data = file.read_bytes()

    for array in stored:
        assert array.offset % 64 == 0
        assert data[array.offset : array.offset + array.nbytes] == PARAMS[array.path].tobytes()


def test_a_file_costs_little_more_than_its_weights(file):
    assert file.stat().st_size < CONFIG.num_parameters * 4 + 1024 * len(blueprint(CONFIG))


def test_every_attribute_is_of_fixed_length(file):
    kinds = []

    def gather(_, item):
        kinds.extend(item.attrs.get_id(name).get_type() for name in item.attrs)

    with h5py.File(file) as opened:
        opened.visititems(gather)
        gather("", opened)

    assert len(kinds) == 5 + len(blueprint(CONFIG)) + 1
    assert not any(kind.is_variable_str() for kind in kinds)


BIG = Config(**TINY | {"vocab_size": 65_536, "d_model": 128})


def peak_bytes(act):
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_writing_needs_memory_for_pieces_only(tmp_path):
    def pieces(shape):
        for _ in range(0, shape[0], 4096) if shape[0] == 65_536 else ():
            yield np.ones((4096, *shape[1:]), np.float32)
        if shape[0] != 65_536:
            yield np.ones(shape, np.float32)

    streamed = ((path, pieces(shape)) for path, shape in blueprint(BIG).items())

    peak = peak_bytes(lambda: weights.write(tmp_path / "m.h5", BIG, ROUTING, streamed))

    assert peak < 0.6 * BIG.num_parameters * 4


def test_reading_needs_memory_for_the_weights_and_a_block(tmp_path):
    ones = ((path, np.ones(shape, np.float32)) for path, shape in blueprint(BIG).items())
    weights.write(tmp_path / "m.h5", BIG, ROUTING, ones, dtype="bfloat16")

    peak = peak_bytes(lambda: weights.read(tmp_path / "m.h5"))

    assert peak < BIG.num_parameters * 4 + 10 * hdf5.BLOCK


# Refusing to write


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"encoder/norm_d": np.ones(9, np.float32)}, r"encoder/norm_d is \(9,\), but this Config makes it \(8,\)"),
        ({"encoder/norm_d": np.ones((8, 1), np.float32)}, r"encoder/norm_d is \(8, 1\), but"),
        ({"encoder/norm_d": np.float32(1)}, r"encoder/norm_d is \(0,\), but"),
        ({"encoder/norm_d": iter([np.ones(5, np.float32)])}, r"encoder/norm_d is \(5,\), but"),
        ({"encoder/norm_d": iter([])}, r"encoder/norm_d is \(0,\), but"),
        ({"encoder/norm_d": np.ones(8, int)}, "encoder/norm_d is int64, expected one of"),
        ({"encoder/norm_d": np.array([np.nan] * 8)}, "encoder/norm_d has 8 values"),
        ({"encoder/norm_d": np.array([1.0] * 7 + [-np.inf])}, "encoder/norm_d has 1 values"),
        ({"encoder/norm_d": np.full(8, 1e39)}, "encoder/norm_d has 8 values"),
        ({"encoder/blocks/9/more_d": np.ones(8)}, "encoder/blocks/9/more_d is not part of this Config"),
        ({"\x1b[2J\n": np.ones(8)}, "is not part of this Config"),
    ],
)
def test_a_wrong_array_is_named_and_nothing_written(tmp_path, change, says):
    with pytest.raises(WeightsError, match=says) as error:
        weights.write(tmp_path / "m.h5", CONFIG, ROUTING, dict(PARAMS.leaves()) | change)

    assert one_line(error)
    assert names(tmp_path) == []


def test_a_value_that_rounds_to_infinity_is_refused(tmp_path):
    leaves = dict(PARAMS.leaves()) | {"encoder/norm_d": np.full(8, 3.4e38, np.float32)}

    with pytest.raises(WeightsError, match="bfloat16 cannot hold"):
        weights.write(tmp_path / "m.h5", CONFIG, ROUTING, leaves, dtype="bfloat16")


def test_a_missing_array_and_one_that_comes_twice_are_named(tmp_path):
    leaves = list(PARAMS.leaves())

    with pytest.raises(WeightsError, match=f"{leaves[0][0]} did not come"):
        weights.write(tmp_path / "m.h5", CONFIG, ROUTING, leaves[1:])
    with pytest.raises(WeightsError, match=f"{leaves[0][0]} came twice"):
        weights.write(tmp_path / "m.h5", CONFIG, ROUTING, [leaves[0], *leaves])

    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dtype": "float16"}, "dtype is 'float16', expected float32, bfloat16, int8"),
        ({"tokenizer": b""}, "the tokenizer has 0 bytes"),
        ({"provenance": {"a": 1}}, "provenance is not a table"),
        ({"provenance": {"a": "\x1b[31m"}}, "provenance is not a table"),
        ({"provenance": {f"{i:04}": "b" * 100 for i in range(700)}}, r"the provenance is 7\d+ bytes"),
    ],
)
def test_a_wrong_option_is_refused_before_any_work(tmp_path, options, says):
    with pytest.raises(InputError, match=says):
        weights.write(tmp_path / "m.h5", CONFIG, ROUTING, unreachable(), **options)


def unreachable():
    raise AssertionError("work was done")
    yield


def test_a_tree_of_another_config_is_not_saved(tmp_path):
    with pytest.raises(ShapeError):
        weights.save(tmp_path / "m.h5", PARAMS, Config(**TINY | {"d_ff": 5}), ROUTING)


def test_reading_as_another_dtype_is_refused(file):
    with pytest.raises(InputError, match="expected float32 or float64"):
        weights.read(file, "int8")


# Paths


def test_an_existing_file_is_overwritten_by_force_only(file):
    before = file.read_bytes()

    with pytest.raises(FileError, match=r"mine.h5 exists already; --force \(force=True\) overwrites it"):
        weights.save(file, OTHERS, CONFIG, ROUTING)
    assert file.read_bytes() == before

    weights.save(file, OTHERS, CONFIG, ROUTING, force=True)
    assert same(weights.read(file)[0], OTHERS)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("nowhere/m.h5", "there is no folder"),
        (".", "not a regular file"),
        ("pipe", "not a regular file"),
        ("mine.h5/m.h5", "there is no folder"),
        ("x" * 250, "cannot be written: File name too long"),
        ("nul\0.h5", "cannot be written"),
    ],
)
def test_a_path_that_cannot_be_written_is_refused_before_any_work(file, target, says):
    os.mkfifo(file.with_name("pipe"))
    before = names(file.parent)

    with pytest.raises(FileError, match=says) as error:
        weights.write(file.parent / target, CONFIG, ROUTING, unreachable(), force=True)

    assert one_line(error)
    assert names(file.parent) == before


def test_a_full_disk_is_noticed_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: Room)

    with pytest.raises(FileError, match=r"m.h5 needs \d+ bytes, but 1000 are free"):
        weights.write(tmp_path / "m.h5", CONFIG, ROUTING, unreachable())


class Room:
    free = 1000


def test_an_unwritable_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "access", lambda *_: False)

    with pytest.raises(FileError, match="is not writable"):
        weights.write(tmp_path / "m.h5", CONFIG, ROUTING, unreachable())


@pytest.mark.parametrize("read", [weights.read, weights.read_header])
@pytest.mark.parametrize(
    ("path", "kind", "says"),
    [
        ("nowhere.h5", FileError, "nowhere.h5 cannot be read: No such file or directory"),
        ("nul\0.h5", FileError, "cannot be read"),
        ("pipe", FileError, "pipe is not a regular file"),
        (".", FileError, "is not a regular file"),
        ("/dev/zero", FileError, "/dev/zero is not a regular file"),
        ("empty.h5", WeightsError, "empty.h5 is empty"),
        ("poem.h5", WeightsError, "poem.h5 is not an HDF5 file"),
        ("line\n.h5", WeightsError, r"line\\n.h5' is not an HDF5 file"),
    ],
)
def test_a_path_that_is_no_weights_file_is_refused(tmp_path, monkeypatch, read, path, kind, says):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("empty.h5").touch()
    for poem in ("poem.h5", "line\n.h5"):
        Path(poem).write_text("Shall I compare thee to a summer's day?\n" * 9)

    with pytest.raises(kind, match=says) as error:
        read(path)

    assert one_line(error)


# Strangers


@pytest.mark.parametrize("name", hostile.SPOILERS)
def test_a_stranger_is_refused(file, name):
    spoil, says = hostile.SPOILERS[name]
    spoil(file)

    with pytest.raises(WeightsError, match=says) as error:
        weights.read(file)

    assert type(error.value) is WeightsError
    assert one_line(error)
    assert "mine.h5" in str(error.value)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_signalling_nan_is_refused_without_a_warning(file, dtype):
    hostile.signalling_nan(file)

    with pytest.raises(WeightsError, match="1 values that are not finite"):
        weights.read(file, dtype)


def test_arrays_that_share_bytes_are_refused():
    one = hdf5.Stored("one", (4,), "float32", 128, 16, "")
    other = hdf5.Stored("other", (4,), "float32", 140, 16, "")

    with pytest.raises(WeightsError, match="one and other in mine share bytes"):
        hdf5._check_extents([other, one], "mine")


def test_plugin_folders_are_shut_while_a_file_is_opened_and_back_after_it(file, monkeypatch):
    folders = [h5pl.get(i) for i in range(h5pl.size())]
    seen = []
    contents = hdf5._contents
    monkeypatch.setattr(hdf5, "_contents", lambda *args: seen.append(h5pl.size()) or contents(*args))

    weights.read(file)

    assert seen == [0]
    assert [h5pl.get(i) for i in range(h5pl.size())] == folders


def sound_or_refused(path, tokenizer=b"pieces"):
    try:
        found, header = weights.read(path)
    except SwitchError as error:
        assert str(error).isprintable()
    else:
        assert same(found, PARAMS)
        assert header.tokenizer == tokenizer


def test_a_truncated_file_is_refused(file):
    data = file.read_bytes()

    for length in {0, 1, 7, 8, 47, 48, *range(49, len(data), 211), len(data) - 1}:
        file.write_bytes(data[:length])
        with pytest.raises(WeightsError):
            weights.read(file)


@pytest.mark.parametrize("seed", range(4))
def test_damage_is_noticed_unless_it_touches_nothing(file, seed):
    data, chance = file.read_bytes(), random.Random(seed)

    for _ in range(100):
        spoiled = bytearray(data)
        for _ in range(chance.choice([1, 1, 4])):
            place = chance.randrange(len(data))
            spoiled[place] = chance.choice([0, 255, spoiled[place] ^ 1 << chance.randrange(8), chance.randrange(256)])
        file.write_bytes(spoiled)
        sound_or_refused(file)


def test_every_flipped_bit_of_a_weight_is_noticed(file):
    data, chance = file.read_bytes(), random.Random(0)
    _, stored = weights.read_header(file)

    for array in stored:
        spoiled = bytearray(data)
        spoiled[array.offset + chance.randrange(array.nbytes)] ^= 1 << chance.randrange(8)
        file.write_bytes(spoiled)
        with pytest.raises(WeightsError, match=f"the sha256 of {re.escape(array.path)} is"):
            weights.read(file)


# Whole or not at all


@pytest.mark.parametrize("error", [OSError(28, "full"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize(
    ("module", "function"),
    [(hdf5, "create"), (hdf5, "sign"), (os, "pwrite"), (os, "fsync"), (os, "replace")],
)
def test_whatever_fails_the_old_file_stays(file, monkeypatch, module, function, error):
    def failing(*_, **__):
        raise error

    before = file.read_bytes()
    monkeypatch.setattr(module, function, failing)

    with pytest.raises(FileError if isinstance(error, OSError) else type(error)):
        weights.save(file, OTHERS, CONFIG, ROUTING, force=True)

    assert file.read_bytes() == before
    assert names(file.parent) == ["mine.h5"]


@pytest.mark.parametrize("when", [0, 1, 10, len(blueprint(CONFIG))])
@pytest.mark.parametrize("error", [OSError("a shard is unreadable"), KeyboardInterrupt(), KeyError("x")])
def test_a_source_that_fails_is_not_blamed_on_the_target(file, when, error):
    def failing():
        for i, leaf in enumerate(OTHERS.leaves()):
            if i == when:
                raise error
            yield leaf
        raise error

    before = file.read_bytes()

    with pytest.raises(type(error)) as raised:
        weights.write(file, CONFIG, ROUTING, failing(), force=True)

    assert raised.value is error
    assert file.read_bytes() == before
    assert names(file.parent) == ["mine.h5"]


def test_a_short_write_is_continued(file, monkeypatch):
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: whole(fd, data[: max(1, len(data) // 2)], offset))

    weights.save(file, OTHERS, CONFIG, ROUTING, force=True)

    assert same(weights.read(file)[0], OTHERS)


def run(script, *args, **options):
    code = textwrap.dedent(
        """
        import os, resource, signal, sys
        sys.path[:0] = [{root!r}, {tests!r}]
        import switchnp
        from switchnp import weights
        from test_weights import CONFIG, OTHERS, PARAMS, ROUTING
        path = sys.argv[1]
        """
    ).format(root=str(ROOT), tests=str(ROOT / "tests")) + textwrap.dedent(script)
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("when", ["os.pwrite", "weights.hdf5.sign", "os.fsync", "os.replace"])
def test_a_killed_writer_leaves_the_old_file_and_the_next_one_cleans_up(file, when):
    before = file.read_bytes()
    killed = run(
        f"""
        {when} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        weights.save(path, OTHERS, CONFIG, ROUTING, force=True)
        """,
        file,
    )
    killed.communicate()

    assert killed.returncode == -9
    assert file.read_bytes() == before
    temporary, target = names(file.parent)
    assert re.fullmatch(r"\.mine\.h5\.[0-9a-f]{16}\.tmp", temporary)
    assert target == "mine.h5"

    weights.save(file, OTHERS, CONFIG, ROUTING, force=True)

    assert names(file.parent) == ["mine.h5"]
    assert same(weights.read(file)[0], OTHERS)


def test_only_what_dead_writers_of_this_very_file_left_is_removed(file):
    left, token = [f".mine.h5.{'0a' * 8}.tmp", f".mine.h5.{'1b' * 8}.tmp"], "2c" * 8
    kept = [".mine.h5.1.tmp", ".mine.h5.x.tmp", f".yours.h5.{token}.tmp", f".mineXh5.{token}.tmp", "mine.h5.tmp"]
    for name in left + kept:
        file.with_name(name).touch()
    file.with_name(alive := f".mine.h5.{token}.tmp").touch()

    with open(file.with_name(alive)) as another:
        fcntl.flock(another, fcntl.LOCK_EX)
        weights.save(file, OTHERS, CONFIG, ROUTING, force=True)

    assert names(file.parent) == sorted([*kept, alive, "mine.h5"])


def test_a_file_that_appears_while_writing_is_not_overwritten_without_force(tmp_path):
    def slowly():
        (tmp_path / "m.h5").write_text("precious")
        yield from OTHERS.leaves()

    with pytest.raises(FileError, match="exists already"):
        weights.write(tmp_path / "m.h5", CONFIG, ROUTING, slowly())

    assert (tmp_path / "m.h5").read_text() == "precious"
    assert names(tmp_path) == ["m.h5"]


def test_a_temporary_file_that_another_took_is_not_published(tmp_path):
    def slowly():
        (temporary,) = tmp_path.iterdir()
        temporary.rename(tmp_path / "taken")
        temporary.write_text("another's")
        yield from OTHERS.leaves()

    with pytest.raises(FileError):
        weights.write(tmp_path / "m.h5", CONFIG, ROUTING, slowly())

    assert not (tmp_path / "m.h5").exists()


def test_a_file_system_without_hard_links_gets_its_file_too(tmp_path, monkeypatch):
    def unlinkable(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(files.os, "link", unlinkable)

    weights.save(tmp_path / "m.h5", OTHERS, CONFIG, ROUTING)

    assert same(weights.read(tmp_path / "m.h5")[0], OTHERS)
    assert names(tmp_path) == ["m.h5"]


def test_reading_leaves_no_descriptor_open(file):
    weights.read(file)
    before = len(os.listdir("/proc/self/fd"))

    for _ in range(5):
        weights.read(file)
        with pytest.raises(WeightsError):
            weights.read(__file__)

    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("path", [None, 5, []])
def test_what_is_no_path_is_refused(path):
    for use in (weights.read, weights.read_header, lambda path: weights.save(path, PARAMS, CONFIG, ROUTING)):
        with pytest.raises(FileError, match="expected a text"):
            use(path)


@pytest.mark.parametrize("limit", [100, 4_000, 20_000, 34_000])
def test_a_disk_that_fills_while_writing_is_one_sentence(file, limit):
    before = file.read_bytes()
    full = run(
        """
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
        try:
            weights.save(path, OTHERS, CONFIG, ROUTING, force=True)
        except switchnp.errors.FileError as error:
            print(error)
        """,
        file,
        limit,
    )
    out, err = full.communicate()

    assert (full.returncode, err) == (0, "")
    assert re.fullmatch(r".*mine.h5 cannot be written: .*\n", out)
    assert file.read_bytes() == before
    assert names(file.parent) == ["mine.h5"]


def test_two_processes_that_write_one_file_leave_a_whole_one(file):
    script = """
        for _ in range(10):
            weights.save(path, {params}, CONFIG, ROUTING, force=True)
            weights.read(path)
        """
    both = [run(script.format(params=params), file) for params in ("PARAMS", "OTHERS")]
    ends = [(process.communicate()[1], process.returncode) for process in both]

    assert ends == [("", 0), ("", 0)]
    assert names(file.parent) == ["mine.h5"]
    assert any(same(weights.read(file)[0], params) for params in (PARAMS, OTHERS))


def test_threads_may_read_and_write_one_file_at_once(file):
    faults = []

    def work(params):
        try:
            for _ in range(5):
                weights.save(file, params, CONFIG, ROUTING, force=True)
                found, _ = weights.read(file)
                assert same(found, PARAMS) or same(found, OTHERS)
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(params,)) for params in (PARAMS, OTHERS) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert faults == []
    assert names(file.parent) == ["mine.h5"]


def test_a_nan_in_the_first_block_is_noticed(file, monkeypatch):
    monkeypatch.setattr(hdf5, "BLOCK", 16)
    hostile.signalling_nan(file)

    for read in (weights.read, weights.verify):
        with pytest.raises(WeightsError, match="1 values that are not finite"):
            read(file)


def test_verify_takes_what_read_takes_and_refuses_a_flipped_bit(file):
    weights.save(file, PARAMS, CONFIG, ROUTING, force=True)
    weights.verify(file)
    data = bytearray(file.read_bytes())
    _, stored = weights.read_header(file)
    data[stored[3].offset] ^= 1
    file.write_bytes(data)

    with pytest.raises(WeightsError, match="sha256"):
        weights.verify(file)


def test_a_lock_that_another_took_first_is_another_name(tmp_path, monkeypatch):
    flock, refused = fcntl.flock, []

    def once(*args):
        if not refused:
            refused.append(args)
            raise BlockingIOError
        return flock(*args)

    monkeypatch.setattr(files.fcntl, "flock", once)

    weights.save(tmp_path / "m.h5", OTHERS, CONFIG, ROUTING)

    assert refused
    assert same(weights.read(tmp_path / "m.h5")[0], OTHERS)


@pytest.mark.parametrize("force", [True, False])
def test_a_file_system_without_locks_gets_its_file_too(tmp_path, monkeypatch, force):
    def lockless(*_):
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr(files.fcntl, "flock", lockless)
    (tmp_path / f".m.h5.{'2c' * 8}.tmp").touch()

    weights.save(tmp_path / "m.h5", OTHERS, CONFIG, ROUTING, force=force)

    assert names(tmp_path) == [f".m.h5.{'2c' * 8}.tmp", "m.h5"]


def test_without_hard_links_a_file_that_appears_is_kept_all_the_same(tmp_path, monkeypatch):
    def unlinkable(*_):
        (tmp_path / "m.h5").write_text("precious")
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(files.os, "link", unlinkable)

    with pytest.raises(FileError, match="exists already"):
        weights.save(tmp_path / "m.h5", OTHERS, CONFIG, ROUTING)

    assert (tmp_path / "m.h5").read_text() == "precious"


def test_a_save_without_force_leaves_one_name(tmp_path):
    weights.save(tmp_path / "m.h5", OTHERS, CONFIG, ROUTING)

    assert names(tmp_path) == ["m.h5"]
    assert (tmp_path / "m.h5").stat().st_nlink == 1


def test_another_fault_of_a_link_is_told(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(files.os, "link", broken)

    with pytest.raises(FileError, match="Input/output error"):
        weights.save(tmp_path / "m.h5", OTHERS, CONFIG, ROUTING)

    assert names(tmp_path) == []


def test_the_room_that_is_asked_for_is_enough(tmp_path, monkeypatch):
    weights.save(tmp_path / "m.h5", OTHERS, CONFIG, ROUTING)
    size = (tmp_path / "m.h5").stat().st_size

    class Tight:
        free = size - 1

    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: Tight)

    with pytest.raises(FileError, match="are free"):
        weights.save(tmp_path / "m.h5", OTHERS, CONFIG, ROUTING, force=True)


@pytest.mark.parametrize("name", hostile.SPOILERS)
def test_a_stranger_is_refused_by_its_structure_or_its_numbers(file, name):
    spoil, says = hostile.SPOILERS[name]
    spoil(file)
    told = says if isinstance(says, str) else says.pattern

    if "sha256 of" in told or "not finite" in told:
        return
    with pytest.raises(WeightsError, match=says):
        weights.read_header(file)


def test_a_router_that_goes_by_a_bias_is_not_saved_where_there_is_none(tmp_path):
    with pytest.raises(InputError, match="the router is 'bias', expected a Config with router_bias"):
        weights.save(tmp_path / "m.h5", PARAMS, CONFIG, Routing(router="bias"))
    assert not (tmp_path / "m.h5").exists()
