"""How every kernel is compiled, said once."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numba
from numba.core.caching import FunctionCache

from ..errors import SwitchWarning

__all__ = ["REASSOCIATE", "jit"]

REASSOCIATE = {"reassoc", "contract"}
"""Let a sum run in vector lanes; NaN and infinity keep their meaning."""


def jit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """numba.njit with a cache on disk that is never worse than none."""

    def compiled(function: Callable[..., Any]) -> Any:
        kernel = numba.njit(nogil=True, error_model="numpy", **options)(function)
        if kernel is not function:  # it is where NUMBA_DISABLE_JIT is set
            with suppress(RuntimeError, OSError):  # no folder for a cache
                kernel._cache = _Cache(function)
        return kernel

    return compiled


class _Cache(FunctionCache):
    """What cannot be read from the disk is compiled anew, and what cannot be written is not."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:
            said = f"Numba's cache in {self.cache_path} is damaged and is made anew"
            warnings.warn(said, SwitchWarning, stacklevel=2)
            with suppress(Exception):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        with suppress(Exception):
            super().save_overload(sig, data)
