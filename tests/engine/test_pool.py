"""The pool's threads do what they are told, come back whatever happens, and are as many as was asked for."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from references import ROOT

from switchnp.engine import pool
from switchnp.kernels.jit import jit

NUMBERS = str(ROOT / "weights/switch-numbers.h5")


@jit()
def _rounds(rank, ranks, barrier, times, seen_tr):
    """Everybody leaves a mark, waits, and counts the marks of all."""
    for t in range(times):
        seen_tr[t, rank] += 1
        pool.meet(barrier, ranks)
        total = 0
        for r in range(ranks):
            total += seen_tr[t, r]
        if total != ranks:
            seen_tr[t, rank] = -1000


def _marks(one, threads, times=20):
    seen_tr = np.zeros((times, threads), np.int64)
    one.run(threads, _rounds, times, seen_tr)
    return seen_tr


def _whole(one, threads=3):
    """Does the pool still work, on all its threads?"""
    return (_marks(one, threads) == 1).all()


@pytest.mark.parametrize("threads", [1, 2, 3, 8, 40])
def test_as_many_threads_take_part_as_are_asked_for_and_meet(threads):
    one, ranks, idents = pool.Pool(), [], set()

    for _ in range(3):
        one.run(threads, lambda rank, *_: (ranks.append(rank), idents.add(threading.get_ident()), time.sleep(0.01)))

    assert sorted(ranks) == sorted([*range(threads)] * 3)
    assert len(idents) == threads
    assert _whole(one, threads)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one processor")
def test_threads_that_are_on_one_processor_part_and_may_run_where_they_might_before():
    allowed = os.sched_getaffinity(0)
    for _ in range(20):
        taken = [pool._processor()]

        pool._part(taken)

        assert taken[1] != taken[0]
        assert os.sched_getaffinity(0) == allowed


def test_a_thread_stays_where_it_is_when_there_is_no_other_processor(monkeypatch):
    allowed = os.sched_getaffinity(0)
    monkeypatch.setattr(pool, "_processor", lambda: min(allowed))
    taken = sorted(allowed)

    pool._part(taken)

    assert taken == [*sorted(allowed), min(allowed)]
    assert os.sched_getaffinity(0) == allowed


def test_fewer_threads_are_used_where_fewer_are_asked_for_later():
    one = pool.Pool()

    assert all(_whole(one, threads) for threads in (4, 2, 3, 1, 5, 2))


def test_who_finds_the_pool_busy_runs_alone():
    one, inside, leave, ranks = pool.Pool(), threading.Event(), threading.Event(), []

    def wait(rank, *_):
        inside.set()
        assert leave.wait(60)

    other = threading.Thread(target=one.run, args=(2, wait))
    other.start()
    assert inside.wait(60)
    one.run(2, lambda rank, count, *_: ranks.append((rank, count)))
    leave.set()
    other.join(60)

    assert ranks == [(0, 1)]
    assert _whole(one)


@pytest.mark.parametrize("culprit", [0, 1, 2])
def test_a_fault_in_any_thread_is_raised_in_the_caller_and_nobody_waits_for_ever(culprit):
    one = pool.Pool()

    def program(rank, ranks, barrier):
        if rank == culprit:
            raise ZeroDivisionError(f"in {rank}")
        for _ in range(3):
            pool.meet(barrier, ranks)

    for _ in range(5):
        with pytest.raises(ZeroDivisionError, match=f"in {culprit}"):
            one.run(3, program)
        assert _whole(one)


def test_where_no_more_threads_are_to_be_had_there_are_fewer(monkeypatch):
    one, start = pool.Pool(), threading.Thread.start
    started = []

    def scarce(thread):
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", scarce)
    counts = []
    one.run(5, lambda rank, ranks, barrier: counts.append(ranks))

    assert counts == [2, 2]


def _interrupted_at(one, n):
    """Run a program, and raise KeyboardInterrupt before the n-th line of the pool's own; was there an n-th?"""
    left, met = [n], threading.current_thread()

    def trace(frame, event, _):
        if frame.f_code.co_filename != pool.__file__ or threading.current_thread() is not met:
            return None
        if event == "line":
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        _marks(one, 3)
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return left[0] <= 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # one in a crew's last breath is shown, not raised
@pytest.mark.parametrize("new", [True, False], ids=["new", "used"])
def test_an_interrupt_before_any_line_of_the_pool_leaves_it_usable(new):
    n, raised = 1, True
    one = pool.Pool()
    while raised:
        one = pool.Pool() if new else one
        raised = _interrupted_at(one, n)

        assert _whole(one), n
        ranks = []
        one.run(3, lambda rank, *_, ranks=ranks: (ranks.append(rank), time.sleep(0.002)))
        assert sorted(ranks) == [0, 1, 2], n
        n += 1

    assert n > 20


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals reach the main thread alone")
def test_two_thousand_real_interrupts_at_any_time_leave_the_pool_usable(monkeypatch):
    one, rng, caught = pool.Pool(), np.random.default_rng(0), 0
    # One may come while garbage is collected; pytest keeps the traceback of that, whose frames would keep a lost crew.
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    assert _whole(one)  # compiled before the first interrupt, which a compiler does not survive
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for _ in range(2000):
            try:
                signal.setitimer(signal.ITIMER_REAL, float(rng.uniform(1e-6, 3e-4)))
                for _ in range(50):
                    seen_tr = _marks(one, 2, 3)
                    assert (
                        seen_tr[:, 0] == 1
                    ).all()  # a crew that an interrupt has lost may not be free yet: then one runs alone
                    assert (seen_tr == seen_tr[0]).all()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                caught += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    assert caught > 1000
    assert _whole(one)


def _python(code, timeout=240, **options):
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, NUMBERS]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=ROOT / "tests", **options)


INSIDE = """
import sys, threading, time
import switchnp
model = switchnp.load(sys.argv[1], threads=2)
model.generate("say in German: 84")
ids = [[5] * 500] * 8
def work(call):
    while True:
        call()
"""


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "raise ValueError('mine')"])
def test_a_program_ends_while_a_thread_is_inside_a_call(end):
    start = f"{INSIDE}threading.Thread(target=work, args=[lambda: model.encode(ids)], daemon=True).start()\n"
    for wait in (0.0, 0.05, 0.2):
        done = _python(f"{start}time.sleep({wait})\n{end}")

        assert done.returncode == {"": 0, "sys.exit(3)": 3}.get(end, 1), done.stderr
        assert ("ValueError: mine" in done.stderr) == (end.startswith("raise"))


@pytest.mark.parametrize("call", ["switchnp.load(sys.argv[1])", "model.tokenizer.encode('say in German: 84')"])
def test_a_program_ends_while_threads_are_inside_a_library(call):
    start = f"for _ in range(2):\n    threading.Thread(target=work, args=[lambda: {call}], daemon=True).start()\n"
    for wait in (0.02, 0.05, 0.1):
        assert _python(f"{INSIDE}{start}time.sleep({wait})").returncode == 0


def test_an_interrupt_stops_a_long_job_and_the_next_answers_are_the_same():
    code = """
import signal, sys, threading, time, os
import numpy as np
import switchnp
model = switchnp.load(sys.argv[1], threads=2)
ids = np.random.default_rng(0).integers(3, 500, (4, 60))
before = model.encode(ids).tobytes(), model.generate(ids, max_new_tokens=20, num_beams=2).tobytes()
def job(kind):
    many = np.tile(ids, (64, 1))
    while True:
        model.encode(many) if kind == "encode" else model.generate(many, max_new_tokens=200, min_new_tokens=199)
for turn in range(10):
    sent = []
    def send():
        time.sleep(0.05 + 0.05 * turn)
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)
    sender = threading.Thread(target=send)
    sender.start()
    try:
        job(("encode", "generate")[turn % 2])
    except KeyboardInterrupt:
        print(time.perf_counter() - sent[0])
    sender.join()
    assert before == (model.encode(ids).tobytes(), model.generate(ids, max_new_tokens=20, num_beams=2).tobytes())
"""
    done = _python(code)

    assert done.returncode == 0, done.stderr
    waits = [float(line) for line in done.stdout.split()]
    assert len(waits) == 10
    assert max(waits) < 20  # a second on a quiet machine


def test_a_pool_that_is_gone_leaves_no_thread_behind():
    one = pool.Pool()
    assert _whole(one)
    names = [thread for thread in threading.enumerate() if thread.name == "switchnp"]
    ours = [thread for thread in names if thread in _threads_of(one)]

    del one
    deadline = time.monotonic() + 60
    while any(thread.is_alive() for thread in ours) and time.monotonic() < deadline:
        time.sleep(0.01)

    assert len(ours) == 2
    assert not any(thread.is_alive() for thread in ours)


def _threads_of(one):
    idents = []
    one.run(3, lambda *_: (idents.append(threading.current_thread()), time.sleep(0.05)))
    return idents
