"""What somebody who waits sees, and how they stop it."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

__all__ = ["Bar", "bar"]


class Bar:
    """A line on stderr that says how it goes; `stopping` once Ctrl-C was pressed, or a polite kill came."""

    def __init__(self, shown: Any) -> None:
        self.stopping, self._shown = False, shown

    def step(self, line: dict[str, Any]) -> None:
        """Show what a step came to."""
        layers = line["layers"].values()
        means = {name: np.mean([layer[name] for layer in layers if name in layer] or [0]) for name in ("balance", "dropped")}
        about = {
            "loss": f"{line['task_loss']:.3f}",
            "tokens/s": f"{line['tokens_per_second']:,.0f}",
            "balance": f"{means['balance']:.2f}",
            "dropped": f"{means['dropped']:.1%}",
        }
        self._shown.set_postfix(about, refresh=False)
        self._shown.update()

    def say(self, sentence: str) -> None:
        """A line above the bar."""
        if not self._shown.disable:
            self._shown.write(sentence, file=sys.stderr)


@contextmanager
def bar(total: int, begun: int = 0, shown: bool | None = True) -> Iterator[Bar]:
    """A Bar for so many steps. The first Ctrl-C asks to stop after the step that is being taken, the second stops at once.

    shown   None: where somebody looks at stderr
    """
    from tqdm import tqdm

    with tqdm(total=total, initial=begun, unit="step", file=sys.stderr, disable=None if shown is None else not shown) as line:
        showing = Bar(line)
        with _gently(showing):
            yield showing


@contextmanager
def _gently(showing: Bar) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kill = signal.getsignal(signal.SIGTERM)

    def stop(*signaled: Any) -> None:
        if showing.stopping:
            raise KeyboardInterrupt
        showing.stopping = True

    def end(*signaled: Any) -> None:
        showing.stopping = True  # what `kill` raises is lost where C calls Python, as a compiler at work does
        if callable(kill):
            kill(*signaled)

    handlers: dict[int, Any] = {signal.SIGINT: stop} | ({signal.SIGTERM: end} if callable(kill) else {})
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
