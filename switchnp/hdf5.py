"""The HDF5 file under `weights`: laid out plainly, and read as data from a stranger.

HDF5 can point into other files, load plugins, inflate bombs and loop for ever. Only what `create` writes is let
through: hard links, fixed-length attributes, and contiguous arrays of four number types, read without the library.
"""

from __future__ import annotations

import atexit
import hashlib
import math
import os
import re
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5o, h5p, h5pl, h5s, h5t

from .errors import SwitchError, WeightsError
from .files import as_path, check_regular, readable, shown
from .forking import free_after_fork

__all__ = ["ITEMSIZE", "LIBRARY", "MAX_ATTRIBUTE", "Opened", "Stored", "blocks", "create", "opened", "sign"]

FORMAT, FORMAT_VERSION = "switchnp", "1"
MAX_OBJECTS, MAX_DEPTH, MAX_NAME, MAX_ATTRIBUTE = 50_000, 16, 512, 60_000
BLOCK = 1 << 20
SIGNATURE = b"\x89HDF\r\n\x1a\n"
NOWHERE = 2**64 - 1
LAYOUTS = {h5d.COMPACT: "compact", h5d.CHUNKED: "chunked", h5d.VIRTUAL: "virtual"}
LIBRARY = free_after_fork(threading.RLock())
"""One thread at a time has a file open: h5py, closing one, looks through the objects of all."""
atexit.register(LIBRARY.acquire)  # Python does not survive its end while a thread is inside h5py
FOREIGN = (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError, AttributeError, MemoryError)


class Stored(NamedTuple):
    """One array as it lies in the file."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    offset: int
    nbytes: int
    sha256: str


class Opened(NamedTuple):
    """A file whose structure is sound; what the attributes say and the numbers are is not known yet."""

    name: str
    descriptor: int
    size: int
    attributes: dict[str, str]
    datasets: tuple[Stored, ...]


def _bfloat16() -> Any:
    kind = h5t.IEEE_F32LE.copy()
    kind.set_fields(15, 7, 8, 0, 7)
    kind.set_size(2)
    kind.set_ebias(127)
    kind.lock()
    return kind


KINDS = {"float32": h5t.IEEE_F32LE, "bfloat16": _bfloat16(), "int8": h5t.STD_I8LE, "uint8": h5t.STD_U8LE}
ITEMSIZE = {name: kind.get_size() for name, kind in KINDS.items()}


@contextmanager
def opened(path: str | os.PathLike[str], attributes: Sequence[str], optional: Sequence[str] = ()) -> Iterator[Opened]:
    """The file at `path`, open for `blocks`, if it has the root `attributes` and nothing that could do harm.

    Raises FileError for the path and WeightsError for the content.
    """
    path = as_path(path)
    name = shown(path)
    _check_head(path, name)
    # Files are replaced, never changed, so a lock would only trouble folders that cannot lock.
    with _explained(name), _without_plugins(), h5py.File(path, "r", locking=False) as file:
        contents = _contents(file.id, attributes, optional, name)
    try:
        yield contents
    finally:
        os.close(contents.descriptor)


def blocks(file: Opened, stored: Stored) -> Iterator[bytes]:
    """One array's bytes, block by block; raises WeightsError after the last if their sha256 is not the stored one."""
    digest = hashlib.sha256()
    for start in range(0, stored.nbytes, BLOCK):
        length = min(BLOCK, stored.nbytes - start)
        with readable(file.name):
            block = os.pread(file.descriptor, length, stored.offset + start)
        _require(len(block) == length, f"{file.name} ends within {stored.path}")
        digest.update(block)
        yield block
    actual = digest.hexdigest()
    expected = f"expected {stored.sha256}"
    _require(actual == stored.sha256, f"{file.name} is damaged: the sha256 of {stored.path} is {actual}, {expected}")


def create(
    path: str | os.PathLike[str], attributes: Mapping[str, str], datasets: Mapping[str, tuple[tuple[int, ...], str]]
) -> dict[str, int]:
    """Write everything but the numbers, and return where in the file each dataset's belong.

    The layout follows from the arguments alone, so the same model is always the same bytes.

    datasets    each one's path, with its shape and its number type
    """
    marked = {"format": FORMAT, "format_version": FORMAT_VERSION, **attributes}
    layout = {"libver": ("v110", "v110"), "alignment_threshold": 1, "alignment_interval": 64}
    with LIBRARY, h5py.File(path, "w", locking=False, **layout) as file:
        for name, text in marked.items():
            file.attrs[name] = np.bytes_(text)
        return {name: _room(file, name, shape, dtype) for name, (shape, dtype) in datasets.items()}


def sign(path: str | os.PathLike[str], digests: Mapping[str, str]) -> None:
    """Write the sha256 of every dataset into the room that `create` left for it."""
    with LIBRARY, h5py.File(path, "r+", libver=("v110", "v110"), locking=False) as file:
        for name, digest in digests.items():
            h5a.open(file[name].id, b"sha256").write(np.array(digest, "S64"))


def _room(file: Any, name: str, shape: tuple[int, ...], dtype: str) -> int:
    group, _, leaf = name.rpartition("/")
    parent = file.require_group(group) if group else file
    plan = h5p.create(h5p.DATASET_CREATE)
    plan.set_layout(h5d.CONTIGUOUS)
    plan.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    plan.set_fill_time(h5d.FILL_TIME_NEVER)
    plan.set_obj_track_times(False)
    dataset = h5d.create(parent.id, leaf.encode(), KINDS[dtype], h5s.create_simple(shape), plan)
    h5py.Dataset(dataset).attrs["sha256"] = np.bytes_("0" * 64)
    return int(dataset.get_offset())


def _check_head(path: Path, name: str) -> None:
    """See that this is a regular file, and one whole HDF5 file from its first byte to its last."""
    check_regular(path)
    with readable(path), open(path, "rb") as stream:
        head, size = stream.read(48), os.fstat(stream.fileno()).st_size
    _require(len(head) > 0, f"{name} is empty, expected an HDF5 file")
    _require(head.startswith(SIGNATURE), f"{name} is not an HDF5 file")
    _require(len(head) == 48, f"{name} ends within its first 48 bytes")
    version, widths, flags = head[8], head[9:11], head[11]
    _require(version in (2, 3) and widths == b"\x08\x08", f"{name} has HDF5 superblock {version}, expected 2 or 3")
    _require(flags == 0, f"{name} was not closed by the program that wrote it")
    base, extension, end = struct.unpack_from("<QQQ", head, 12)
    _require(base == 0 and extension == NOWHERE, f"{name} has an HDF5 superblock extension, expected none")
    _require(end == size, f"{name} has {size} bytes, but its first ones say {end}")


def _contents(file: Any, attributes: Sequence[str], optional: Sequence[str], name: str) -> Opened:
    size = os.fstat(file.get_vfd_handle()).st_size
    texts = _root_attributes(h5g.open(file, b"/"), attributes, optional, name)
    datasets = tuple(_walk(file, name, size))
    _check_extents(datasets, name)
    return Opened(name, os.dup(file.get_vfd_handle()), size, texts, datasets)


def _root_attributes(root: Any, names: Sequence[str], optional: Sequence[str], name: str) -> dict[str, str]:
    """The attributes of the file, once its first two say that they are ours to understand."""
    _require(h5a.exists(root, b"format"), f"{name} is HDF5, but not of switchnp: it has no attribute format")
    found = _text(root, "format", name)
    _require(found == FORMAT, f"{name} is in the format {shown(found)}, expected {FORMAT}")
    version = _text(root, "format_version", name)
    _require(version == FORMAT_VERSION, f"{name} has format_version {shown(version)}, expected {FORMAT_VERSION}")
    names = (*names, *(attribute for attribute in optional if h5a.exists(root, attribute.encode())))
    _check_attributes(root, ("format", "format_version", *names), name)
    return {attribute: _text(root, attribute, name) for attribute in names}


def _walk(root: Any, name: str, size: int) -> Iterator[Stored]:
    """Every dataset, by hard links only and every object once: no loops, no aliases, no other files."""
    seen, todo = {h5o.get_info(root).addr}, [("", h5g.open(root, b"/"))]
    while todo:
        prefix, group = todo.pop()
        _require(len(seen) + group.get_num_objs() <= MAX_OBJECTS, f"{name} has more than {MAX_OBJECTS} objects")
        for link in group:
            path = prefix + _link_name(link, prefix, name)
            where = f"{path} in {name}"
            with _explained(where):
                child = _child(group, link, seen, where)
                if isinstance(child, h5d.DatasetID):
                    yield _stored(child, path, where, size)
                    continue
                _check_attributes(child, (), where)
            _require(path.count("/") + 1 < MAX_DEPTH, f"{name} has groups nested {MAX_DEPTH} deep")
            todo.append((f"{path}/", child))


def _link_name(link: bytes, prefix: str, name: str) -> str:
    plain = len(prefix) + len(link) <= MAX_NAME and re.fullmatch(rb"[!-~]+", link)
    _require(bool(plain), f"{name} has the name {shown(ascii(link))}, expected at most {MAX_NAME} plain ASCII letters")
    return link.decode("ascii")


def _child(group: Any, link: bytes, seen: set[int], where: str) -> Any:
    """Open what a link leads to, after it is known to lead to an object of this file not met before."""
    _require(group.links.get_info(link).type == h5py.h5l.TYPE_HARD, f"{where} is a link elsewhere, expected an array")
    info = h5o.get_info(group, link)
    _require(info.rc == 1 and info.addr not in seen, f"{where} is there under more than one name")
    _require(info.type in (h5o.TYPE_GROUP, h5o.TYPE_DATASET), f"{where} is neither a group nor a dataset")
    seen.add(info.addr)
    return h5g.open(group, link) if info.type == h5o.TYPE_GROUP else h5d.open(group, link)


def _stored(dataset: Any, path: str, where: str, size: int) -> Stored:
    """What a dataset says about itself, if its bytes are plain numbers that lie within the file."""
    plan, kind, space = dataset.get_create_plist(), dataset.get_type(), dataset.get_space()
    _require(plan.get_external_count() == 0, f"{where} is stored in another file")
    _require(plan.get_nfilters() == 0, f"{where} is filtered or compressed, expected plain numbers")
    layout = plan.get_layout()
    _require(layout == h5d.CONTIGUOUS, f"{where} is stored {LAYOUTS.get(layout, 'strangely')}, expected contiguous")
    dtype = next((name for name, known in KINDS.items() if kind.equal(known)), None)
    if dtype is None:
        raise WeightsError(f"{where} has another number type than {', '.join(KINDS)}")
    _require(space.get_simple_extent_type() == h5s.SIMPLE, f"{where} has no shape")
    shape = tuple(int(length) for length in space.get_simple_extent_dims())
    nbytes, offset, held = math.prod(shape) * ITEMSIZE[dtype], dataset.get_offset(), dataset.get_storage_size()
    _require(held == nbytes > 0, f"{where} stores {held} bytes, but its shape {_short(shape)} makes {nbytes}")
    _require(offset is not None and offset + nbytes <= size, f"{where} lies beyond the end of the file")
    _check_attributes(dataset, ("sha256",), where)
    sha256 = _text(dataset, "sha256", where)
    _require(bool(re.fullmatch("[0-9a-f]{64}", sha256)), f"{where} has no sha256 of 64 hexadecimal digits")
    return Stored(path, shape, dtype, int(offset), nbytes, sha256)


def _check_attributes(item: Any, names: Sequence[str], where: str) -> None:
    count, wanted = h5a.get_num_attrs(item), ", ".join(names) or "none"
    present = count == len(names) and all(h5a.exists(item, name.encode()) for name in names)
    _require(present, f"{where} has {count} attributes, expected {wanted}")


def _text(item: Any, name: str, where: str) -> str:
    """A fixed-length text; a variable-length one is refused unread, for if it is damaged HDF5 can crash or hang."""
    _require(h5a.exists(item, name.encode()), f"{where} has no attribute {name}")
    attribute = h5a.open(item, name.encode())
    kind, space = attribute.get_type(), attribute.get_space()
    fixed = isinstance(kind, h5t.TypeStringID) and not kind.is_variable_str()
    scalar = space.get_simple_extent_type() == h5s.SCALAR
    _require(fixed and scalar, f"the attribute {name} of {where} is not one text of fixed length")
    length = kind.get_size()
    _require(length <= MAX_ATTRIBUTE, f"the attribute {name} of {where} is over {MAX_ATTRIBUTE} bytes")
    text = np.empty((), f"S{length}")
    attribute.read(text, mtype=kind)
    return bytes(text[()]).decode("ascii")


def _check_extents(datasets: Sequence[Stored], name: str) -> None:
    for one, other in pairwise(sorted(datasets, key=lambda stored: stored.offset)):
        _require(one.offset + one.nbytes <= other.offset, f"{one.path} and {other.path} in {name} share bytes")


@contextmanager
def _explained(where: str) -> Iterator[None]:
    """Turn whatever h5py raises into one sentence."""
    try:
        yield
    except SwitchError:
        raise
    except FOREIGN as error:
        reason = shown(str(error).strip("'") or type(error).__name__)
        raise WeightsError(f"{where} is damaged or not plain HDF5: {reason}") from None


@contextmanager
def _without_plugins() -> Iterator[None]:
    """HDF5 would load every library in its plugin folders to find an unknown filter, and so run their code."""
    with LIBRARY:
        folders = [h5pl.get(i) for i in range(h5pl.size())]
        for _ in folders:
            h5pl.remove(0)
        try:
            yield
        finally:
            for folder in folders:
                h5pl.append(folder)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise WeightsError(message)


def _short(shape: tuple[int, ...]) -> str:
    return shown(str(shape))
