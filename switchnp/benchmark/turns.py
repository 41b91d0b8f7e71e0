"""Contenders take turns, and each sleeps while another runs: what was slow for one was slow for all."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from .contender import Contender, ContenderFailed, Running
from .metrics import START, Metric, start_values

__all__ = ["Figures", "Values", "race", "starts"]

FIRST = (1, 128)
Values = dict[str, dict[str, list[float]]]
"""What processes answered, seconds or bytes, by metric and contender, one a round."""


@dataclass
class Figures:
    """What was measured.

    values     by metric and contender
    notes      a sentence for everything that went wrong
    versions   of each contender's libraries
    """

    values: Values = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(self, metric: Metric, name: str, value: float) -> None:
        """One more value of a metric."""
        self.values.setdefault(metric.name, {}).setdefault(name, []).append(value)

    def note(self, sentence: str) -> None:
        """Something that the reader should know, once."""
        if sentence not in self.notes:
            self.notes.append(sentence)


Alone = Mapping[str, tuple[Metric, Metric, Callable[[], float]]]
"""Things measured in this process, by name: as which metric, and beside the turns of which one."""


def race(
    contenders: Sequence[Contender], metrics: Iterable[Metric], threads: int, rounds: int, alone: Alone | None = None
) -> Figures:
    """Every metric of every contender, round after round; what fails is noted, and the others go on.

    The first round warms up and does not count.
    """
    figures, metrics = Figures(), list(metrics)
    with ExitStack() as stack, _progress((rounds + 1) * len(metrics) * len(contenders), f"{threads} threads") as progress:
        running = _awake(contenders if metrics else (), threads, figures, stack)
        for n in range(rounds + 1):
            for metric in metrics:
                for each in _rotated(running, n - 1):
                    value = _turn(each, metric, running, figures)
                    if n and value is not None:
                        figures.add(metric, each.contender.name, value)
                    progress.update()
                for name, (shown, beside, measured) in (alone or {}).items():
                    if n and beside is metric:
                        figures.add(shown, name, measured())
    return figures


def _rotated(running: list[Running], n: int) -> list[Running]:
    """Another one first in each round: nobody always comes after the same one."""
    first = n % max(len(running), 1)
    return running[first:] + running[:first]


def starts(contenders: Sequence[Contender], threads: int, rounds: int) -> Figures:
    """Fresh processes, one at a time: import, load, the first token of 128, and the memory that all that took."""
    figures, failed = Figures(), set()
    with _progress((rounds + 1) * len(contenders), f"{threads} threads, start") as progress:
        for n in range(rounds + 1):
            for contender in contenders:
                if contender.name not in failed:
                    try:
                        _start(contender, threads, figures, n > 0)
                    except ContenderFailed as failure:
                        failed.add(contender.name)
                        figures.note(str(failure))
                progress.update()
    return figures


def _start(contender: Contender, threads: int, figures: Figures, counts: bool) -> None:
    begin = time.perf_counter()
    running = Running(contender, threads)
    try:
        first = running.ask("first", *FIRST)["value"]
        whole = time.perf_counter() - begin
        memory = running.ask("memory")
    finally:
        running.stop()
    figures.versions[contender.name] = running.hello["versions"]
    if counts:
        for name, value in start_values(running.hello, first, whole, memory).items():
            figures.add(START[name], contender.name, value)


def _awake(contenders: Iterable[Contender], threads: int, figures: Figures, stack: ExitStack) -> list[Running]:
    """A process for each that can start, one after the other; they end with the stack."""
    running = []
    for contender in contenders:
        try:
            each = Running(contender, threads)
        except ContenderFailed as failure:
            figures.note(str(failure))
            continue
        stack.callback(each.stop)
        figures.versions[contender.name] = each.hello["versions"]
        each.rest()
        running.append(each)
    return running


def _turn(each: Running, metric: Metric, running: list[Running], figures: Figures) -> float | None:
    try:
        value = float(each.ask(metric.request, *metric.numbers)["value"])
    except ContenderFailed as failure:
        figures.note(str(failure))
        running.remove(each)
        each.stop()
        return None
    if not each.rest():
        figures.note(f"{each.contender.name} goes on working when it has answered, and so slows whoever comes after it")
    return value


def _progress(total: int, name: str) -> Any:
    hidden = True if sys.stderr is None else None
    return tqdm(total=total, desc=name, unit="turn", file=sys.stderr, disable=hidden)
