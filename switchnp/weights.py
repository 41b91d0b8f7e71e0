"""A whole model in one HDF5 file: its weights, Config, Routing, tokenizer and where it came from.

docs/weights-format.md describes the file. A weights file is data from a stranger, so `read` believes nothing in it.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from . import hdf5
from .config import Config
from .errors import ConfigError, InputError, TokenizerError, WeightsError
from .files import as_path, readable, replacing, shown, writable
from .hdf5 import Opened, Stored
from .params import blueprint, check_shapes, layout
from .pieces import checked, narrowed, whole_numbers
from .quantization import LARGEST, SCALES, SMALLEST, scale_path, widened
from .routing import Routing
from .search import GenerationConfig
from .strictjson import json_object
from .tokenizer import Tokenizer
from .tree import Tree

__all__ = ["Header", "check_vocabulary", "mapped", "read", "read_header", "save", "verify", "write"]

ATTRIBUTES, OPTIONAL = ("config", "routing", "provenance"), ("generation",)
NUMPY = {"float32": np.dtype("<f4"), "bfloat16": np.dtype(ml_dtypes.bfloat16), "int8": np.dtype(np.int8)}
MIXTURES = {("float32",): "float32", ("bfloat16",): "bfloat16", ("float32", "int8"): "int8"}
"""The number types that a file's arrays have together, and what that is called."""
WORKERS = 4
ALIGNMENT = 64
MAX_TOKENIZER = 1 << 26
MAX_TEXT = 200


class Header(NamedTuple):
    """What a weights file says besides its weights.

    dtype        how the numbers are stored: "float32", "bfloat16", or "int8" with scales
    tokenizer    the SentencePiece model, if the file brings one
    generation   how the model's answers are searched for, unless told otherwise
    """

    config: Config
    routing: Routing
    provenance: dict[str, str]
    dtype: str
    tokenizer: bytes | None
    generation: GenerationConfig = GenerationConfig()


def read(path: str | os.PathLike[str], dtype: str = "float32") -> tuple[Tree, Header]:
    """Every weight as a NumPy array of `dtype` ("float32" or "float64"), and the header; everything is verified.

    Raises FileError for the path and WeightsError for the content.
    """
    if dtype not in ("float32", "float64"):
        raise InputError(f"dtype is {dtype!r}, expected float32 or float64")
    with hdf5.opened(path, ATTRIBUTES, OPTIONAL) as file:
        header, arrays = _header(file)
        stored, paths = {array.path: array for array in arrays}, blueprint(header.config)
        with ThreadPoolExecutor(WORKERS) as pool:
            leaves = pool.map(lambda path: _weight(file, stored, path, np.dtype(dtype)), paths)
            return Tree.of(dict(zip(paths, leaves, strict=True))), header


def mapped(path: str | os.PathLike[str], verify: bool = False) -> tuple[Tree, Header]:
    """Every array as the file stores it, without reading any: read-only views of the file, mapped into memory.

    The structure is verified as `read` does it; the numbers (their sha256, and whether they are finite) only with `verify`.
    An int8 array has its scale beside it (`quantization.SCALES`); bfloat16 is that of ml_dtypes. A file that is replaced, as
    `write` does it, does not change what is mapped; one that another program cuts short while it is mapped kills this process
    (SIGBUS) when the lost part is read.

    Raises FileError for the path and WeightsError for the content.
    """
    with hdf5.opened(path, ATTRIBUTES, OPTIONAL) as file:
        header, arrays = _header(file)
        for stored in arrays:
            if stored.offset % ALIGNMENT:
                begins = f"{stored.path} in {file.name} begins at byte {stored.offset}"
                raise WeightsError(f"{begins}, expected a multiple of {ALIGNMENT} for a file that is mapped")
        if verify:
            _verify(file, arrays)
        with readable(file.name):
            whole = mmap.mmap(file.descriptor, file.size, access=mmap.ACCESS_READ)
            _wish_large_pages(whole)
    leaves = {stored.path: _view(whole, stored) for stored in arrays}
    return Tree.of(leaves), header


def read_header(path: str | os.PathLike[str]) -> tuple[Header, tuple[Stored, ...]]:
    """The header, and where each array lies; the structure is verified, but no weight is read."""
    with hdf5.opened(path, ATTRIBUTES, OPTIONAL) as file:
        return _header(file)


def verify(path: str | os.PathLike[str]) -> None:
    """See that `read` and the tokenizer would take the file, with no more than a block of it in memory."""
    with hdf5.opened(path, ATTRIBUTES, OPTIONAL) as file:
        header, arrays = _header(file)
        _verify(file, arrays)
    if header.tokenizer is not None:
        check_vocabulary(Tokenizer(header.tokenizer), header.config)


def check_vocabulary(tokenizer: Tokenizer, config: Config) -> None:
    """Raise TokenizerError where a tokenizer has tokens that the model does not know."""
    if tokenizer.vocab_size > config.vocab_size:
        raise TokenizerError(f"the tokenizer has {tokenizer.vocab_size} tokens, expected at most {config.vocab_size}")


def save(
    path: str | os.PathLike[str],
    params: Tree,
    config: Config,
    routing: Routing,
    *,
    dtype: str = "float32",
    tokenizer: bytes | None = None,
    provenance: Mapping[str, str] | None = None,
    generation: GenerationConfig | None = None,
    force: bool = False,
) -> None:
    """`write` for weights that are all there, as a Tree."""
    check_shapes(params, config)
    arrays = dict(params.leaves())
    more: dict[str, Any] = {"tokenizer": tokenizer, "provenance": provenance, "generation": generation}
    write(path, config, routing, arrays, dtype=dtype, force=force, **more)


def write(
    path: str | os.PathLike[str],
    config: Config,
    routing: Routing,
    arrays: Mapping[str, Any] | Iterable[tuple[str, Any]],
    *,
    dtype: str = "float32",
    tokenizer: bytes | None = None,
    provenance: Mapping[str, str] | None = None,
    generation: GenerationConfig | None = None,
    force: bool = False,
) -> None:
    """Write a weights file whole or not at all; until its last moment a file that was there stays as it was.

    arrays        by tree path, in any order: an array, or an iterator of pieces of it that follow each other along
                  the first axis, so that a model larger than memory can be written
    dtype         "float32", "bfloat16", or "int8" with a scale for each output unit (`quantization`), rounded to nearest
                  even (float64 by way of float32)
    provenance    what a reader may want to know of where the weights come from: names and texts
    generation    how the model's answers are searched for, unless told otherwise
    force         overwrite an existing file
    """
    attributes = _attributes(config, routing, dtype, tokenizer, provenance or {}, generation or GenerationConfig())
    stored = layout(config, dtype)
    extra = {} if tokenizer is None else {"tokenizer": ((len(tokenizer),), "uint8")}
    nbytes = sum(math.prod(shape) * hdf5.ITEMSIZE[kind] for shape, kind in (stored | extra).values())
    needed = nbytes + 2048 * (len(stored) + 32)
    target = as_path(path)
    with replacing(target, needed, force) as temporary:
        with writable(target):
            offsets = hdf5.create(temporary, attributes, stored | extra)
        with open(temporary, "r+b", buffering=0) as stream:
            out = _Output(target, stream.fileno(), offsets)
            digests = dict(_fill(out, arrays, blueprint(config), dtype))
            if tokenizer is not None:
                digests["tokenizer"] = _put(out, "tokenizer", [tokenizer])
        with writable(target):
            hdf5.sign(temporary, digests)


class _Output(NamedTuple):
    path: str | os.PathLike[str]
    descriptor: int
    offsets: dict[str, int]


def _header(file: Opened) -> tuple[Header, tuple[Stored, ...]]:
    config = _parsed(Config, file, "config")
    routing = _parsed(Routing, file, "routing")
    if routing.needs_bias and not config.router_bias:
        raise WeightsError(f"{file.name} has the router 'bias', but its config has no router_bias")
    arrays = tuple(stored for stored in file.datasets if stored.path != "tokenizer")
    dtype = _dtype(file, arrays)
    _check_size(config, file, len(arrays), dtype)
    _check_arrays(layout(config, dtype), file, arrays)
    generation = _parsed(GenerationConfig, file, "generation") if "generation" in file.attributes else GenerationConfig()
    return Header(config, routing, _provenance(file), dtype, _tokenizer(file), generation), arrays


def _dtype(file: Opened, arrays: tuple[Stored, ...]) -> str:
    dtypes = tuple(sorted({stored.dtype for stored in arrays}))
    if dtypes not in MIXTURES:
        expected = "float32, bfloat16, or int8 and float32"
        raise WeightsError(f"{file.name} holds {' and '.join(dtypes) or 'no arrays'}, expected {expected}")
    return MIXTURES[dtypes]


def _check_size(config: Config, file: Opened, arrays: int, dtype: str) -> None:
    """Bound the config by the file before anything is built from it."""
    nbytes = config.num_parameters * hdf5.ITEMSIZE[dtype]
    if nbytes > file.size:
        raise WeightsError(f"{file.name} has {file.size} bytes, but its config makes {nbytes} bytes of weights")
    layers = config.num_layers + config.num_decoder_layers
    if layers > arrays:
        raise WeightsError(f"{file.name} has {arrays} arrays, too few for the {layers} layers of its config")


def _check_arrays(expected: Mapping[str, tuple[tuple[int, ...], str]], file: Opened, arrays: tuple[Stored, ...]) -> None:
    actual = {stored.path: stored for stored in arrays}
    missing, unexpected = [sorted(a.keys() - b.keys()) for a, b in ((expected, actual), (actual, expected))]
    if missing or unexpected:
        sides = (("lacks", missing), ("has the unexpected", unexpected))
        faults = " and ".join(f"{what} {_some(names)}" for what, names in sides if names)
        raise WeightsError(f"{file.name} {faults}")
    for path, (shape, dtype) in expected.items():
        if actual[path].shape != shape:
            found = shown(str(actual[path].shape))
            raise WeightsError(f"{path} in {file.name} is {found}, but this Config makes it {shape}")
        if actual[path].dtype != dtype:
            raise WeightsError(f"{path} in {file.name} is {actual[path].dtype}, expected {dtype} in a file of int8")


def _tokenizer(file: Opened) -> bytes | None:
    stored = next((stored for stored in file.datasets if stored.path == "tokenizer"), None)
    if stored is None:
        return None
    if stored.dtype != "uint8" or len(stored.shape) != 1 or stored.nbytes > MAX_TOKENIZER:
        found = f"{stored.dtype} {shown(str(stored.shape))}"
        raise WeightsError(f"tokenizer in {file.name} is {found}, expected at most {MAX_TOKENIZER} bytes in a row")
    return b"".join(hdf5.blocks(file, stored))


def _verify(file: Opened, arrays: Iterable[Stored]) -> None:
    with ThreadPoolExecutor(WORKERS) as pool:
        for _ in pool.map(lambda stored: sum(0 for _ in _values(file, stored)), arrays):
            pass


def _wish_large_pages(whole: mmap.mmap) -> None:
    """Ask for pages of 2 MB where the system reads the file: it comes in larger pieces, and its addresses are found faster."""
    with suppress(AttributeError, OSError):
        whole.madvise(mmap.MADV_HUGEPAGE)


def _view(whole: mmap.mmap, stored: Stored) -> np.ndarray[Any, Any]:
    return np.frombuffer(whole, NUMPY[stored.dtype], math.prod(stored.shape), stored.offset).reshape(stored.shape)


def _weight(file: Opened, arrays: Mapping[str, Stored], path: str, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    stored, scale = arrays[path], scale_path(path)
    if stored.dtype != "int8" or scale is None:
        return _array(file, stored, dtype)
    return widened(path, _array(file, stored, NUMPY["int8"]), _array(file, arrays[scale], NUMPY["float32"]), dtype)


def _array(file: Opened, stored: Stored, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """One array, widened block by block, so that no more than the array and a block is in memory."""
    array = np.empty(stored.shape, dtype)
    flat, start = array.reshape(-1), 0
    for values in _values(file, stored):
        with np.errstate(invalid="ignore"):  # a signalling NaN is refused by `_values`, not warned of
            flat[start : start + values.size] = values
        start += values.size
    return array


def _values(file: Opened, stored: Stored) -> Iterator[np.ndarray[Any, Any]]:
    """One array's numbers, block by block; after the last, raises WeightsError if any was not what it must be."""
    strange, (sound, wanted) = 0, _demand(stored)
    for block in hdf5.blocks(file, stored):
        values = _numbers(block, stored.dtype)
        strange += values.size - int(np.count_nonzero(sound(values)))
        yield values
    if strange:
        raise WeightsError(f"{stored.path} in {file.name} has {strange} values that are not {wanted}")


def _demand(stored: Stored) -> tuple[Callable[[Any], Any], str]:
    """What every number of an array must be, as a function and in words."""
    if stored.dtype == "int8":
        return (lambda whole: whole != -128), "-127 to 127"
    if stored.path.rpartition("/")[2] in SCALES.values():
        return (lambda scale: (scale >= SMALLEST) & (scale <= LARGEST)), f"scales of {SMALLEST:.3g} to {LARGEST:.3g}"
    return np.isfinite, "finite numbers"


def _numbers(block: bytes, dtype: str) -> np.ndarray[Any, Any]:
    if dtype != "bfloat16":
        return np.frombuffer(block, NUMPY[dtype])
    return (np.frombuffer(block, "<u2").astype(np.uint32) << 16).view(np.float32)


def _parsed(kind: Any, file: Opened, name: str) -> Any:
    try:
        return kind.from_json(file.attributes[name])
    except ConfigError as error:
        raise WeightsError(f"the {name} of {file.name} is impossible: {shown(str(error))}") from None


def _provenance(file: Opened) -> dict[str, str]:
    try:
        found = json_object(file.attributes["provenance"])
    except ValueError as error:
        raise WeightsError(f"the provenance of {file.name} is not good JSON: {shown(str(error))}") from None
    if not _is_plain(found):
        raise WeightsError(f"the provenance of {file.name} is not a table of {MAX_TEXT} printable characters each")
    return found


def _is_plain(provenance: Mapping[Any, Any]) -> bool:
    texts = [text for pair in provenance.items() for text in pair]
    return all(isinstance(text, str) and text.isprintable() and len(text) <= MAX_TEXT for text in texts)


def _attributes(
    config: Config,
    routing: Routing,
    dtype: str,
    tokenizer: bytes | None,
    provenance: Mapping[str, str],
    generation: GenerationConfig,
) -> dict[str, str]:
    """The texts of the header, once the arguments of `write` are known to be sound."""
    if dtype not in NUMPY:
        raise InputError(f"dtype is {dtype!r}, expected {', '.join(NUMPY)}")
    if routing.needs_bias and not config.router_bias:
        raise InputError("the router is 'bias', expected a Config with router_bias for that")
    if tokenizer is not None and not 0 < len(tokenizer) <= MAX_TOKENIZER:
        raise InputError(f"the tokenizer has {len(tokenizer)} bytes, expected 1 to {MAX_TOKENIZER}")
    if not _is_plain(provenance):
        raise InputError(f"the provenance is not a table of names and texts, expected {MAX_TEXT} printable characters each")
    texts = {"config": config.to_json(), "routing": routing.to_json()}
    texts["provenance"] = json.dumps(dict(provenance), sort_keys=True)
    if generation != GenerationConfig():
        texts["generation"] = generation.to_json()
    for name, text in texts.items():
        if len(text) > hdf5.MAX_ATTRIBUTE:
            raise InputError(f"the {name} is {len(text)} bytes of JSON, expected up to {hdf5.MAX_ATTRIBUTE}")
    return texts


def _fill(out: _Output, arrays: Any, shapes: Mapping[str, tuple[int, ...]], dtype: str) -> Iterator[tuple[str, str]]:
    """Write each array where it belongs; yields the path and sha256 of all that is stored."""
    missing = set(shapes)
    for path, given in arrays.items() if isinstance(arrays, Mapping) else arrays:
        if path not in missing:
            raise WeightsError(f"{shown(path)} {'came twice' if path in shapes else 'is not part of this Config'}")
        missing.remove(path)
        pieces, scale = checked(path, given, shapes[path]), scale_path(path)
        if dtype == "int8" and scale is not None:
            scales: list[bytes] = []
            yield path, _put(out, path, whole_numbers(path, pieces, scales))
            yield scale, _put(out, scale, scales)
        else:
            yield path, _put(out, path, narrowed(path, pieces, NUMPY["float32" if dtype == "int8" else dtype]))
    if missing:
        raise WeightsError(f"{_some(sorted(missing))} did not come, but this Config needs it")


def _put(out: _Output, path: str, blocks: Iterable[bytes]) -> str:
    digest, offset = hashlib.sha256(), out.offsets[path]
    for block in blocks:
        digest.update(block)
        rest = memoryview(block)
        while rest:
            with writable(out.path):
                written = os.pwrite(out.descriptor, rest, offset)
            rest, offset = rest[written:], offset + written
    return digest.hexdigest()


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
