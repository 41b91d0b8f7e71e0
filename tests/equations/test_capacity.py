"""Switch eqs. 3 and 7: is there room, and which way to the seat?"""

import math

import numpy as np
import pytest
from draw import arguments, seeds, sizes
from hypothesis import given
from hypothesis import strategies as st

from switchnp import equations as eq
from switchnp.equations.capacity import CAPACITIES

RULES = st.sampled_from(sorted(set(CAPACITIES) - {"floor of T / E"}))
FACTORS = st.sampled_from([0.5, 1.0, 1.25, 2.0])
rooms = st.integers(0, 3)  # so few that queues overflow
GROUPS = [(1, 8, 1.25), (10, 4, 1), (30, 8, 1), (100, 8, 1.25), (512, 128, 1.25)]
WILD = {
    "the paper": ("exact", 0, [0.15625, 2.5, 3.75, 15.625, 5.0]),
    "mesh-tf": ("floor up to T", 4, [4, 4, 4, 15, 5]),
    "flaxformer": ("round", 4, [4, 4, 4, 16, 5]),
    "DeepSpeed": ("ceil", 4, [4, 4, 4, 16, 5]),
    "fastmoe": ("ceil", 0, [1, 3, 4, 16, 5]),
    "fairseq": ("floor of ceil", 0, [1, 3, 4, 16, 5]),
    "labml": ("floor", 0, [0, 2, 3, 15, 5]),
    "nanoMoE": ("floor to even", 0, [0, 2, 4, 16, 6]),
    "keras.io": ("floor of T / E", 0, [0, 2, 3, 12, 4]),
}


@pytest.mark.parametrize("code", WILD)
def test_each_code_rounds_the_capacity_as_the_table_says(code):
    """3: the paper does not round; its readers do, each in a way of their own."""
    rule, minimum, expected = WILD[code]

    actual = [eq.expert_capacity(T, E, factor, rule, minimum) for T, E, factor in GROUPS]

    assert actual == expected


def test_the_rules_part_where_the_table_does_not_tell_them_apart():
    """3: fairseq rounds up before the factor, mesh-tf never goes beyond the group, flaxformer rounds a half to even."""
    assert eq.expert_capacity(5, 4, 2.0, "floor of ceil") == 4 != eq.expert_capacity(5, 4, 2.0, "ceil")
    assert eq.expert_capacity(3, 2, 4.0, "floor up to T") == 3 != eq.expert_capacity(3, 2, 4.0, "floor")
    assert [eq.expert_capacity(T, 2, 1.0, "round") for T in (1, 3, 5, 7, 9)] == [1, 2, 2, 4, 4]
    assert {rule for rule, _, _ in WILD.values()} == set(CAPACITIES)


@given(sizes, sizes, FACTORS)
def test_unless_told_otherwise_the_capacity_is_rounded_up_and_at_least_one(T, E, factor):
    """3: at least 1 also where it is told to round down."""
    C, floored = eq.expert_capacity(T, E, factor), eq.expert_capacity(T, E, factor, "floor")

    assert C - 1 < T * factor / E <= C
    assert floored == max(math.floor(T * factor / E), 1)


@given(sizes, seeds, rooms)
def test_an_expert_keeps_as_many_as_ask_or_as_fit(size, seed, C):
    """3a: kept = min(n_i, C) of each expert, and all others are dropped."""
    expert_t, E, _ = arguments(eq.slots, size, seed).values()

    slot_t = eq.slots(expert_t, E, C)

    asked_e = np.bincount(expert_t, minlength=E)
    kept_e = np.bincount(expert_t[slot_t >= 0], minlength=E)
    np.testing.assert_array_equal(kept_e, np.minimum(asked_e, C))
    assert (slot_t < 0).sum() == np.maximum(asked_e - C, 0).sum()


@given(sizes, seeds, rooms)
def test_no_seat_is_given_twice(size, seed, C):
    """3b: every kept token has an (expert, slot) of its own, and no slot is C or more."""
    expert_t, E, _ = arguments(eq.slots, size, seed).values()

    slot_t = eq.slots(expert_t, E, C)

    seats = [(e, c) for e, c in zip(expert_t, slot_t, strict=True) if c >= 0]
    assert len(set(seats)) == len(seats)
    assert all(c < C for _, c in seats)
    assert ((slot_t >= 0) | (slot_t == -1)).all()


@given(sizes, seeds, rooms)
def test_more_room_moves_nobody(size, seed, C):
    """3c: kept(C) is a subset of kept(C + 1), in the same slots."""
    expert_t, E, _ = arguments(eq.slots, size, seed).values()

    slot_t, roomier_t = eq.slots(expert_t, E, C), eq.slots(expert_t, E, C + 1)

    kept_t = slot_t >= 0
    np.testing.assert_array_equal(roomier_t[kept_t], slot_t[kept_t])


@given(sizes, seeds, st.integers(0, 5))
def test_room_for_every_token_drops_none(size, seed, spare):
    """3d: C >= T."""
    expert_t, E, _ = arguments(eq.slots, size, seed).values()

    slot_t = eq.slots(expert_t, E, len(expert_t) + spare)

    assert (slot_t >= 0).all()


@given(sizes, seeds, RULES, st.integers(0, 4))
def test_a_factor_of_as_many_as_there_are_experts_drops_none(size, seed, rule, spare):
    """3d: capacity factor >= N, however it is rounded."""
    expert_t, E, _ = arguments(eq.slots, size, seed).values()
    C = eq.expert_capacity(len(expert_t), E, float(E + spare), rule, minimum=0)

    slot_t = eq.slots(expert_t, E, C)

    assert (slot_t >= 0).all()


@given(sizes, sizes, seeds)
def test_perfect_balance_needs_no_spare_room(E, each, seed):
    """3d: every expert asked T/N times and C = T/N."""
    expert_t = np.random.default_rng(seed).permutation(np.arange(E * each) % E)
    C = eq.expert_capacity(E * each, E, 1.0, "floor", minimum=0)

    slot_t = eq.slots(expert_t, E, C)

    assert (slot_t >= 0).all()


@given(sizes, seeds, st.integers(1, 4), st.integers(0, 4))
def test_splitting_a_group_saves_no_token(size, seed, G, C):
    """3e: G groups of capacity C drop at least as many as one group of capacity G C."""
    expert_t, E, _ = arguments(eq.slots, size, seed).values()

    one = (eq.slots(expert_t, E, G * C) < 0).sum()
    split = sum((eq.slots(group_t, E, C) < 0).sum() for group_t in np.array_split(expert_t, G))

    assert split >= one


@given(sizes, seeds, rooms)
def test_first_come_first_served(size, seed, C):
    """3f: the first C askers sit in slots 0..C-1 with no hole, as if they came one after the other."""
    expert_t, E, _ = arguments(eq.slots, size, seed).values()

    slot_t = eq.slots(expert_t, E, C)

    for e in range(E):
        queue = slot_t[expert_t == e].tolist()
        room = min(C, len(queue))
        assert queue == [*range(room), *[-1] * (len(queue) - room)]


@given(sizes, seeds, sizes, FACTORS)
def test_padded_rows_grow_with_the_factor_and_not_with_the_experts(size, seed, E, factor):
    """3g: the experts compute E C rows, which is factor * T but for the rounding: less than one row an expert."""
    x_td = arguments(lambda x_td: None, size, seed)["x_td"]
    expert_t = np.random.default_rng(seed).integers(E, size=len(x_td))
    C = eq.expert_capacity(len(x_td), E, factor, "ceil", minimum=0)

    x_ecd = eq.dispatch(x_td, expert_t, eq.slots(expert_t, E, C), E, C)

    rows = x_ecd.shape[0] * x_ecd.shape[1]
    assert factor * len(x_td) <= rows < factor * len(x_td) + E


@given(st.integers(2, 9), seeds, FACTORS)
def test_a_token_alone_needs_a_minimum_capacity(E, seed, factor):
    """3h: T = 1 rounded down has no room where the factor is below N; a minimum of 1 gives it a seat."""
    factor = min(factor, E - 0.5)
    expert_t = np.random.default_rng(seed).integers(E, size=1)

    floored = eq.expert_capacity(1, E, factor, "floor", minimum=0)
    helped = eq.expert_capacity(1, E, factor, "floor", minimum=1)

    assert (floored, helped) == (0, 1)
    assert eq.slots(expert_t, E, floored) == [-1]
    assert eq.slots(expert_t, E, helped) == [0]


@given(sizes, seeds)
def test_a_sentence_loses_its_seats_to_the_one_before_it(size, seed):
    """3i: queued as one group; the same sentence in a group of its own keeps them all."""
    expert_t, E, _ = arguments(eq.slots, size, seed).values()
    T, C = len(expert_t), np.bincount(expert_t).max()
    elsewhere_t = np.full(T, E)

    alone_t = eq.slots(expert_t, E + 1, C)
    after_itself_t = eq.slots(np.concatenate([expert_t, expert_t]), E + 1, C)[T:]
    after_others_t = eq.slots(np.concatenate([elsewhere_t, expert_t]), E + 1, C)[T:]

    assert (alone_t >= 0).all()
    assert (after_itself_t < 0).any()
    np.testing.assert_array_equal(after_others_t, alone_t)


@given(sizes, seeds, st.integers(1, 4))
def test_one_token_at_a_time_never_drops(size, seed, C):
    """3j: so decoding with a cache agrees with the whole sentence exactly where capacity does not bind."""
    expert_t, E, _ = arguments(eq.slots, size, seed).values()

    together_t = eq.slots(expert_t, E, C)
    alone_t = np.concatenate([eq.slots(one_t, E, C) for one_t in np.split(expert_t, len(expert_t))])

    assert (alone_t == 0).all()
    binds = np.bincount(expert_t).max() > C
    assert (together_t < 0).any() == binds


@pytest.mark.parametrize(("T", "E", "factor"), [(64, 8, 1.0), (64, 8, 1.25), (256, 8, 1.0), (256, 32, 1.25)])
def test_a_random_router_drops_what_the_binomial_says(T, E, factor):
    """3: the drop fraction is N E[max(0, n - C)] / T with n binomial, so small groups cannot stay below 1 %."""
    C = eq.expert_capacity(T, E, factor, "floor")
    rng = np.random.default_rng(T)

    dropped = np.mean([eq.slots(rng.integers(E, size=T), E, C) < 0 for _ in range(400)])

    chance = [math.comb(T, n) * (1 / E) ** n * (1 - 1 / E) ** (T - n) for n in range(T + 1)]
    expected = E / T * sum(chance[n] * (n - C) for n in range(C + 1, T + 1))
    assert dropped == pytest.approx(expected, abs=0.005)  # 400 draws; its standard error is below 0.002


@given(sizes, seeds)
def test_the_seating_is_ones_with_at_most_one_to_a_token_and_a_seat(size, seed):
    """7a: binary; at most 1 a token, at most 1 a slot, at most C an expert."""
    drawn = arguments(eq.seating, size, seed)

    seat_tec = eq.seating(**drawn).astype(int)

    assert set(np.unique(seat_tec)) <= {0, 1}
    np.testing.assert_array_equal(seat_tec.sum(axis=(1, 2)), drawn["slot_t"] >= 0)
    assert seat_tec.sum(axis=0).max() <= 1
    assert seat_tec.sum(axis=(0, 2)).max() <= drawn["C"]


@given(sizes, seeds)
def test_dispatch_is_a_gather(size, seed):
    """7b: seat (e, c) holds the token that was given it, bit for bit, and zeros where nobody sits."""
    drawn = arguments(eq.dispatch, size, seed)
    x_td, expert_t, slot_t, E, C = drawn.values()
    expected_ecd = np.zeros((E, C, x_td.shape[1]))
    for t in np.flatnonzero(slot_t >= 0):
        expected_ecd[expert_t[t], slot_t[t]] = x_td[t]

    x_ecd = eq.dispatch(**drawn)

    np.testing.assert_array_equal(x_ecd, expected_ecd)


@given(sizes, seeds)
def test_combine_is_dispatch_backwards_times_the_gate(size, seed):
    """7b: <dispatch(x), y> gated by token is <x, combine(y)>: the same tensor, transposed."""
    x_td, y_ecd, expert_t, slot_t, gate_t = arguments(lambda x_td, y_ecd, expert_t, slot_t, gate_t: None, size, seed).values()
    E, C, _ = y_ecd.shape

    out = np.sum(eq.dispatch(gate_t[:, None] * x_td, expert_t, slot_t, E, C) * y_ecd)
    home = np.sum(x_td * eq.combine(y_ecd, expert_t, slot_t, gate_t))

    np.testing.assert_allclose(home, out, rtol=1e-10, atol=1e-12)


@given(sizes, seeds)
def test_experts_that_do_nothing_return_the_kept_tokens(size, seed):
    """7b: gates of 1 give kept rows back exactly, and dropped rows as zeros."""
    drawn = arguments(eq.dispatch, size, seed)
    x_td, expert_t, slot_t, _, _ = drawn.values()

    y_td = eq.combine(eq.dispatch(**drawn), expert_t, slot_t, np.ones(len(x_td)))

    np.testing.assert_array_equal(y_td, np.where(slot_t[:, None] >= 0, x_td, 0))


@given(sizes, sizes, sizes, seeds)
def test_dispatch_by_matmul_is_quadratic_in_the_group(E, each, D, seed):
    """7c: T E C d = factor T^2 d multiplications, where a gather moves at most T rows of d."""
    T = E * each
    expert_t = np.random.default_rng(seed).integers(E, size=T)
    C = eq.expert_capacity(T, E, 2.0)

    seat_tec = eq.seating(expert_t, eq.slots(expert_t, E, C), E, C)

    multiplications, gathered = seat_tec.size * D, np.count_nonzero(seat_tec) * D
    assert multiplications == 2 * T**2 * D
    assert gathered <= T * D


@given(sizes, seeds)
def test_dispatch_and_combine_stay_in_the_layers_precision(size, seed):
    """§2.4: the gate is float32 or better; what leaves the layer is recast."""
    drawn = arguments(eq.dispatch, size, seed)
    x_td = drawn["x_td"].astype(np.float32)

    x_ecd = eq.dispatch(**drawn | {"x_td": x_td})
    y_td = eq.combine(x_ecd, drawn["expert_t"], drawn["slot_t"], np.ones(len(x_td), np.float64))

    assert x_ecd.dtype == np.float32
    assert y_td.dtype == np.float32


@given(sizes, seeds)
def test_old_transformers_pass_only_the_dropped(size, seed):
    """2f: not the paper's rule; a dropped token gets its gate times itself, a kept one its answer."""
    y_td, n_td, _, slot_t, gate_t = arguments(lambda y_td, n_td, expert_t, slot_t, gate_t: None, size, seed).values()

    passed_td = eq.pass_dropped(y_td, n_td, slot_t, gate_t)

    for t, slot in enumerate(slot_t):
        expected_d = y_td[t] if slot >= 0 else gate_t[t] * n_td[t]
        np.testing.assert_array_equal(passed_td[t], expected_d)


@given(sizes, seeds)
def test_passing_the_dropped_stays_in_the_layers_precision(size, seed):
    """§2.4: whatever the gate's precision."""
    drawn = arguments(lambda y_td, n_td, expert_t, slot_t: None, size, seed, np.float32)
    y_td, n_td, _, slot_t = drawn.values()

    passed_td = eq.pass_dropped(y_td, n_td, slot_t, np.ones(len(y_td), np.float64))

    assert passed_td.dtype == np.float32
