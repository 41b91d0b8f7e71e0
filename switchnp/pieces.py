"""Arrays that come whole or in pieces, as the bytes that a weights file stores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from .errors import WeightsError
from .quantization import output_first, quantized

__all__ = ["checked", "narrowed", "whole_numbers"]

FLOATS = ("float16", "bfloat16", "float32", "float64")
PIECE = 1 << 20


def checked(path: str, given: Any, shape: tuple[int, ...]) -> Iterator[np.ndarray[Any, Any]]:
    """An array, or its pieces, if they follow each other along the first axis to make `shape`."""
    rows = 0
    for piece in [given] if hasattr(given, "shape") else given:
        array = np.asarray(piece)
        if array.dtype.name not in FLOATS:
            raise WeightsError(f"{path} is {array.dtype}, expected one of {', '.join(FLOATS)}")
        rows += len(array) if array.ndim else 0
        if array.shape[1:] != shape[1:] or array.ndim != len(shape) or rows > shape[0]:
            raise WeightsError(f"{path} is {(rows, *array.shape[1:])}, but this Config makes it {shape}")
        yield array
    if rows != shape[0]:
        raise WeightsError(f"{path} is {(rows, *shape[1:])}, but this Config makes it {shape}")


def narrowed(path: str, pieces: Iterable[np.ndarray[Any, Any]], dtype: np.dtype[Any]) -> Iterator[bytes]:
    """The bytes to store, in blocks; values that are no finite numbers, or become none, are refused."""
    for piece in pieces:
        flat = np.ascontiguousarray(piece).reshape(-1)
        for start in range(0, flat.size, PIECE):
            yield _finite(path, flat[start : start + PIECE], dtype).tobytes()


def whole_numbers(path: str, pieces: Iterable[np.ndarray[Any, Any]], scales: list[bytes]) -> Iterator[bytes]:
    """The int8 of an array, in blocks; their scales are added to `scales`."""
    for block in _alone(path, pieces):
        whole, scale = quantized(path, _finite(path, block, np.dtype("<f4"), "int8"))
        scales.append(scale.astype("<f4").tobytes())
        yield whole.tobytes()


def _finite(path: str, values: np.ndarray[Any, Any], dtype: np.dtype[Any], name: str = "") -> np.ndarray[Any, Any]:
    """The values as `dtype` by way of float32, if it can hold them all."""
    with np.errstate(over="ignore", invalid="ignore"):
        values = values.astype(np.float32).astype(dtype)
        strange = values.size - np.count_nonzero(np.isfinite(values))
    if strange:
        raise WeightsError(f"{path} has {strange} values that {name or dtype.name} cannot hold as finite numbers")
    return values


def _alone(path: str, pieces: Iterable[np.ndarray[Any, Any]]) -> Iterator[np.ndarray[Any, Any]]:
    """The pieces cut or joined to blocks that have their scales to themselves."""
    if not output_first(path):
        joined = list(pieces)
        yield joined[0] if len(joined) == 1 else np.concatenate(joined)
        return
    for piece in pieces:
        step = max(1, PIECE * len(piece) // max(1, piece.size))
        yield from (piece[start : start + step] for start in range(0, len(piece), step))
