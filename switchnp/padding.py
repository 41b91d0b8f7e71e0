"""The padded edge: [B, T] arrays and lists from strangers, made one row and put back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import InputError
from .network import Row

__all__ = ["Batch", "given_mask", "rectangle"]


@dataclass(frozen=True, eq=False)
class Batch:
    """A padded batch as one row; `kept` [B, T] says which of its places are in the row."""

    row: Row
    kept: NDArray[np.bool_]

    def padded(self, x_t: NDArray[Any]) -> NDArray[Any]:
        """The row's values back in their places; zero where a place is not in the row."""
        padded = np.zeros((*self.kept.shape, *x_t.shape[1:]), x_t.dtype)
        padded[self.kept] = x_t
        return padded


def rectangle(name: str, ids: Any, filler: int, kinds: str = "iu") -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Whole numbers as [B, T] and where they were given; unequal lists are filled up."""
    ragged = isinstance(ids, (list, tuple)) and any(isinstance(row, (list, tuple, np.ndarray)) for row in ids)
    rows: Sequence[Any] = ids if ragged else [ids]
    if not ragged and _array(name, ids).ndim == 2:
        rows = list(_array(name, ids))
    arrays = [_whole_numbers(name, row, kinds) for row in rows]
    if not arrays or not all(len(array) for array in arrays):
        raise InputError(f"{name} has {'a sentence without tokens' if arrays else 'no sentences'}, expected at least one")
    width = max(len(array) for array in arrays)
    filled = np.arange(width) < np.array([[len(array)] for array in arrays])
    padded = np.full(filled.shape, filler)
    padded[filled] = np.concatenate(arrays)
    return padded, filled


def given_mask(name: str, mask: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """A mask of 0 and 1 as booleans, of the shape that its ids have."""
    array, _ = rectangle(name, mask, 0, kinds="iub")
    if array.shape != shape:
        raise InputError(f"{name} is {array.shape}, expected {shape} like its ids")
    if not np.isin(array, (0, 1)).all():
        raise InputError(f"{name} has other values than 0 and 1, expected 1 where there is a token and 0 where there is none")
    return array.astype(bool)


def _whole_numbers(name: str, row: Any, kinds: str) -> NDArray[np.int64]:
    array = _array(name, row)
    if array.ndim != 1:
        raise InputError(f"{name} has sentences of {array.ndim} axes, expected [B, T] or [T] in all")
    if array.size and array.dtype.kind not in kinds:
        raise InputError(f"{name} has dtype {array.dtype}, expected whole numbers")
    if array.size and array.max() > np.iinfo(np.int64).max:
        raise InputError(f"{name} has the id {array.max()}, expected ids of at most 64 bits with sign")
    return array.astype(np.int64)


def _array(name: str, values: Any) -> NDArray[Any]:
    try:
        return np.asarray(values)
    except Exception:
        raise InputError(f"{name} is no array, expected [B, T] whole numbers or lists of them") from None
