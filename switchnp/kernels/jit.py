"""How every kernel is compiled, said once."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache, InTreeCacheLocator, UserProvidedCacheLocator

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


@cache
def _rooms() -> tuple[Any, ...]:
    """What the files of the compiled rooms were when they were last changed."""
    package = Path(__file__).parents[1]
    return tuple(_changed(path) for room in ("kernels", "engine") for path in sorted((package / room).glob("*.py")))


def _changed(source: Path) -> tuple[Any, ...]:
    about = source.stat()
    return source.name, about.st_mtime_ns, about.st_size


class _Readable:
    """A folder that cannot be written will do where there is compiled code in it, as in an image that was warmed up."""

    def ensure_cache_path(self) -> None:
        try:
            super().ensure_cache_path()  # type: ignore[misc]
        except OSError:
            if not any(Path(self.get_cache_path()).glob("*.nbi")):  # type: ignore[attr-defined]
                raise


class _UserProvided(_Readable, UserProvidedCacheLocator):
    pass


class _InTree(_Readable, InTreeCacheLocator):
    pass


class _Places(CompileResultCacheImpl):
    """Where Numba looks, and at last beside the package again: what cannot be written there may be read."""

    _locator_classes = [_UserProvided, *CompileResultCacheImpl._locator_classes, _InTree]  # noqa: RUF012


class _Cache(FunctionCache):
    """What cannot be read from the disk is compiled anew, and what cannot be written is not.

    Numba compiles a function anew when its own file has changed; here any file of the compiled rooms will do as well, for what
    a function calls is compiled into it.
    """

    _impl_class = _Places

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file._source_stamp = _changed(Path(function.__code__.co_filename)), _rooms()

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:
            said = f"Numba's cache in {Path(self.cache_path).parent} is damaged and is made anew"
            warnings.warn(said, SwitchWarning, stacklevel=2)
            with suppress(Exception):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        with suppress(Exception):
            super().save_overload(sig, data)
