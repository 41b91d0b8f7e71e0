"""What a stranger can do to a weights file: each function spoils a sound one in place.

Source: the defects shown in HDF5, Keras, safetensors and GGUF readers; docs/weights-format.md names the dangers.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5p, h5s, h5t

NAME = "encoder/blocks/1/switch/wi_edf"
SPOILERS: dict[str, tuple[Callable[[Path], None], str]] = {}
"""By its name, what spoils a file and what the error must say."""


def spoiler(says: str) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    def kept(spoil: Callable[[Path], None]) -> Callable[[Path], None]:
        SPOILERS[spoil.__name__] = (spoil, says)
        return spoil

    return kept


@contextmanager
def changed(path: Path) -> Iterator[Any]:
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        yield file


@contextmanager
def replaced(path: Path, name: str = NAME) -> Iterator[tuple[Any, np.ndarray]]:
    """The file without one dataset, and that dataset's values."""
    with changed(path) as file:
        values = file[name][()]
        del file[name]
        yield file, values


def put(file: Any, name: str, values: np.ndarray) -> None:
    """A dataset with its own sha256."""
    file[name] = values
    file[name].attrs["sha256"] = np.bytes_(hashlib.sha256(values.tobytes()).hexdigest())


def attribute(path: Path, name: str, value: Any, where: str = "/") -> None:
    with changed(path) as file:
        file[where].attrs[name] = value


def edited(path: Path, **numbers: Any) -> None:
    """Change fields of the config that the file carries."""
    with changed(path) as file:
        settings = json.loads(file.attrs["config"]) | numbers
        file.attrs["config"] = np.bytes_(json.dumps(settings))


@spoiler("link elsewhere")
def external_link(path):
    with replaced(path) as (file, _):
        file[NAME] = h5py.ExternalLink("other.h5", NAME)


@spoiler("link elsewhere")
def external_link_to_a_pipe(path):
    os.mkfifo(path.with_name("pipe"))
    with replaced(path) as (file, _):
        file[NAME] = h5py.ExternalLink("pipe", NAME)


@spoiler("encoder in .* link elsewhere")
def external_link_on_a_middle_group(path):
    path.with_name("other.h5").write_bytes(path.read_bytes())
    with changed(path) as file:
        del file["encoder"]
        file["encoder"] = h5py.ExternalLink("other.h5", "encoder")


@spoiler("link elsewhere")
def soft_link(path):
    with replaced(path) as (file, _):
        file[NAME] = h5py.SoftLink("/decoder/blocks/1/switch/wi_edf")


@spoiler("link elsewhere")
def soft_link_loop(path):
    with replaced(path) as (file, _):
        file[NAME] = h5py.SoftLink(f"/{NAME}")


@spoiler("more than one name")
def hard_link_cycle(path):
    with changed(path) as file:
        file["encoder/blocks/1/loop"] = file["encoder"]


@spoiler("more than one name")
def hard_link_to_the_root(path):
    with changed(path) as file:
        file["encoder/loop"] = file["/"]


@spoiler("more than one name")
def hard_link_alias(path):
    with replaced(path, "decoder/blocks/1/switch/wi_edf") as (file, _):
        file["decoder/blocks/1/switch/wi_edf"] = file[NAME]


@spoiler("stored in another file")
def external_storage(path):
    with replaced(path) as (file, values):
        file.create_dataset(NAME, values.shape, "<f4", external=[("/etc/passwd", 0, 4 * values.size)])


@spoiler("stored virtual")
def virtual_dataset(path):
    with replaced(path) as (file, values):
        layout = h5py.VirtualLayout(values.shape, "<f4")
        layout[:] = h5py.VirtualSource("other.h5", NAME, values.shape)
        file.create_virtual_dataset(NAME, layout)


@spoiler("stored virtual")
def virtual_dataset_of_itself(path):
    with replaced(path) as (file, values):
        layout = h5py.VirtualLayout(values.shape, "<f4")
        layout[:] = h5py.VirtualSource(".", NAME, values.shape)
        file.create_virtual_dataset(NAME, layout)


@spoiler("filtered or compressed")
def gzip(path):
    with replaced(path) as (file, values):
        file.create_dataset(NAME, data=values, compression="gzip")


@spoiler("filtered or compressed")
def gzip_bomb(path):
    with replaced(path) as (file, values):
        plan = h5p.create(h5p.DATASET_CREATE)
        plan.set_chunk((64, 512, 512))
        plan.set_deflate(9)
        plan.set_deflate(9)
        h5d.create(file.id, NAME.encode(), h5t.IEEE_F32LE, h5s.create_simple(values.shape, (h5s.UNLIMITED,) * 3), plan)


@spoiler("stored chunked")
def chunked(path):
    with replaced(path) as (file, values):
        file.create_dataset(NAME, data=values, chunks=True)


@spoiler("stored compact")
def compact(path):
    with replaced(path) as (file, values):
        plan = h5p.create(h5p.DATASET_CREATE)
        plan.set_layout(h5d.COMPACT)
        h5d.create(file.id, NAME.encode(), h5t.IEEE_F32LE, h5s.create_simple(values.shape), plan)


@spoiler("stores 0 bytes")
def shape_bomb(path):
    with replaced(path) as (file, _):
        file.create_dataset(NAME, (2**20, 2**20, 2**4), "<f4")


@spoiler("stores 0 bytes")
def shape_of_almost_2_to_the_64_bytes(path):
    with replaced(path) as (file, _):
        file.create_dataset(NAME, (2**30, 2**31, 1), "<f4")


@spoiler("stores 0 bytes")
def nothing_stored(path):
    with replaced(path) as (file, values):
        file.create_dataset(NAME, values.shape, "<f4")


@spoiler("stores 0 bytes")
def no_rows(path):
    with replaced(path) as (file, _):
        file.create_dataset(NAME, (0, 8, 12), "<f4")


@spoiler("no shape")
def scalar(path):
    with replaced(path) as (file, _):
        file[NAME] = np.float32(1)


@spoiler("no shape")
def null_space(path):
    with replaced(path) as (file, _):
        file[NAME] = h5py.Empty("<f4")


def of_type(name: str, kind: Any) -> None:
    def spoil(path: Path) -> None:
        with replaced(path) as (file, values):
            file.create_dataset(NAME, data=np.zeros(values.shape, kind))

    SPOILERS[name] = (spoil, "number type")


of_type("float64", "<f8")
of_type("float16", "<f2")
of_type("big_endian", ">f4")
of_type("signed_words", "<i2")
of_type("complex_numbers", "<c8")
of_type("booleans", "?")
of_type("opaque", "V4")
of_type("fixed_text", "S4")
of_type("compound", [("real", "<f4")])
of_type("array_of_floats", [("pair", "<f4", (2,))])


@spoiler("number type")
def variable_length_texts(path):
    with replaced(path) as (file, values):
        file.create_dataset(NAME, values.shape, h5py.string_dtype())


@spoiler("number type")
def references(path):
    with replaced(path) as (file, values):
        file.create_dataset(NAME, values.shape, h5py.ref_dtype)


@spoiler("number type")
def odd_bias(path):
    with replaced(path) as (file, values):
        kind = h5t.IEEE_F32LE.copy()
        kind.set_ebias(126)
        h5d.create(file.id, NAME.encode(), kind, h5s.create_simple(values.shape))


def bfloat16_of_another_kind(path: Path, bias: int, name: str = NAME) -> None:
    with replaced(path, name) as (file, values):
        kind = h5t.IEEE_F32LE.copy()
        kind.set_fields(15, 7, 8, 0, 7)
        kind.set_size(2)
        kind.set_ebias(bias)
        dataset = h5py.Dataset(h5d.create(file.id, name.encode(), kind, h5s.create_simple(values.shape)))
        dataset[...] = values
        dataset.attrs["sha256"] = np.bytes_("0" * 64)


@spoiler("number type")
def odd_bfloat16(path):
    bfloat16_of_another_kind(path, 126)


@spoiler("bfloat16 and float32")
def two_number_types(path):
    bfloat16_of_another_kind(path, 127)


@spoiler("float32 and uint8")
def bytes_for_weights(path):
    with replaced(path) as (file, values):
        file[NAME] = np.zeros(values.shape, np.uint8)
        file[NAME].attrs["sha256"] = np.bytes_("0" * 64)


@spoiler(r"lacks decoder/blocks/0/attention/wk_scale_hk, .* and 30 more$")
def int8_for_weights(path):
    with replaced(path) as (file, values):
        put(file, NAME, np.ones(values.shape, np.int8))


@spoiler("neither a group nor a dataset")
def named_type(path):
    with changed(path) as file:
        file["encoder/kind"] = np.dtype("<f4")


@spoiler("not one text of fixed length")
def variable_length_attribute(path):
    attribute(path, "sha256", "0" * 64, NAME)


@spoiler("not one text of fixed length")
def variable_length_config(path):
    attribute(path, "config", "{}")


@spoiler("not one text of fixed length")
def number_for_a_text(path):
    attribute(path, "sha256", 5, NAME)


@spoiler("not one text of fixed length")
def many_texts_for_one(path):
    attribute(path, "routing", np.array(["{}", "{}"], "S2"))


@spoiler("60000 bytes")
def long_attribute(path):
    attribute(path, "config", np.bytes_("x" * 64_000))


@spoiler("1001 attributes")
def many_attributes(path):
    with changed(path) as file:
        for i in range(1000):
            file[NAME].attrs[f"a{i}"] = i


@spoiler("encoder in .* has 1 attributes, expected none")
def attribute_of_a_group(path):
    attribute(path, "note", "hello", "encoder")


@spoiler("6 attributes")
def attribute_of_the_file(path):
    attribute(path, "note", "hello")


@spoiler("0 attributes")
def no_sha256(path):
    with changed(path) as file:
        del file[NAME].attrs["sha256"]


@spoiler("no sha256 of 64")
def strange_sha256(path):
    attribute(path, "sha256", np.bytes_("\x1b" * 64), NAME)


@spoiler("is damaged: the sha256 of encoder/blocks/1/switch/wi_edf is")
def wrong_sha256(path):
    attribute(path, "sha256", np.bytes_("0" * 64), NAME)


@spoiler("is damaged: the sha256 of tokenizer is")
def changed_tokenizer(path):
    with changed(path) as file:
        file["tokenizer"][0] += 1


@spoiler("tokenizer in .* is float32")
def tokenizer_of_floats(path):
    with replaced(path, "tokenizer") as (file, _):
        file["tokenizer"] = np.zeros(4, "<f4")
        file["tokenizer"].attrs["sha256"] = np.bytes_("0" * 64)


@spoiler("nested 16 deep")
def nested_groups(path):
    with changed(path) as file:
        group = file["encoder"]
        for _ in range(3000):
            group = group.create_group("g")


@spoiler("more than 50000 objects")
def many_objects(path):
    with changed(path) as file:
        group = file.create_group("many")
        for i in range(50_001):
            group[f"{i}"] = h5py.SoftLink("/nowhere")


def named(title: str, link: bytes, says: str = "has the name") -> None:
    def spoil(path: Path) -> None:
        with changed(path) as file:
            h5py.h5g.create(file.id, link)

    SPOILERS[title] = (spoil, says)


named("name_with_an_escape", b"\x1b[2J")
named("name_with_a_newline", b"a\nb")
named("name_with_a_space", b"a b")
named("name_that_is_no_text", b"\xff\xfe")
named("name_too_long", b"n" * 20_000)


@spoiler(r"mine\.h5 has the unexpected decoder/more_d, more_d$")
def unexpected(path):
    with changed(path) as file:
        for name in ("more_d", "decoder/more_d"):
            file[name] = np.zeros(8, "<f4")
            file[name].attrs["sha256"] = np.bytes_("0" * 64)


@spoiler(r"mine\.h5 lacks encoder/blocks/1/switch/wi_edf$")
def missing(path):
    with replaced(path):
        pass


@spoiler("no arrays")
def everything_missing(path):
    with changed(path) as file:
        del file["encoder"], file["decoder"], file["embedding_vd"]


@spoiler(r"wi_edf in .* is \(2, 12, 8\), but this Config makes it \(2, 8, 12\)")
def misshapen(path):
    with replaced(path) as (file, values):
        file[NAME] = values.swapaxes(1, 2)
        file[NAME].attrs["sha256"] = np.bytes_("0" * 64)


@spoiler("1 values that are not finite")
def signalling_nan(path):
    with changed(path) as file:
        values = file[NAME][()]
        values.view(np.uint32)[0, 0, 0] = 0x7F800001
        file[NAME][...] = values
        file[NAME].attrs["sha256"] = np.bytes_(hashlib.sha256(values.tobytes()).hexdigest())


@spoiler("no attribute format")
def no_format(path):
    with changed(path) as file:
        del file.attrs["format"]


@spoiler("in the format keras")
def another_format(path):
    attribute(path, "format", np.bytes_("keras"))


@spoiler("format_version 2, expected 1")
def later_version(path):
    attribute(path, "format_version", np.bytes_("2"))


@spoiler("superblock 0")
def old_superblock(path):
    with h5py.File(path, "w", libver="earliest") as file:
        file[NAME] = np.zeros(3)


@spoiler("is not an HDF5 file")
def user_block(path):
    path.write_bytes(bytes(512) + path.read_bytes())


@spoiler("but its first ones say")
def trailing_bytes(path):
    path.write_bytes(path.read_bytes() + b"PK")


@spoiler("but its first ones say")
def cut_short(path):
    path.write_bytes(path.read_bytes()[:-64])


@spoiler("ends within its first 48 bytes")
def cut_very_short(path):
    path.write_bytes(path.read_bytes()[:20])


@spoiler("was not closed")
def left_open(path):
    data = bytearray(path.read_bytes())
    data[11] = 1
    path.write_bytes(data)


@spoiler("superblock extension")
def superblock_extension(path):
    data = bytearray(path.read_bytes())
    data[20:28] = (64).to_bytes(8, "little")
    path.write_bytes(data)


def with_text(title: str, name: str, text: str, says: str) -> None:
    SPOILERS[title] = (lambda path: attribute(path, name, np.bytes_(text)), says)


with_text("config_is_no_json", "config", "{", "config of .* is not good JSON")
with_text("config_is_a_list", "config", "[]", "is a list, expected a JSON object")
with_text("config_without_fields", "config", "{}", "config of .* is impossible: a Config lacks")
with_text("config_twice", "config", '{"d_model": 1, "d_model": 2}', "a name comes twice")
with_text("config_of_brackets", "config", "[" * 50_000, "not good JSON")
with_text("provenance_with_nan", "provenance", '{"a": NaN}', "NaN is not a number")
with_text("provenance_of_numbers", "provenance", '{"a": 1}', "not a table of 200 printable")
with_text("provenance_with_escapes", "provenance", '{"a": "\\u001b[31m"}', "not a table of 200 printable")
with_text("routing_unknown", "routing", '{"order": "\\u001b[2J"}', "routing of .* is impossible")
with_text("config_with_a_long_number", "config", '{"d_model": ' + "9" * 4000 + "}", "4000 digits")


def with_numbers(title: str, says: str, **numbers: Any) -> None:
    SPOILERS[title] = (lambda path: edited(path, **numbers), says)


with_numbers("config_too_wide", "config makes", d_model=10**12, num_experts=10**14)
with_numbers("config_of_many_layers", "config makes", num_layers=10**14)
with_numbers("config_of_some_layers", "too few for the", num_layers=60, d_model=1, d_ff=1, d_kv=1, num_heads=1)
with_numbers("config_of_no_width", "impossible: d_model is 0", d_model=0)
with_numbers("config_field_unknown", "unknown field", depth=3)


SCALE = "encoder/blocks/1/switch/wi_scale_ef"
INT8_SPOILERS: dict[str, tuple[Callable[[Path], None], str]] = {}
"""What spoils the structure of a file of int8."""
INT8_NUMBERS: dict[str, tuple[Callable[[Path], None], str]] = {}
"""What spoils its numbers only."""


def retyped(title: str, name: str, kind: Any, says: str) -> None:
    def spoil(path: Path) -> None:
        with replaced(path, name) as (file, values):
            put(file, name, np.ones(values.shape, kind))

    INT8_SPOILERS[title] = (spoil, says)


retyped("weight_of_floats", NAME, "<f4", r"wi_edf in .*mine\.h5 is float32, expected int8 in a file of int8$")
retyped("norm_of_int8", "encoder/norm_d", "i1", r"encoder/norm_d in .* is int8, expected float32 in a file of int8$")
retyped("bias_of_int8", "decoder/bias_rh", "i1", r"decoder/bias_rh in .* is int8, expected float32")
retyped("router_of_int8", "encoder/blocks/1/switch/wr_de", "i1", r"wr_de in .* is int8, expected float32")
retyped("scale_of_int8", SCALE, "i1", r"wi_scale_ef in .* is int8, expected float32")
retyped("weight_of_bytes", NAME, "u1", "holds float32 and int8 and uint8, expected float32, bfloat16, or int8 and float32$")
retyped("scale_of_doubles", SCALE, "<f8", "number type")


def int8_spoiler(says: str) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    def kept(spoil: Callable[[Path], None]) -> Callable[[Path], None]:
        INT8_SPOILERS[spoil.__name__] = (spoil, says)
        return spoil

    return kept


@int8_spoiler(r"mine\.h5 lacks encoder/blocks/1/switch/wi_scale_ef$")
def no_scale(path):
    with replaced(path, SCALE):
        pass


@int8_spoiler(r"mine\.h5 has the unexpected encoder/blocks/1/switch/wr_scale_e$")
def scale_of_what_has_none(path):
    with changed(path) as file:
        put(file, "encoder/blocks/1/switch/wr_scale_e", np.ones(2, "<f4"))


@int8_spoiler(r"wi_scale_ef in .* is \(12, 2\), but this Config makes it \(2, 12\)")
def scale_turned(path):
    with replaced(path, SCALE) as (file, values):
        put(file, SCALE, np.ascontiguousarray(values.T))


@int8_spoiler("expected float32, bfloat16, or int8 and float32")
def scale_of_bfloat16(path):
    bfloat16_of_another_kind(path, 127, SCALE)


@int8_spoiler("config makes")
def int8_config_too_wide(path):
    edited(path, d_ff=10**9)


def number(title: str, name: str, value: float, says: str) -> None:
    def spoil(path: Path) -> None:
        with replaced(path, name) as (file, values):
            values.reshape(-1)[-1] = value
            put(file, name, values)

    INT8_NUMBERS[title] = (spoil, says)


number("minus_128", NAME, -128, r"wi_edf in .*mine\.h5 has 1 values that are not -127 to 127$")
for _title, _value in {
    "negative": -0.1,
    "zero": 0.0,
    "minus_zero": -0.0,
    "nan": np.nan,
    "infinite": np.inf,
    "subnormal": 1e-39,
    "so_large_that_127_times_it_is_not_finite": 2.7e36,
}.items():
    number(f"scale_{_title}", SCALE, _value, r"wi_scale_ef in .* has 1 values that are not scales of 1\.18e-38 to 2\.68e\+36$")
