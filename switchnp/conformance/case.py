"""What a router or a layer is asked: drawn arguments, the smallest first."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

__all__ = ["Case", "cases"]

MARGIN = 0.1  # between a token's two loudest logits, so that rounding never changes its choice


@dataclass(frozen=True)
class Case:
    """One group of tokens, a router, experts and a capacity: the arguments of a router or a layer."""

    x_td: Any
    wr_de: Any
    wi_edf: Any
    wo_efd: Any
    C: int

    @property
    def T(self):
        """How many tokens."""
        return len(self.x_td)

    @property
    def E(self):
        """How many experts."""
        return self.wr_de.shape[1]

    def roomy(self):
        """The same with room for every token."""
        return replace(self, C=self.T)

    def echo(self, sign):
        """The same with experts that one can see through: E_i(x) = (i + 1) |x|, or (i + 1) x where sign is -1."""
        eye_dd = np.eye(self.x_td.shape[1])
        wi_df, wo_fd = np.hstack([eye_dd, -eye_dd]), np.vstack([eye_dd, sign * eye_dd])
        return replace(self, wi_edf=np.stack([wi_df] * self.E), wo_efd=np.stack([(i + 1) * wo_fd for i in range(self.E)]))


def cases(seed):
    """The smallest first; the last two are long queues, for counters that count too little."""
    rng = np.random.default_rng(seed)
    sizes = {tuple(int(n) for n in rng.integers(1, [2 * b + 1, b + 1, b + 1, b + 1])) for b in range(1, 7) for _ in range(12)}
    drawn = [_case(rng, *size) for size in sorted(sizes, key=lambda size: (sum(size), size))]
    return [*drawn, _case(rng, 300, 2, 3, 4), _case(rng, 300, 1, 2, 2).roomy()]


def _case(rng, T, E, D, F):
    C = int(rng.integers(1, T // 2 + 2))
    clear_nd = np.empty((0, D))
    while len(clear_nd) < T:
        wr_de, x_nd = rng.normal(size=(D, E)), rng.normal(size=(8 * T, D))
        loudest_ne = np.sort(np.hstack([x_nd @ wr_de, np.full((8 * T, 1), -np.inf)]), axis=1)
        clear_nd = x_nd[loudest_ne[:, -1] - loudest_ne[:, -2] > MARGIN]
    arrays = clear_nd[:T], wr_de, rng.normal(size=(E, D, F)), rng.normal(size=(E, F, D))
    return Case(*(array.astype(np.float32).astype(np.float64) for array in arrays), C)
