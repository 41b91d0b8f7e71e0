"""A lock is free on both sides of a fork, whoever held it before and whatever comes while it is waited for."""

import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys, threading, time
from switchnp.forking import free_after_fork

lock, held = free_after_fork(threading.RLock()), threading.Event()

def hold():
    with lock:
        held.set()
        time.sleep(0.5)

def is_free():
    found = []
    asker = threading.Thread(target=lambda: found.append(lock.acquire(timeout=30)))
    asker.start()
    asker.join()
    return found == [True]

def interrupt(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
holder = threading.Thread(target=hold)
holder.start()
held.wait()
"""
FORK = """
def forked():
    child = os.fork()
    if child == 0:
        os._exit(0 if is_free() else 7)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""
PROGRAMS = {
    "by another thread": "print(forked(), is_free())",
    "by another thread, and an interrupt comes": "signal.setitimer(signal.ITIMER_REAL, 0.1)\nprint(forked(), is_free())",
    "by nobody": "holder.join()\nprint(forked(), is_free())",
    "by another thread that forks": """
children = []
threads = [threading.Thread(target=lambda: children.append(forked())) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(max(children), is_free())
""",
}


@pytest.mark.parametrize("held", PROGRAMS)
def test_a_lock_that_was_held_is_free_on_both_sides_of_a_fork(held):
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PROGRAM + FORK + PROGRAMS[held]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)

    assert (done.returncode, done.stdout) == (0, "0 True\n"), done.stderr
