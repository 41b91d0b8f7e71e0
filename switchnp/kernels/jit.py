"""How every kernel is compiled, said once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

__all__ = ["REASSOCIATE", "jit"]

REASSOCIATE = {"reassoc", "contract"}
"""Let a sum run in vector lanes; NaN and infinity keep their meaning."""


def jit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """numba.njit with a disk cache where there is a place for one, and without where there is none."""

    def compiled(function: Callable[..., Any]) -> Any:
        settings = {"nogil": True, "error_model": "numpy", **options}
        try:
            return numba.njit(cache=True, **settings)(function)
        except RuntimeError:
            return numba.njit(**settings)(function)

    return compiled
