"""Two halves of one piece of work."""

import threading

import pytest

from switchnp import threads
from switchnp.threads import both


def test_both_halves_are_done_and_answered_in_order():
    assert both(lambda x, y: x - y, (5, 3), (1, 7)) == (2, -6)


def test_the_second_half_runs_beside_the_first(monkeypatch):
    monkeypatch.setattr(threads, "ALONE", False)
    meeting = threading.Barrier(2, timeout=20)

    assert both(lambda x: meeting.wait() >= 0 and x, (1,), (2,)) == (1, 2)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("alone", [False, True])
def test_an_error_of_either_half_is_raised(monkeypatch, which, alone):
    monkeypatch.setattr(threads, "ALONE", alone)

    def work(number):
        if number == which:
            raise ValueError(f"half {number}")

    with pytest.raises(ValueError, match=f"half {which}"):
        both(work, (0,), (1,))
