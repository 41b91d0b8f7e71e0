"""The padded edge: [B, T] arrays and lists from strangers, made one row and put back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .config import Config
from .errors import InputError
from .network import Row

__all__ = ["IGNORED", "Batch", "Edge", "targets_of"]

IGNORED = -100
"""A label where there is nothing to predict."""


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


class Edge:
    """Where [B, T] arrays come in: what a Config allows, and whether padding stays in the row."""

    def __init__(self, config: Config, keeps_padding: bool) -> None:
        self._config, self._keeps_padding = config, keeps_padding

    def batch(self, name: str, ids: Any, mask: ArrayLike | None, like: Batch | None = None) -> Batch:
        """Ids and mask as a row, with as many sentences as another. Raises InputError."""
        array, filled = _rectangle(name, ids, self._config.pad_token_id)
        self._check_range(name, array)
        if like is not None and len(array) != len(like.kept):
            raise InputError(f"{name} has {len(array)} sentences, expected {len(like.kept)} like input_ids")
        visible = filled if mask is None else filled & _given_mask(f"the mask of {name}", mask, array.shape)
        kept = np.ones_like(visible) if self._keeps_padding else visible
        segment, position = np.nonzero(kept)
        return Batch(Row(array[kept], segment, position, visible[kept], len(array)), kept)

    def _check_range(self, name: str, ids: Any) -> None:
        V = self._config.vocab_size
        if ids.min() < 0 or ids.max() >= V:
            worst = ids.min() if ids.min() < 0 else ids.max()
            raise InputError(f"{name} has the id {worst}, expected ids from 0 to {V - 1}")

    def words(
        self, prompts: Batch, ids: ArrayLike | None, mask: ArrayLike | None, labels: ArrayLike | None
    ) -> tuple[Batch, NDArray[np.int64] | None]:
        """What the decoder reads, and what it is to say: given, or the labels shifted right."""
        if labels is None and ids is None:
            raise InputError("decoder_input_ids and labels are both missing, expected one of them")
        if labels is None:
            return self.batch("decoder_input_ids", ids, mask, like=prompts), None
        targets, filled = _rectangle("labels", labels, IGNORED)
        self._check_range("labels", np.where(targets == IGNORED, 0, targets))
        if ids is not None:
            return self.batch("decoder_input_ids", ids, mask, like=prompts), targets
        if mask is not None:
            filled &= _given_mask("the mask of labels", mask, filled.shape)
        return self.batch("labels", self._shifted(targets), filled, like=prompts), targets

    def _shifted(self, targets: NDArray[np.int64]) -> NDArray[np.int64]:
        start = np.full((len(targets), 1), self._config.decoder_start_token_id)
        shifted = np.concatenate([start, targets[:, :-1]], axis=1)
        return np.where(shifted == IGNORED, self._config.pad_token_id, shifted)


def targets_of(words: Batch, targets: Any) -> NDArray[np.int64]:
    """The labels of the words in the row; raises InputError where they are of another shape, or none is to be predicted."""
    if targets.shape != words.kept.shape:
        raise InputError(f"labels are {targets.shape}, expected {words.kept.shape} like decoder_input_ids")
    target_t: NDArray[np.int64] = targets[words.kept]
    if not (target_t >= 0).any():
        raise InputError(f"labels have no word to predict, expected one that is not {IGNORED} or masked")
    return target_t


def _rectangle(name: str, ids: Any, filler: int, kinds: str = "iu") -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Whole numbers as [B, T] and where they were given; unequal lists are filled up."""
    if isinstance(ids, np.ndarray) and ids.ndim == 2 and ids.size and ids.dtype.kind in kinds:
        return _whole_numbers(name, ids.ravel(), kinds).reshape(ids.shape), np.ones(ids.shape, bool)
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


def _given_mask(name: str, mask: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """A mask of 0 and 1 as booleans, of the shape that its ids have."""
    array, _ = _rectangle(name, mask, 0, kinds="iub")
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
