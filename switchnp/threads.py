"""Two halves of one piece of work, on two threads."""

import os
import threading

__all__ = ["both"]

ALONE = (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1) < 2


def both(work, one, other):
    """work(*one) and work(*other), side by side where there are two processors; what compiled code and NumPy do runs at once.

    A thread is made for the second and ends with it, so that nothing is left that a `fork` would lose.
    """
    if ALONE:
        return work(*one), work(*other)
    answer = {}

    def second():
        try:
            answer["is"] = work(*other)
        except BaseException as error:
            answer["error"] = error

    thread = threading.Thread(target=second)
    thread.start()
    try:
        first = work(*one)
    finally:
        thread.join()
    if "error" in answer:
        raise answer["error"]
    return first, answer["is"]
