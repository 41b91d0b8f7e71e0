"""What an object works out when it is asked for it, and keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

__all__ = ["lazy"]

T = TypeVar("T")


class lazy(Generic[T]):
    """A method as an attribute that is worked out when it is asked for, and kept in the object.

    functools.cached_property did this under a lock of the class until Python 3.12: objects waited for each other, and a child of
    `fork` for ever. Here there is none: two threads that ask first, at once, both work it out, and one of the two is kept.
    """

    def __init__(self, method: Callable[[Any], T]) -> None:
        self._method, self.__doc__ = method, method.__doc__

    def __get__(self, instance: Any, owner: type | None = None) -> T:
        if instance is None:
            return self  # type: ignore[return-value]
        return instance.__dict__.setdefault(self._method.__name__, self._method(instance))
