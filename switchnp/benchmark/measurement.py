"""A whole comparison: who runs, on what, in which turns, and what comes of it."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .. import weights
from ..config import Config
from ..files import as_path, shown, writable
from ..loading import load
from . import machine
from .bandwidth import Reader, step_bytes, zero_fraction
from .contender import Contender
from .lineup import line_up
from .metrics import GROUPS, METRICS, START, Metric, chosen
from .report import Report
from .turns import Figures, race, starts

__all__ = ["measured"]

DECODE = METRICS["decode"][0]
PLAIN = "plain read"
READ = Metric(name="weights read", unit="GB/s", request="", numbers=(), amount=1, scale=1e-9)


def measured(
    path: Any,
    *,
    against: Sequence[str] = (),
    threads: Sequence[int] = (),
    rounds: int = 5,
    metrics: Sequence[str] = (),
    python: str | None = None,
    cache: Any = None,
) -> Report:
    """All contenders take turns at every group of metrics; what cannot be measured is a note in the report.

    against   of "transformers" and "ctranslate2"
    threads   each number of them is a race of its own (default: as many as there are cores)
    metrics   of "decode", "encode", "start" and "bandwidth" (default: all)
    python    the interpreter that has the peers (default: this one)
    cache     a folder that keeps the peers' models for the next time

    Raises FileError, WeightsError and InputError before anything is measured.
    """
    file, groups = as_path(path), chosen(metrics or GROUPS)
    with _kept(cache) as folder:
        contenders, notes = line_up(file, against, python or sys.executable, folder)
        report = Report(machine.described(), _model(file), rounds, notes=notes)
        zeros = _zeros(file, contenders) if "bandwidth" in groups else 0.0
        for count in threads or (report.machine["cores"],):
            _measure(report, contenders, groups, count, zeros)
    return report


def _measure(report: Report, contenders: list[Contender], groups: tuple[str, ...], threads: int, zeros: float) -> None:
    """One number of threads."""
    if "start" in groups:
        report.add(threads, starts(contenders, threads, report.rounds), START.values())
    metrics = [metric for group in groups for metric in METRICS.get(group, ())]
    if "bandwidth" not in groups:
        report.add(threads, race(contenders, metrics, threads, report.rounds), metrics)
        return
    sizes = {each.name: step_bytes(_config(report), each.dtype, zeros) for each in contenders if each.library == "switchnp"}
    reader = Reader(max(sizes.values()), threads)
    alone = {PLAIN: (READ, DECODE, lambda: reader.seconds() / reader.size)}
    raced = list(dict.fromkeys([*metrics, DECODE]))
    figures = race(contenders, raced, threads, report.rounds, alone)
    _add_reading(figures, sizes)
    report.add(threads, figures, [*metrics, READ])


def _add_reading(figures: Figures, sizes: dict[str, int]) -> None:
    """How many bytes of weights a second our steps read, from how fast they are."""
    for name, values in figures.values.get(DECODE.name, {}).items():
        for seconds in values if name in sizes else ():
            figures.add(READ, name, seconds / (DECODE.amount * sizes[name]))


def _zeros(path: Path, contenders: list[Contender]) -> float:
    """The fraction of the decoder's hidden units that are 0; the engine that passes them over is the fast one."""
    if contenders[0].engine != "fast":
        return 0.0
    model = load(path)
    return zero_fraction(model, np.random.default_rng(0).integers(0, model.config.vocab_size, (8, 32)))


def _model(path: Path) -> dict[str, Any]:
    header, _ = weights.read_header(path)
    about = {"file": shown(path.name), "bytes": path.stat().st_size, "dtype": header.dtype}
    return about | {"parameters": header.config.num_parameters, "config": asdict(header.config)}


def _config(report: Report) -> Config:
    return Config(**report.model["config"])


@contextmanager
def _kept(cache: Any) -> Iterator[Path]:
    """A folder for the peers' models: the given one, or one that is gone afterwards."""
    if cache is None:
        with tempfile.TemporaryDirectory(prefix="switchnp-bench-") as temporary:
            yield Path(temporary)
        return
    folder = as_path(cache)
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
    yield folder
