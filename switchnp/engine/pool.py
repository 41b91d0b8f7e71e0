"""One pool of threads for everything, and the barrier at which they meet inside compiled code.

A compiled program is called by all threads at once with its rank. Whoever calls while the pool is busy runs alone, which
takes longer and gives the same bits. A child of `fork` has no threads and makes its own.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic

from ..kernels.jit import jit
from .instructions import I32, I64, ir
from .linking import link

__all__ = ["POOL", "Pool", "barrier", "cores", "meet"]

RELEASED = 1 << 62


def cores() -> int:
    """On how many processors this process may run."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def barrier() -> Any:
    """A new meeting point, for `meet`."""
    return np.zeros(1, np.int64)


@intrinsic
def _arrive(typing, array):
    """Add 1; how many were there before?"""

    def codegen(context, builder, signature, values):
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        return builder.atomic_rmw("add", data, I64(1), "acq_rel")

    return types.int64(array), codegen


@intrinsic
def _arrived(typing, array):
    def codegen(context, builder, signature, values):
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        return builder.load_atomic(data, "acquire", 8)

    return types.int64(array), codegen


@intrinsic
def _give_way(typing):
    """Let another thread have this processor."""

    def codegen(context, builder, signature, values):
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(I32, []), "sched_yield")
        return builder.call(function, [])

    return types.int32(), codegen


@jit()
def meet(barrier, ranks):
    """Wait until all threads are here."""
    if ranks == 1:
        return
    before = _arrive(barrier)
    target = (before // ranks + 1) * ranks
    turns = 0
    while _arrived(barrier) < target:
        turns += 1
        if turns > 4000:
            _give_way()


class Pool:
    """Threads that sleep until there is something to do."""

    def __init__(self) -> None:
        self._busy = threading.Lock()
        self._inboxes: list[SimpleQueue[Any]] = []
        self._done: SimpleQueue[BaseException | None] = SimpleQueue()

    def run(self, threads: int, program: Callable[..., Any], *arguments: Any) -> None:
        """program(rank, ranks, barrier, *arguments) on so many threads, this one among them; alone while others run."""
        link()
        if threads == 1 or not self._busy.acquire(blocking=False):
            program(0, 1, barrier(), *arguments)
            return
        try:
            self._together(threads, program, arguments)
        finally:
            self._busy.release()

    def _together(self, threads: int, program: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        while len(self._inboxes) < threads - 1:
            self._hire()
        meeting = barrier()
        sent = 0
        try:
            for rank in range(1, threads):
                self._inboxes[rank - 1].put((program, (rank, threads, meeting, *arguments)))
                sent += 1
            program(0, threads, meeting, *arguments)
        except BaseException:
            meeting[0] = RELEASED
            raise
        finally:
            faults = [self._done.get() for _ in range(sent)]
        for fault in faults:
            if fault is not None:
                raise fault

    def _hire(self) -> None:
        inbox: SimpleQueue[Any] = SimpleQueue()
        threading.Thread(target=_work, args=(inbox, self._done), name="switchnp", daemon=True).start()
        self._inboxes.append(inbox)


def _work(inbox: SimpleQueue[Any], done: SimpleQueue[Any]) -> None:
    while True:
        program, arguments = inbox.get()
        try:
            program(*arguments)
            done.put(None)
        except BaseException as fault:
            arguments[2][0] = RELEASED
            done.put(fault)
        del program, arguments


POOL = Pool()


def _start_anew() -> None:
    global POOL
    POOL = Pool()


os.register_at_fork(after_in_child=_start_anew)
