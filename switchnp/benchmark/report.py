"""What was measured, as rows: medians, quartiles, and how many times as good as the first of each metric."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from .metrics import Metric
from .turns import Figures

__all__ = ["Report", "Row"]

BUSY = "the machine was so busy that more words took no longer than one"
HEAD = ("threads", "metric", "unit", "contender", "median", "quartiles", "speed")


class Row(NamedTuple):
    """One metric of one contender.

    times   how many times as good as the metric's first contender it is; None beside a 0
    raw     what was measured in each round, in seconds (a byte, for bandwidth) or bytes
    """

    threads: int
    metric: str
    unit: str
    contender: str
    median: float
    quartiles: tuple[float, float]
    times: float | None
    raw: tuple[float, ...]


@dataclass
class Report:
    """Rows, where they come from, and a sentence for everything that is missing."""

    machine: dict[str, Any]
    model: dict[str, Any]
    rounds: int
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(self, threads: int, figures: Figures, metrics: Iterable[Metric]) -> None:
        """What a race had to say of these metrics, in their order."""
        self.notes += [sentence for sentence in figures.notes if sentence not in self.notes]
        self.versions |= figures.versions
        for metric in metrics:
            base = None
            for name, raw in figures.values.get(metric.name, {}).items():
                low, median, high = _quartiles(raw)
                if metric.rising and low <= 0:
                    self.notes.append(f"{metric.name} of {name} with {threads} threads is left out: {BUSY}")
                    continue
                figure = metric.figure(median)
                base = figure if base is None else base
                quartiles = sorted(map(metric.figure, (low, high)))
                row = (name, figure, (quartiles[0], quartiles[1]), metric.times(figure, base), tuple(raw))
                self.rows.append(Row(threads, metric.name, metric.unit, *row))

    def lines(self) -> list[str]:
        """A table that is aligned, with everything else below."""
        cells = [HEAD, *(_cells(row) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        shown = ["  ".join(f"{cell:{_SIDES[i]}{widths[i]}}" for i, cell in enumerate(row)).rstrip() for row in cells]
        machine = self.machine
        shown += ["", f"{machine['processor']}, {machine['cores']} cores, load {machine['load']}, {machine['date']}"]
        versions = {f"{name} {version}" for each in self.versions.values() for name, version in each.items()}
        return [*shown, ", ".join([f"Python {machine['python']}", *sorted(versions)]), *self.notes]

    def json(self) -> str:
        """Everything, every single value included."""
        whole = asdict(self) | {"rows": [row._asdict() for row in self.rows]}
        return json.dumps(whole, indent=1, allow_nan=False)


_SIDES = (">", "<", "<", "<", ">", ">", ">")


def _cells(row: Row) -> tuple[str, ...]:
    low, high = map(_short, row.quartiles)
    quartiles, times = f"{low} .. {high}", "" if row.times is None else f"{row.times:.2f} x"
    return (str(row.threads), row.metric, row.unit, row.contender, _short(row.median), quartiles, times)


def _short(number: float) -> str:
    """Three digits that mean something, without an exponent."""
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:.1f}" if abs(number) >= 10 else f"{number:.2f}"


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    """The lower quartile, the median and the upper quartile."""
    low, median, high = statistics.quantiles(values * 2 if len(values) == 1 else values, n=4, method="inclusive")
    return low, median, high
