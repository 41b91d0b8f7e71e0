"""Learning rates: their shapes, their ends, and what is refused."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchnp.errors import ConfigError
from switchnp.schedules import KINDS, Schedule

ENDING = ("linear", "cosine")


@st.composite
def schedules(draw, kinds=KINDS):
    kind, warmup = draw(st.sampled_from(kinds)), draw(st.integers(0, 50))
    peak = draw(st.floats(1e-6, 1.0))
    steps = warmup + draw(st.integers(1, 200)) if kind in ENDING else None
    floor = peak * draw(st.floats(0.0, 1.0))
    return Schedule(kind=kind, peak=peak, warmup=warmup, steps=steps, floor=floor, flat=draw(st.booleans()))


@given(schedules())
def test_no_rate_is_above_the_peak_or_below_the_floor_behind_the_warm_up(schedule):
    rates = [schedule.rate(step) for step in range(schedule.warmup, schedule.warmup + 300)]

    assert all(schedule.floor <= rate <= schedule.peak * (1 + 1e-12) for rate in rates)
    assert rates == sorted(rates, reverse=True)


@given(schedules())
def test_the_warm_up_is_a_straight_line_from_0_that_meets_the_peak_or_flat_at_it(schedule):
    rates = [schedule.rate(step) for step in range(schedule.warmup)]

    line = [schedule.peak if schedule.flat else schedule.peak * step / schedule.warmup for step in range(schedule.warmup)]
    assert rates == pytest.approx(line, rel=1e-12)
    assert schedule.rate(schedule.warmup) == pytest.approx(schedule.peak, rel=1e-12)


@given(schedules(ENDING))
def test_linear_and_cosine_end_at_the_floor_and_stay_there_and_are_half_way_down_half_way_through(schedule):
    even = replace(schedule, steps=schedule.warmup + 2 * (schedule.steps - schedule.warmup))

    for step in (even.steps, even.steps + 1, 10 * even.steps):
        assert even.rate(step) == even.floor
    assert even.rate((even.warmup + even.steps) // 2) == pytest.approx((even.peak + even.floor) / 2, rel=1e-12)
    assert even.rate(even.steps - 1) > even.floor or even.floor == even.peak


def test_cosine_begins_and_ends_slower_than_linear():
    linear, cosine = (Schedule(kind=kind, peak=1.0, warmup=10, steps=110) for kind in ENDING)

    early, late = (cosine.rate(35), linear.rate(35)), (cosine.rate(85), linear.rate(85))

    assert early == pytest.approx(((1 + math.sqrt(0.5)) / 2, 0.75))
    assert late == pytest.approx(((1 - math.sqrt(0.5)) / 2, 0.25))


@given(st.floats(1e-6, 1.0), st.integers(1, 100), st.integers(1, 1000))
def test_the_inverse_square_root_halves_when_steps_are_four_times_as_many(peak, warmup, more):
    schedule = Schedule(kind="inverse square root", peak=peak, warmup=warmup)

    assert schedule.rate(4 * (warmup + more)) == pytest.approx(schedule.rate(warmup + more) / 2)


@pytest.mark.parametrize("step", [1, 9_999, 10_000, 10_001, 500_000])
def test_switch_transformers_were_trained_at_1_over_the_root_of_the_step(step):
    """T5X: rsqrt decay, base 1.0, warm-up 10,000: base / sqrt(max(step, warm-up))."""
    schedule = Schedule(kind="inverse square root", peak=0.01, warmup=10_000, flat=True)

    assert schedule.rate(step) == pytest.approx(1 / math.sqrt(max(step, 10_000)), rel=1e-12)


def test_an_inverse_square_root_without_warm_up_begins_at_the_peak():
    schedule = Schedule(kind="inverse square root", peak=0.5)

    assert [schedule.rate(step) for step in (0, 1, 4, 100)] == pytest.approx([0.5, 0.5, 0.25, 0.05])


@given(schedules())
def test_a_schedule_goes_to_json_and_back(schedule):
    assert Schedule.from_json(schedule.to_json()) == schedule


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "exponential"}, "the kind of schedule is 'exponential', expected one of constant, linear"),
        ({"peak": 0}, "peak is 0, expected a number above 0"),
        ({"peak": math.nan}, "peak is nan, expected a finite number"),
        ({"warmup": -1}, "warmup is -1"),
        ({"warmup": 1.5}, "warmup is 1.5, expected a whole number"),
        ({"floor": 0.1}, "floor is 0.1, expected a number from 0 to peak"),
        ({"floor": -0.1}, "floor is -0.1"),
        ({"kind": "linear"}, "steps is None, expected a whole number above warmup"),
        ({"kind": "cosine", "warmup": 10, "steps": 10}, "steps is 10, expected a whole number above warmup, 10, for cosine"),
        ({"kind": "constant", "steps": 10}, "steps is 10, expected none for constant"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        Schedule(**wrong)
