"""The weights as the engine reads them: each matrix where it lies, in float32, bfloat16 or int8, and all else in float32."""

from __future__ import annotations

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from ..quantization import SCALES, quantized, widened
from ..tree import Tree
from .instructions import BFLOAT16, FLOAT32, FOLDS, INT8, WIDENED
from .weight import Weight

__all__ = ["ENOUGH", "Matrix", "packed"]

ENOUGH = 1 << 23
"""So many multiplications are worth a second thread, and twice as many where quads are one (benchmarks/threads.py)."""


class Matrix(NamedTuple):
    """One array of weights, or one for each expert, and how many threads multiply by it; its last axis is that of a row."""

    array: Any
    scale: Any
    kind: int
    threads: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return self.array.shape

    def crew(self, inputs: int, more: int = 0) -> int:
        """How many threads are worth their waking for so many inputs, and so many multiplications more."""
        rows, columns = self.shape[-2:]
        enough = ENOUGH * max(1, FOLDS[self.kind] // 2)
        return self.threads if inputs * rows * columns + more >= enough else 1

    @property
    def weight(self) -> Weight:
        """For compiled code; the array must live as long."""
        return Weight(self.array.ctypes.data, self.scale.ctypes.data, self.shape[-1])


def packed(params: Tree, dtype: str | None, threads: int) -> Tree:
    """The weights of a Tree of arrays (of any kind, int8 with its scales beside it), converted where `dtype` asks for another.

    What has the right kind is used where it lies, also in a file that is mapped. Stored bfloat16 is right for float32 too: it is
    widened, exactly, as it is read.
    """
    leaves = dict(params.leaves())
    found: dict[str, Any] = {}
    for path, array in leaves.items():
        name = path.rpartition("/")[2]
        if name in SCALES:
            scale = leaves.get(path.removesuffix(name) + SCALES[name])
            found[path] = _matrix(path, array, scale, dtype, threads)
        elif name not in SCALES.values():
            found[path] = np.ascontiguousarray(array, np.float32).view()
            found[path].flags.writeable = False  # as in a file that is mapped: to Numba another type
    return Tree.of(found)


def _matrix(path: str, array: Any, scale: Any, dtype: str | None, threads: int) -> Matrix:
    stored = array.dtype.name
    wanted = dtype or ("int8" if stored == "int8" else "float32")
    if stored == "int8" and wanted != "int8":
        array, scale = widened(path, array, scale), None
    elif wanted == "int8" and stored != "int8":
        array, scale = quantized(path, np.asarray(array, np.float32))
    if wanted == "bfloat16":
        array = np.asarray(array, ml_dtypes.bfloat16)
    kinds = {"float32": FLOAT32, "int8": INT8, "bfloat16": BFLOAT16 if wanted == "bfloat16" else WIDENED}
    if path.endswith("_dhk"):
        array = array.reshape(len(array), -1)
    scale = np.ones(1, np.float32) if scale is None else np.ascontiguousarray(scale)
    return Matrix(np.ascontiguousarray(array), scale, kinds[array.dtype.name], threads)
