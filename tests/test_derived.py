"""An attribute that is worked out once, without a lock."""

import threading

from switchnp.derived import lazy


class Sum:
    """Counts how often it is worked out."""

    def __init__(self, *terms):
        self.terms, self.times = terms, 0

    @lazy
    def total(self):
        """All together."""
        self.times += 1
        return sum(self.terms)


def test_it_is_worked_out_at_the_first_question_only():
    one = Sum(1, 2)

    assert (one.times, one.total, one.total, one.times) == (0, 3, 3, 1)


def test_each_object_has_its_own():
    assert (Sum(1, 2).total, Sum(5).total) == (3, 5)


def test_its_description_is_that_of_the_method():
    assert Sum.total.__doc__ == "All together."


def test_nobody_waits_for_an_object_that_takes_long():
    begun, ready = threading.Event(), threading.Event()

    class Patient(Sum):
        @lazy
        def total(self):
            begun.set()
            return bool(self.terms) or ready.wait(60)

    slow = Patient()
    worker = threading.Thread(target=lambda: slow.total)
    worker.start()

    assert begun.wait(60)
    assert Patient(1).total is True
    assert worker.is_alive()
    ready.set()
    worker.join(60)
    assert slow.total is True
