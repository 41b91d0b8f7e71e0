"""A weights file in fewer bits: written an array at a time, and measured against what it was made from."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from . import memory, weights
from .errors import FileError, InputError, SwitchError, TokenizerError
from .fidelity import Fidelity, measured
from .files import as_path, check_regular, check_target, readable, shown, writable
from .hdf5 import ITEMSIZE
from .loading import load
from .model import SwitchTransformer
from .quantization import output_first, scale_path, widened

__all__ = ["Narrowing", "Part", "narrow"]

DTYPES = ("int8", "bfloat16")
SAMPLE = (
    "A <extra_id_0> walks into a bar and orders a <extra_id_1> with <extra_id_2> pinch of salt.",
    "The sun rises in the <extra_id_0> and sets in the west.",
    "translate English to German: The house is wonderful.",
    "say in French: 1984",
)
"""What is asked where nobody gives texts."""
BLOCK = 1 << 18


@dataclass(frozen=True, kw_only=True)
class Part:
    """How far the weights of one layer, or one table, are off.

    rms         root of the mean square of the error, relative to that of the weights
    largest     error of any weight
    """

    name: str
    rms: float
    largest: float


@dataclass(frozen=True, kw_only=True)
class Narrowing:
    """What it took and what it cost; pairs are (before, after).

    parts       those that have fewer bits now
    fidelity    of the model's answers; None where no texts were compared, and `why` says why
    """

    dtypes: tuple[str, str]
    nbytes: tuple[int, int]
    parts: tuple[Part, ...]
    fidelity: Fidelity | None
    why: str

    def __str__(self) -> str:
        before, after = self.nbytes
        lines = [f"{self.dtypes[0]} to {self.dtypes[1]}: {before:,} bytes before, {after:,} after ({after / before:.1%})"]
        lines += [f"{'weights':<28} {'rms error':>10} {'largest':>10}"]
        lines += [f"{part.name:<28} {part.rms:>10.2%} {part.largest:>10.2e}" for part in self.parts]
        return "\n".join([*lines, str(self.fidelity) if self.fidelity else self.why])


def narrow(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    dtype: str = "int8",
    force: bool = False,
    texts: Sequence[str] | None = None,
) -> Narrowing:
    """Write the model in `source` to `target` with weights of `dtype` ("int8" or "bfloat16"), whole or not at all.

    Weights are read where the file is mapped, so a file larger than memory can be narrowed; comparing texts takes both models
    in memory, and is left out where they do not fit.

    texts   to compare the models on: each a text, or the path of a file with one a line

    Raises FileError for paths and texts, WeightsError for the source, InputError where it has no more bits to lose.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype is {dtype!r}, expected {' or '.join(DTYPES)}")
    sources, targets = as_path(source), as_path(target)
    asked = None if texts is None else list(_texts(texts))
    header, _ = weights.read_header(sources)
    _check_apart(sources, targets, force)
    _check_header(header, sources, dtype, asked)
    params, header = weights.mapped(sources, verify=True)
    arrays = dict(params.leaves())
    provenance = header.provenance | {"quantized_from": shown(sources.name), "quantized_from_dtype": header.dtype}
    more: dict[str, Any] = {"tokenizer": header.tokenizer, "provenance": provenance, "generation": header.generation}
    coming = _progress(arrays.items(), "quantize")
    weights.write(targets, header.config, header.routing, coming, dtype=dtype, force=force, **more)
    fidelity, why = _fidelity(sources, targets, header, dtype, asked)
    return Narrowing(
        dtypes=(header.dtype, dtype),
        nbytes=(os.path.getsize(sources), os.path.getsize(targets)),
        parts=tuple(_parts(arrays, dict(weights.mapped(targets)[0].leaves()))),
        fidelity=fidelity,
        why=why,
    )


def _check_apart(source: Path, target: Path, force: bool) -> None:
    """Refuse a target that may not be written, before any work."""
    with writable(target):
        if target.exists() and target.samefile(source):
            raise FileError(f"{shown(target)} is the source itself, expected another target")
        check_target(target, force)


def _check_header(header: weights.Header, source: Path, dtype: str, texts: list[str] | None) -> None:
    if ITEMSIZE[header.dtype] <= ITEMSIZE[dtype]:
        wider = [name for name in ("float32", "bfloat16") if ITEMSIZE[name] > ITEMSIZE[dtype]]
        raise InputError(f"{shown(source)} is {header.dtype} already, expected a file of {' or '.join(wider)}")
    if texts and header.tokenizer is None:
        raise TokenizerError(f"texts are given, but {shown(source)} has no tokenizer to read them")


def _texts(given: Iterable[str]) -> Iterator[str]:
    for text in given:
        if not os.path.lexists(text):
            yield text
            continue
        path = as_path(text)
        check_regular(path)
        with readable(path):
            lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if not lines:
            raise FileError(f"{shown(path)} has no text, expected one a line")
        yield from lines


def _fidelity(
    source: Path, target: Path, header: weights.Header, dtype: str, texts: list[str] | None
) -> tuple[Fidelity | None, str]:
    """How near the answers are, or why nobody asked."""
    if header.tokenizer is None:
        return None, "no texts compared: the model has no tokenizer"
    wanted, there = 2 * 4 * header.config.num_parameters, memory.free()
    if there is not None and wanted > there:
        return None, f"no texts compared: two models take {wanted / 1e9:.1f} GB of memory, but {there / 1e9:.1f} GB are free"
    try:
        return measured(_model(source, header), _model(target, header, dtype), texts or SAMPLE), ""
    except SwitchError as error:  # the file is written and good, whatever the texts are
        return None, f"no texts compared: {error}"


def _model(path: Path, header: weights.Header, dtype: str | None = None) -> SwitchTransformer:
    """By the fast engine, which multiplies in `dtype`, where the routing lets it."""
    if header.routing.precision != "float32":
        return load(path, engine="equations")
    return load(path, engine="fast", dtype=dtype)


def _parts(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Part]:
    """The error of each layer, in the order of the model."""
    errors: dict[str, Any] = {}
    changed = [path for path in before if after[path].itemsize < before[path].itemsize]
    for path in _progress(changed, "measure"):
        name = "/".join(path.split("/")[:3]) if "/blocks/" in path else path
        errors.setdefault(name, []).extend(_errors(path, before, after))
    for name, found in errors.items():
        off, whole, largest = (np.array(column) for column in zip(*found, strict=True))
        yield Part(name=name, rms=math.sqrt(off.sum() / (whole.sum() or 1.0)), largest=float(largest.max()))


def _errors(path: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[float, float, float]]:
    """Block by block, the squares of the error, the squares of the weights, and the largest error."""
    w, narrow_w, scale = before[path], after[path], after.get(scale_path(path) or "")
    step = max(1, BLOCK * len(w) // w.size)
    for start in range(0, len(w), step):
        rows = slice(start, start + step)
        exact, near = w[rows].astype(np.float64), narrow_w[rows]
        if scale is not None:
            near = widened(path, near, scale[rows] if output_first(path) else scale)
        off = exact - near.astype(np.float64)
        yield float(np.vdot(off, off)), float(np.vdot(exact, exact)), float(np.abs(off).max())


def _progress(items: Collection[Any], what: str) -> Iterator[Any]:
    """The items, with a bar on stderr where somebody looks."""
    return iter(tqdm(items, desc=what, unit=" arrays", disable=True if sys.stderr is None else None))
