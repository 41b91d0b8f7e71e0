"""Locks that a child of `fork` must not find in the hands of a thread that it has not got."""

from __future__ import annotations

import os
import threading
from typing import Any, TypeVar

__all__ = ["free_after_fork"]

Lock = TypeVar("Lock", bound=Any)


def free_after_fork(lock: Lock) -> Lock:
    """The lock, which from now on is taken before every fork and given back on both sides; it must be reentrant.

    Who is interrupted while waiting for it waits on, for a fork goes ahead whatever its handlers raise.
    """
    held = threading.local()

    def take() -> None:
        interrupt, mine = None, vars(held).setdefault("mine", [])
        while not mine:
            try:
                mine.append(lock.acquire())
            except BaseException as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt  # Python shows it, and forks

    def give_back() -> None:
        vars(held).pop("mine", None)
        lock.release()

    os.register_at_fork(before=take, after_in_parent=give_back, after_in_child=give_back)
    return lock
