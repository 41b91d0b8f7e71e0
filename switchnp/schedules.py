"""How large a step is at each step: learning rates."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .records import Record, require, shortened

__all__ = ["KINDS", "Schedule"]

KINDS = ("constant", "linear", "cosine", "inverse square root")


@dataclass(frozen=True, kw_only=True)
class Schedule(Record):
    """The learning rate of each step, which are numbered from 1.

        constant              peak
        linear                floor + (peak - floor) (1 - s)
        cosine                floor + (peak - floor) (1 + cos(pi s)) / 2
        inverse square root   peak sqrt(warmup) / sqrt(step),    at least floor

    with s = (step - warmup) / (steps - warmup), the share that is over. Through the first `warmup` steps the rate rises in a
    straight line to its peak; with `flat` it is the peak all along, as T5 has it: flat, "inverse square root", a peak of 0.01
    and 10,000 steps of warm-up is 1 / sqrt(max(step, 10,000)), which Switch Transformers were pre-trained with.

    Source: T5 (Raffel et al. 2020), §3.1.2; T5X (d8342fd), rsqrt decay with base 1 and warm-up 10,000; cosine: Loshchilov &
    Hutter 2017, eq. 5.

    kind     one of KINDS
    warmup   steps to the peak
    steps    where linear and cosine reach `floor`, and stay; None for the others, which have no end
    floor    the least that the rate falls to
    """

    kind: str = "constant"
    peak: float = 1e-3
    warmup: int = 0
    steps: int | None = None
    floor: float = 0.0
    flat: bool = False

    def __post_init__(self) -> None:
        """Raise ConfigError that names the number and its range."""
        self.check_types()
        require(self.kind in KINDS, f"the kind of schedule is {shortened(self.kind)}, expected one of {', '.join(KINDS)}")
        require(self.peak > 0, f"peak is {self.peak!r}, expected a number above 0")
        require(self.warmup >= 0, f"warmup is {self.warmup}, expected a whole number of 0 or more")
        require(0 <= self.floor <= self.peak, f"floor is {self.floor!r}, expected a number from 0 to peak, {self.peak!r}")
        if self.kind in ("linear", "cosine"):
            ends = self.steps is not None and self.steps > self.warmup
            require(ends, f"steps is {self.steps}, expected a whole number above warmup, {self.warmup}, for {self.kind}")
        else:
            require(self.steps is None, f"steps is {self.steps}, expected none for {self.kind}, which has no end")

    def rate(self, step: int) -> float:
        """The rate of the step of this number, 1 for the first; 0 is what lies before it."""
        if step < self.warmup:
            return self.peak if self.flat else self.peak * step / self.warmup
        return max(self.floor, self._falling(step))

    def _falling(self, step: int) -> float:
        """The rate behind the warm-up."""
        if self.kind == "constant":
            return self.peak
        if self.kind == "inverse square root":
            return self.peak * math.sqrt(max(self.warmup, 1) / max(step, 1))
        assert self.steps is not None
        over = min(1.0, (step - self.warmup) / (self.steps - self.warmup))
        share = 1 - over if self.kind == "linear" else (1 + math.cos(math.pi * over)) / 2
        return self.floor + (self.peak - self.floor) * share
