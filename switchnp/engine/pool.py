"""One pool of threads for everything, and the barrier at which they meet inside compiled code.

A compiled program is called by all threads at once with its rank. Whoever calls while the pool is busy runs alone, which
takes longer and gives the same bits. A child of `fork` has no threads and makes its own.

An interrupt (Ctrl-C) can fall between any two lines of Python in the main thread. So what must be right is counted in the same
call of a built-in function in which it is done, all that waits can be done again, and a crew that gets lost is replaced.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic

from ..kernels.jit import jit
from .instructions import I32, I64, ir
from .linking import link

__all__ = ["POOL", "Pool", "barrier", "meet"]

RELEASED = 1 << 62
"""So many have arrived at a meeting that nobody waits for any more."""
PATIENCE = 1_000_000
"""So many looks at a barrier, half a millisecond or less, before a thread sleeps."""
AWAKE = 2500
"""So many times a thread looks for its next job, and gives way to others, before it sleeps: about a millisecond. Between the
programs of one call nobody then sleeps: to wake takes as long as a small program, and on a virtual machine may end on the
processor of who woke it."""


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


@intrinsic
def _rest(typing):
    """Sleep for as short as the system can: who gives way again and again waits longest where others are busy."""

    def codegen(context, builder, signature, values):
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(I32, [I32]), "usleep")
        return builder.call(function, [I32(1)])

    return types.int32(), codegen


@jit()
def meet(barrier, ranks):
    """Wait until all threads are here."""
    if ranks == 1:
        return
    before = _arrive(barrier)
    target = min((before // ranks + 1) * ranks, RELEASED)
    turns = 0
    while _arrived(barrier) < target:
        turns += 1
        if turns > PATIENCE:
            _rest()


@jit()
def _look_out(number, target):
    """Wait awake, but not for long, until a number is `target`; a hint, after which somebody counts."""
    for _ in range(PATIENCE):
        if _arrived(number) >= target:
            return


@jit()
def _watch(number, seen, turns):
    """Wait awake, but not for long, until a number is no longer `seen`."""
    for _ in range(turns):
        if _arrived(number) != seen:
            return
        _give_way()


class Pool:
    """Threads that sleep until there is something to do."""

    def __init__(self) -> None:
        self._idle: deque[_Crew] = deque([_Crew()])
        self._known = weakref.ref(self._idle[0])

    def run(self, threads: int, program: Callable[..., Any], *arguments: Any) -> None:
        """program(rank, ranks, barrier, *arguments) on so many threads, this one among them; alone while others run."""
        link()
        crew = self._crew() if threads > 1 else None
        if crew is None:
            program(0, 1, barrier(), *arguments)
            return
        try:
            crew.work(threads, program, arguments)
        finally:
            crew.settle()
            self._idle.append(crew)

    def _crew(self) -> _Crew | None:
        """All threads, unless somebody else has them."""
        with suppress(IndexError):
            return self._idle.pop()
        if self._known() is not None:
            return None
        crew = _Crew()
        self._known = weakref.ref(crew)
        return crew


class _Crew:
    """Threads that wait for jobs, each at its inbox; `calls` grows when there are new ones."""

    def __init__(self) -> None:
        self._inboxes: list[SimpleQueue[Any]] = []
        self._calls = barrier()
        self._sent: list[None] = []
        self._told: list[BaseException | None] = []
        self._bell: SimpleQueue[None] = SimpleQueue()
        weakref.finalize(self, _dismiss, self._inboxes).atexit = False

    def work(self, threads: int, program: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        """See Pool.run."""
        threads = 1 + self._hired(threads - 1)
        told: list[BaseException | None] = []
        bell: SimpleQueue[None] = SimpleQueue()
        meeting, back, taken = barrier(), barrier(), [_processor()]
        jobs = [(program, (rank, threads, meeting, *arguments), taken, told, back, bell) for rank in range(1, threads)]
        self._sent, self._told, self._bell = [], told, bell
        try:
            self._sent.extend(map(SimpleQueue.put, self._inboxes, jobs))
            self._calls[0] += 1
            program(0, threads, meeting, *arguments)
            _look_out(back, threads - 1)
        except BaseException:
            meeting[0] = RELEASED
            raise
        self.settle()
        faults = [fault for fault in told if fault is not None]
        if faults:
            self._sent = []
            told.clear()
            try:
                raise faults[0]
            finally:
                del faults  # an error that knows of itself would keep the crew from being free

    def settle(self) -> None:
        """Wait until everybody is back, whatever comes meanwhile, and raise it then."""
        interrupt = None
        while len(self._told) < len(self._sent):
            try:
                while len(self._told) < len(self._sent):
                    self._bell.get()
            except BaseException as error:
                interrupt = error
        try:
            if interrupt is not None:
                raise interrupt
        finally:
            del interrupt

    def _hired(self, wanted: int) -> int:
        """So many threads wait for a job, or fewer where the system has no more."""
        _watch(self._calls, 0, 0)  # compiled before anybody waits for it
        _look_out(self._calls, 0)
        with suppress(RuntimeError):
            while len(self._inboxes) < wanted:
                inbox: SimpleQueue[Any] = SimpleQueue()
                threading.Thread(target=_serve, args=(inbox, self._calls, self._calls[0]), name="switchnp", daemon=True).start()
                self._inboxes.append(inbox)
        return min(wanted, len(self._inboxes))


def _dismiss(inboxes: list[SimpleQueue[Any]]) -> None:
    for inbox in inboxes:
        inbox.put(None)


def _processor() -> int:
    """The number of the processor that this thread runs on; -1 where the system does not say."""
    return _SCHED_GETCPU()


def _part(taken: list[int]) -> None:
    """Leave a processor that another thread of the crew has while there is another: the system takes its time to see it.

    The thread may run where it might before; to Linux it has asked for that.
    """
    if (here := _processor()) >= 0 and here in taken:
        with suppress(OSError):
            _move(os.sched_getaffinity(0), taken)
    taken.append(_processor())


def _move(allowed: set[int], taken: list[int]) -> None:
    if free := allowed.difference(taken):
        try:
            os.sched_setaffinity(0, free)
        finally:
            os.sched_setaffinity(0, allowed)


def _serve(inbox: SimpleQueue[Any], calls: Any, seen: int) -> None:
    while True:
        _watch(calls, seen, AWAKE)
        job = inbox.get()
        if job is None:
            return
        program, arguments, taken, told, back, bell = job
        try:
            _part(taken)
            program(*arguments)
            told.append(None)
        except BaseException as fault:
            arguments[2][0] = RELEASED
            told.append(fault)
        seen = calls[0]
        back[0] += 1
        bell.put(None)
        del job, program, arguments, taken, told, back, bell


_SCHED_GETCPU: Callable[[], int] = getattr(ctypes.PyDLL(None), "sched_getcpu", lambda: -1)
POOL = Pool()


def _start_anew() -> None:
    global POOL
    POOL = Pool()


os.register_at_fork(after_in_child=_start_anew)
