"""Weights as int8: which arrays, by which scales, there and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError

__all__ = ["LARGEST", "SCALES", "SMALLEST", "output_first", "quantized", "scale_path", "widened"]

SCALES = {
    "wq_dhk": "wq_scale_hk",
    "wk_dhk": "wk_scale_hk",
    "wv_dhk": "wv_scale_hk",
    "wo_hkd": "wo_scale_d",
    "wi_df": "wi_scale_f",
    "wi0_df": "wi0_scale_f",
    "wi1_df": "wi1_scale_f",
    "wo_fd": "wo_scale_d",
    "wi_edf": "wi_scale_ef",
    "wi0_edf": "wi0_scale_ef",
    "wi1_edf": "wi1_scale_ef",
    "wo_efd": "wo_scale_ed",
    "embedding_vd": "embedding_scale_v",
    "head_vd": "head_scale_v",
}
"""Every array that may be int8, and its scale; axes that the scale has not are those that a matrix product adds up."""

LEVELS = np.float32(127)
SMALLEST = np.finfo(np.float32).tiny
LARGEST = np.nextafter(np.finfo(np.float32).max / LEVELS, np.float32(0))
"""Between these a scale is a normal number and 127 times it is finite."""

BLOCK = 1 << 20


def scale_path(path: str) -> str | None:
    """Where the scale of an array lies, if the array may be int8."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{SCALES[name]}" if name in SCALES else None


def output_first(path: str) -> bool:
    """Whether rows of this array have scales of their own, so that each can be quantized alone."""
    return 0 not in _inputs(path)


def quantized(path: str, w: NDArray[Any]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """The array at `path` as whole numbers of -127..127, and a scale for each output unit.

        scale = max |w| / 127 over the input axes,    int8 = w / scale, rounded to nearest even

    A unit of zeros has the smallest scale there is. Raises InputError where `w` is not finite.
    """
    w, inputs = np.asarray(w, np.float32), _inputs(path)
    most = np.maximum(w.max(inputs), -w.min(inputs))
    if not np.isfinite(most).all():
        raise InputError(f"{path} has values that are no finite numbers, expected only such for int8")
    scale = np.clip(most / LEVELS, SMALLEST, LARGEST)
    whole, spread = np.empty(w.shape, np.int8), np.broadcast_to(np.expand_dims(scale, inputs), w.shape)
    step = max(1, BLOCK * len(w) // w.size)
    for start in range(0, len(w), step):
        rows = slice(start, start + step)
        whole[rows] = np.rint(w[rows] / spread[rows])
    return whole, scale


def widened(path: str, whole: NDArray[np.int8], scale: NDArray[np.float32], dtype: Any = np.float32) -> NDArray[Any]:
    """What an int8 array stands for: whole * scale, rounded to float32, as an array of `dtype`."""
    spread = np.expand_dims(scale, _inputs(path))
    return np.multiply(whole, spread, out=np.empty(whole.shape, dtype), dtype=np.float32)


def _inputs(path: str) -> tuple[int, ...]:
    """The axes that a matrix product adds up."""
    name = path.rpartition("/")[2]
    axes, kept = (it.rpartition("_")[2] for it in (name, SCALES[name]))
    return tuple(i for i, letter in enumerate(axes) if letter not in kept)
