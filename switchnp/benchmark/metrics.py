"""What is measured, and what a request's seconds or bytes mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..files import shown

__all__ = ["GROUPS", "METRICS", "START", "Metric", "chosen"]

SOURCE, STEPS = 128, 32


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One figure.

    request   of worker.py, with its numbers
    amount    what is done in those seconds; 0 where the seconds themselves are the figure
    scale     figure = seconds × scale, or amount / seconds × scale
    """

    name: str
    unit: str
    request: str
    numbers: tuple[int, ...]
    amount: float = 0
    scale: float = 1

    @property
    def rising(self) -> bool:
        """Whether more is better."""
        return bool(self.amount)

    def figure(self, seconds: float) -> float:
        """What a request's answer means."""
        return self.scale * (self.amount / seconds if self.amount else seconds)

    def times(self, figure: float, other: float) -> float | None:
        """How many times as good as another figure this one is; None where one of them is 0."""
        if not figure or not other:
            return None
        return figure / other if self.rising else other / figure


def decode(sentences: int, source: int = SOURCE, steps: int = STEPS) -> Metric:
    """Tokens a second of all answers together, behind the first token."""
    numbers = (sentences, source, steps)
    return Metric(name=f"decode {sentences}", unit="tok/s", request="decode", numbers=numbers, amount=sentences * steps)


def encode(sentences: int, length: int) -> Metric:
    """Milliseconds of the encoder."""
    return Metric(name=f"encode {sentences}x{length}", unit="ms", request="encode", numbers=(sentences, length), scale=1e3)


def _start(name: str, unit: str = "s", scale: float = 1) -> Metric:
    return Metric(name=name, unit=unit, request="", numbers=(), scale=scale)


START = {
    "import": _start("import"),
    "load": _start("load"),
    "first": _start("first token"),
    "whole": _start("start to token"),
    "peak": _start("peak memory", "GB", 1e-9),
    "mapped": _start("of it file pages", "GB", 1e-9),
}
"""What a fresh process tells; the whole is from its start to its first token."""

METRICS = {"decode": (decode(1), decode(8)), "encode": (encode(1, 128), encode(1, 512), encode(8, 128))}
GROUPS = (*METRICS, "start", "bandwidth")


def chosen(names: Iterable[str]) -> tuple[str, ...]:
    """Groups of metrics by name; raises InputError for what is none."""
    names = tuple(dict.fromkeys(names))
    for name in names:
        if name not in GROUPS:
            raise InputError(f"there is no metric {shown(name)!r}, expected some of {', '.join(GROUPS)}")
    return names


def start_values(hello: Mapping[str, Any], first: float, whole: float, memory: Mapping[str, Any]) -> dict[str, float]:
    """The values of START."""
    told = {"first": first, "whole": whole, "peak": memory["value"], "mapped": memory["mapped"]}
    return {"import": hello["import"], "load": hello["load"], **told}
