"""How weights move: AdamW and Adafactor over a tree of arrays, in place, in one pass or by blocks that fit the cache."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .kernels.jit import REASSOCIATE, jit
from .records import require, shortened
from .threads import both
from .tree import Tree

__all__ = ["OPTIMIZERS", "Adafactor", "AdamW", "clip"]

Array = NDArray[Any]
BLOCK = 1 << 15
"""Entries of an array that Adafactor works on at a time: weights, gradient and a buffer of so many stay in the L2 cache."""

UNDECAYED = ("norm_d", "bias_rh", "br_e")
FACTORED = 128
"""Adafactor factors a matrix only where neither side is shorter."""


def clip(grads: Tree, norm: float) -> float:
    """Scale all gradients together, in place, so that their norm is at most `norm`; return what it was before.

        g = g min(1, norm / |g|),    |g| = sqrt(sum of all squares)

    A norm that is no finite number is returned, and nothing is scaled. Raises InputError unless `norm` is above 0.

    Source: Pascanu et al. 2013, algorithm 1.
    """
    if not norm > 0:
        raise InputError(f"a gradient is to be clipped to the norm {norm!r:.60}, expected one above 0")
    one, other = _halves([grad for _, grad in grads.leaves()])
    before = math.sqrt(math.fsum(itertools.chain(*both(_squares, (one,), (other,)))))
    if norm < before < math.inf:
        both(_scale, (one, float(norm / before)), (other, float(norm / before)))
    return before


class _Optimizer:
    """What every optimizer keeps: the weights it moves, its moments by path, and how many steps it took."""

    def __init__(self, params: Tree) -> None:
        self._params = dict(params.leaves())
        for path, param in self._params.items():
            if param.dtype not in (np.float32, np.float64):
                raise InputError(f"{path} is {param.dtype}, expected float32 or float64")
            if not param.flags.carray:
                raise InputError(f"{path} cannot be moved in place, expected an array in C order that is not read-only")
        self._rooms = threading.local()
        self._kept: dict[str, Array] = {"step": np.zeros((), np.int64)}

    def update(self, grads: Tree, rate: float) -> None:
        """One step down these gradients, which have the weights' shapes. Raises InputError before anything is moved."""
        if not 0 <= rate < math.inf:
            raise InputError(f"the learning rate is {rate!r:.60}, expected a finite number of 0 or more")
        given = dict(grads.leaves())
        self._check("gradient", given, self._params)
        self._kept["step"] += 1
        both(self._move_all, *((half, given, float(rate)) for half in _halves([*self._params.values()], [*self._params])))

    @property
    def nbytes(self) -> int:
        """How many bytes of moments there are."""
        return sum(array.nbytes for array in self._kept.values())

    def state(self) -> dict[str, Array]:
        """Copies of all that `restore` needs to go on as if there had been no stop: "step", "v/encoder/...", ..."""
        return {path: array.copy() for path, array in self._kept.items()}

    def restore(self, state: Mapping[str, Array]) -> None:
        """Go on where `state()` was taken. Raises InputError where it is another optimizer's or another model's."""
        self._check("state", state, self._kept)
        for path, kept in self._kept.items():
            if state[path].dtype != kept.dtype:
                raise InputError(f"{path} in the state is {state[path].dtype}, expected {kept.dtype}")
        for path, kept in self._kept.items():
            kept[...] = state[path]

    def _check(self, what: str, given: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
        for path in [*expected, *given]:
            if path not in given or path not in expected:
                raise InputError(f"{path} is {'missing' if path in expected else 'too much'} in the {what}")
            if given[path].shape != expected[path].shape:
                raise InputError(f"{path} in the {what} is {given[path].shape}, expected {expected[path].shape}")

    def _move_all(self, paths: list[str], given: Mapping[str, Array], rate: float) -> None:
        for path in paths:
            param = self._params[path]
            self._move(path, param, np.ascontiguousarray(given[path], param.dtype), rate)

    def _move(self, path: str, param: Array, grad: Array, rate: float) -> None:
        raise NotImplementedError

    def _buffer(self, block: Array) -> Array:
        """Room for what this thread computes of a block."""
        room: Array = getattr(self._rooms, "room", np.empty(BLOCK))
        self._rooms.room = room if block.nbytes <= room.nbytes else np.empty(block.size)
        return self._rooms.room.view(block.dtype)[: block.size].reshape(block.shape)


class AdamW(_Optimizer):
    """Every weight moves by its mean gradient over the size that its gradients have.

        m = beta1 m + (1 - beta1) g,    v = beta2 v + (1 - beta2) g^2
        w = w - rate weight_decay w - rate m' / (sqrt(v') + eps),    m' = m / (1 - beta1^t),  v' = v / (1 - beta2^t)

    Norms, biases of distances and biases of routers do not decay.

    An expert without tokens has a gradient of exactly 0, which is not no update: its weights go on with the momentum
    of earlier tokens, decay, and its moments are forgotten. With `rest` it rests: nothing of an expert whose gradient
    of an array is 0 throughout changes, as if the step had not been, and its t counts only the steps that it took part in.

    Source: Loshchilov & Hutter 2019, algorithm 2, with weight_decay for their lambda / alpha, as in PyTorch.

    params    moved in place; float32 or float64
    """

    def __init__(
        self,
        params: Tree,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        rest: bool = False,
    ) -> None:
        super().__init__(params)
        _check_numbers({"beta1": beta1, "beta2": beta2}, lambda x: 0 <= x < 1, "a number from 0 to below 1")
        _check_numbers({"eps": eps}, lambda x: 0 < x < 1, "a number between 0 and 1")
        _check_numbers({"weight_decay": weight_decay}, lambda x: 0 <= x < math.inf, "a number of 0 or more")
        self._betas, self._eps, self._weight_decay, self._rest = (beta1, beta2), eps, weight_decay, rest
        for path, param in self._params.items():
            self._kept |= {f"{moment}/{path}": np.zeros(param.shape, param.dtype) for moment in "mv"}
            if rest and _of_experts(path):
                self._kept[f"steps/{path}"] = np.zeros(len(param), np.int64)

    def _move(self, path: str, param: Array, grad: Array, rate: float) -> None:
        arrays = param, grad, self._kept[f"m/{path}"], self._kept[f"v/{path}"]
        decay = rate * self._weight_decay * (not path.endswith(UNDECAYED))
        steps = self._kept.get(f"steps/{path}")
        if steps is None:
            self._slice([array.reshape(-1) for array in arrays], int(self._kept["step"]), rate, decay)
            return
        for e in np.flatnonzero(grad.reshape(len(grad), -1).any(axis=1)):
            steps[e] += 1
            self._slice([array[e].reshape(-1) for array in arrays], int(steps[e]), rate, decay)

    def _slice(self, arrays: list[Array], step: int, rate: float, decay: float) -> None:
        """Move weights that have taken part in so many steps, this one included.

        rate m' / (sqrt(v') + eps) = pace m / (sqrt(v) + eps'), which saves two divisions a weight
        """
        beta1, beta2 = self._betas
        root = math.sqrt(1 - beta2**step)
        numbers = beta1, 1 - beta1, beta2, 1 - beta2, 1 - decay, rate * root / (1 - beta1**step), self._eps * root
        _adamw(*arrays, *map(arrays[0].dtype.type, numbers))


class Adafactor(_Optimizer):
    """Adam without a memory of means, whose memory of sizes is a row and a column for each large matrix.

        v = d v + (1 - d) (g^2 + eps1),    d = 1 - t^-decay
        u = g / sqrt(v);    where v is factored,  v_ij = row_i col_j / mean(row)
        w = w - rate max(rms(w), eps2) u / max(1, rms(u) / clip)

    Factored are experts, each for itself, and matrices with both sides of 128 or more, where the heads of an attention
    count as one side. `row` is the mean of v over the last axis, `col` over the one before; T5X names the shorter side "row".
    Sizes rms are one number a matrix, and for experts one an expert.

    An expert without tokens has a gradient of exactly 0: its weights do not move, for there is no momentum and no
    decay, but its v decays, so that its next gradient counts as a large one, which `clip` then cuts.

    Source: Shazeer & Stern 2018, algorithms 4 and 5; T5X (d8342fd), which trained the Switch Transformers.

    params    moved in place; float32 or float64
    rate      of `update`: relative to the size of the weights
    """

    def __init__(self, params: Tree, decay: float = 0.8, eps1: float = 1e-30, eps2: float = 1e-3, clip: float = 1.0) -> None:
        super().__init__(params)
        numbers = {"decay": decay, "eps1": eps1, "eps2": eps2, "clip": clip}
        _check_numbers(numbers, lambda x: 0 < x < math.inf, "a number above 0")
        self._decay, self._eps, self._clip = decay, (eps1, eps2), clip
        for path, param in self._params.items():
            experts, rows, columns = _matrices(path, param.shape)
            if _of_experts(path) or min(rows, columns) >= FACTORED:
                lead = (experts,) * _of_experts(path)
                self._kept[f"v_row/{path}"] = np.zeros((*lead, rows), param.dtype)
                self._kept[f"v_col/{path}"] = np.zeros((*lead, columns), param.dtype)
            else:
                self._kept[f"v/{path}"] = np.zeros(param.shape, param.dtype)

    def _move(self, path: str, param: Array, grad: Array, rate: float) -> None:
        shape = _matrices(path, param.shape)
        decay = 1 - float(self._kept["step"]) ** -self._decay
        for i, (w, g) in enumerate(zip(param.reshape(shape), grad.reshape(shape), strict=True)):
            if f"v/{path}" in self._kept:
                direction = self._whole(self._kept[f"v/{path}"].reshape(g.shape), g, decay)
            else:
                row, column = (self._kept[f"{name}/{path}"].reshape(shape[0], -1)[i] for name in ("v_row", "v_col"))
                direction = self._factored(row, column, g, decay)
            self._matrix(w, direction, rate)

    def _whole(self, v: Array, grad: Array, decay: float) -> Callable[[slice], Array]:
        """Bring v up to date; what then gives u for a block of rows."""
        for block in _spans(*grad.shape):
            room = np.square(grad[block], out=self._buffer(grad[block]))
            room += self._eps[0]
            room *= 1 - decay
            v[block] *= decay
            v[block] += room

        def direction(block: slice) -> Array:
            room = np.sqrt(v[block], out=self._buffer(v[block]))
            return np.divide(grad[block], room, out=room)

        return direction

    def _factored(self, row: Array, column: Array, grad: Array, decay: float) -> Callable[[slice], Array]:
        """The same where v is kept as its mean row and its mean column."""
        row *= decay
        column *= decay
        for block in _spans(*grad.shape):
            room = np.square(grad[block], out=self._buffer(grad[block]))
            room += self._eps[0]
            row[block] += (1 - decay) * room.mean(axis=1)
            column += (1 - decay) / len(grad) * room.sum(axis=0)
        over_row, over_column = np.sqrt(row.mean() / row)[:, None], 1 / np.sqrt(column)

        def direction(block: slice) -> Array:
            room = np.multiply(grad[block], over_row[block], out=self._buffer(grad[block]))
            room *= over_column
            return room

        return direction

    def _matrix(self, param: Array, direction: Callable[[slice], Array], rate: float) -> None:
        """Move one matrix by u, which is computed twice rather than kept: for its size, and for the step."""
        spans = list(_spans(*param.shape))
        rms_u = math.sqrt(sum(self._squares(direction(block)) for block in spans) / param.size)
        rms_w = math.sqrt(sum(self._squares(param[block]) for block in spans) / param.size)
        pace = rate * max(rms_w, self._eps[1]) / max(1.0, rms_u / self._clip)
        for block in spans:
            room = direction(block)
            room *= pace
            param[block] -= room

    def _squares(self, block: Array) -> float:
        return float(np.square(block, out=self._buffer(block)).sum())


def _of_experts(path: str) -> bool:
    return path.endswith(("_edf", "_efd"))


def _matrices(path: str, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """How many matrices an array is, and their rows and columns."""
    if _of_experts(path):
        return shape[0], shape[1], shape[2]
    rows = math.prod(shape[:2] if path.endswith("_hkd") else shape[:1]) if len(shape) > 1 else 1
    return 1, rows, math.prod(shape) // rows


def _spans(rows: int, columns: int = 1) -> Iterator[slice]:
    """Blocks of whole rows."""
    step = max(1, BLOCK // columns)
    return (slice(start, start + step) for start in range(0, rows, step))


OPTIMIZERS: dict[str, Any] = {"adamw": AdamW, "adafactor": Adafactor}
"""By the names that recipes have for them."""


def _halves(arrays: list[Array], names: list[Any] | None = None) -> tuple[list[Any], list[Any]]:
    """Arrays, or what they are called by, in two parts of about one size."""
    ends = np.cumsum([array.size for array in arrays])
    cut = int(np.searchsorted(ends, ends[-1] / 2)) + 1 if len(ends) else 0
    named = arrays if names is None else names
    return named[:cut], named[cut:]


def _squares(arrays: list[Array]) -> list[float]:
    return [_sum_of_squares(_wide(array).ravel(order="K")) for array in arrays]


def _wide(array: Array) -> Array:
    """As compiled code takes it: in float32 or float64."""
    return array.astype(np.promote_types(array.dtype, np.float32), copy=False)


def _scale(arrays: list[Array], factor: float) -> None:
    for array in arrays:
        np.multiply(array, factor, out=array)


@jit(fastmath=REASSOCIATE)
def _sum_of_squares(x_n):
    """In float64, whose range no sum of float32's squares leaves."""
    total = 0.0
    for n in range(x_n.size):
        total += np.float64(x_n[n]) * np.float64(x_n[n])
    return total


@jit()
def _adamw(w_n, g_n, m_n, v_n, beta1, new1, beta2, new2, rest, pace, eps):
    for n in range(w_n.size):
        m_n[n] = m_n[n] * beta1 + g_n[n] * new1
        v_n[n] = v_n[n] * beta2 + g_n[n] * g_n[n] * new2
        w_n[n] = w_n[n] * rest - m_n[n] / (np.sqrt(v_n[n]) + eps) * pace


def _check_numbers(numbers: Mapping[str, Any], fits: Callable[[Any], bool], wanted: str) -> None:
    for name, value in numbers.items():
        require(isinstance(value, (int, float)) and fits(value), f"{name} is {shortened(value)}, expected {wanted}")
