"""The tensors of a Hugging Face folder, by name: safetensors or torch pickles, single or sharded.

A checkpoint is data from a stranger: everything is checked before anything is believed.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from ..errors import FileError, MissingExtra, WeightsError
from ..files import check_regular, readable, shown
from ..strictjson import json_object

__all__ = ["Tensors", "open_tensors", "read_json"]

MAX_JSON = 256 * 1024**2
MAX_PICKLE = 64 * 1024**2


class Tensors(NamedTuple):
    """What a folder holds: each tensor's shape, and a function that reads one."""

    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], NDArray[Any]]


def open_tensors(folder: Path) -> Tensors:
    """The folder's tensors; of several layouts the first of LAYOUTS that is there.

    Raises FileError where there is none, WeightsError where one is damaged, MissingExtra where it needs torch.
    """
    with readable(folder):
        if not folder.is_dir():
            raise FileError(f"{shown(folder)} is no folder, expected a Hugging Face model folder")
        present = set(os.listdir(folder))
    for name, opener in LAYOUTS.items():
        if name in present:
            return opener(folder / name)
    raise FileError(f"{shown(folder)} has no weights, expected one of {', '.join(LAYOUTS)}")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of bounded size, without duplicate keys."""
    check_regular(path)
    with readable(path):
        size = path.stat().st_size
        if size > MAX_JSON:
            raise WeightsError(f"{shown(path)} has {size} bytes, expected a JSON file of at most {MAX_JSON}")
        return _json(path.read_bytes(), shown(path))


def _json(raw: bytes, where: str) -> dict[str, Any]:
    try:
        return json_object(raw)
    except ValueError as error:
        raise WeightsError(f"{where} is not sound JSON: {shown(error)}") from None


def _one_safetensors(path: Path) -> Tensors:
    shapes = _safetensors_shapes(path)
    return Tensors(shapes, lambda name: _read_safetensor(path, name))


def _safetensors_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    from safetensors import SafetensorError, safe_open

    check_regular(path)
    with readable(path):
        path.open("rb").close()
    shapes = {}
    try:
        with safe_open(path, framework="numpy") as file:
            names = file.keys()
            for name in names:
                view = file.get_slice(name)
                shapes[name] = tuple(view.get_shape())
                if view.get_dtype() not in ("F32", "F16", "BF16"):
                    found = f"{shown(name)} in {shown(path)} is {view.get_dtype()}"
                    raise WeightsError(f"{found}, expected F32, F16 or BF16")
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{shown(path)} is not a sound safetensors file: {shown(error)}") from None
    _refuse_duplicates(path)
    return shapes


def _refuse_duplicates(path: Path) -> None:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        _json(file.read(length), f"the header of {shown(path)}")


def _read_safetensor(path: Path, name: str) -> NDArray[Any]:
    # Opened anew for each tensor: what is mapped counts as memory until the file is closed.
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{shown(name)} in {shown(path)} cannot be read: {shown(error)}") from None


def _one_pickle(path: Path) -> Tensors:
    state = _torch_state(path)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    return Tensors(shapes, lambda name: _numpy(state[name]))


def _torch_state(path: Path) -> dict[str, Any]:
    torch = _torch()
    check_regular(path)
    zipped = zipfile.is_zipfile(path)
    if zipped:
        _refuse_zip_bombs(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped or None)
    except Exception as error:
        raise WeightsError(f"{shown(path)} is not a sound torch file: {shown(str(error).partition(chr(10))[0])}") from None
    floats = (torch.float32, torch.float16, torch.bfloat16)
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise WeightsError(f"{shown(path)} holds a {type(state).__name__}, expected tensors by name")
    for name, tensor in state.items():
        if not isinstance(tensor, torch.Tensor) or tensor.dtype not in floats:
            kind = getattr(tensor, "dtype", type(tensor).__name__)
            raise WeightsError(f"{shown(name)} in {shown(path)} is {kind}, expected a float32, float16 or bfloat16 tensor")
    return state


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise MissingExtra("a .bin checkpoint needs torch, expected: pip install 'switchnp[torch]'") from None
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 6):
        raise MissingExtra(f"torch is {torch.__version__}, expected 2.6 or newer (older ones run code from a .bin file)")
    return torch


def _refuse_zip_bombs(path: Path) -> None:
    try:
        members = zipfile.ZipFile(path).infolist()
    except zipfile.BadZipFile as error:
        raise WeightsError(f"{shown(path)} is not a sound torch file: {shown(error)}") from None
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED:
            raise WeightsError(f"{shown(member.filename)} in {shown(path)} is compressed, expected it stored as torch does")
        if member.filename.endswith(".pkl") and member.file_size > MAX_PICKLE:
            said = f"{shown(member.filename)} in {shown(path)} has {member.file_size} bytes"
            raise WeightsError(f"{said}, expected at most {MAX_PICKLE}")


def _numpy(tensor: Any) -> NDArray[Any]:
    return tensor.detach().float().contiguous().numpy()


def _sharded(index: Path, opener: Callable[[Path], Tensors]) -> Tensors:
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(file, str) for file in where.values()):
        raise WeightsError(f"{shown(index)} has no weight_map from tensors to files")
    if strange := [file for file in where.values() if file != os.path.basename(file) or file in ("", ".", "..")]:
        raise WeightsError(f"{shown(index)} names the file {shown(strange[0])}, expected plain names inside the folder")
    shards = {file: opener(index.parent / file) for file in sorted(set(where.values()))}
    if lost := [name for name, file in where.items() if name not in shards[file].shapes]:
        said = f"{shown(lost[0])} is not in {shown(where[lost[0]])}, where {shown(index)} says it is"
        raise WeightsError(f"{said} ({len(lost)} such in all)")
    homes = {name: file for file, shard in shards.items() for name in shard.shapes} | where
    shapes = {name: shards[file].shapes[name] for name, file in homes.items()}
    return Tensors(shapes, lambda name: shards[homes[name]].read(name))


LAYOUTS: dict[str, Callable[[Path], Tensors]] = {
    "model.safetensors": _one_safetensors,
    "model.safetensors.index.json": lambda index: _sharded(index, _one_safetensors),
    "pytorch_model.bin": _one_pickle,
    "pytorch_model.bin.index.json": lambda index: _sharded(index, _one_pickle),
}
