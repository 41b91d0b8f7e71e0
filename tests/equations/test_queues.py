"""Who is seated, in every order: first come, by gate, the next choice of those left behind, experts that choose."""

import numpy as np
import pytest
from draw import arguments, seeds, sizes
from hypothesis import given
from hypothesis import strategies as st

from switchnp import equations as eq

rooms = st.integers(0, 3)  # so few that queues overflow
crowds = st.integers(1, 99)  # equals among 16 or fewer stay in order without being told to
SPLIT = np.array([[0.5, 0.5], [0.9, 0.1], [0.1, 0.9]])  # one token that cannot decide, and two that each expert prefers


def asking(size, seed):
    """Tokens with different experts for choices, who asks, an order, and how many experts there are."""
    p_te = arguments(lambda p_te: None, size, seed)["p_te"]
    T, E = p_te.shape
    rng = np.random.default_rng(seed)
    expert_tn = np.argsort(p_te, axis=1)[:, : rng.integers(1, E + 1)]
    return expert_tn, rng.uniform(size=expert_tn.shape) < 0.8, rng.permutation(T), E


def surely_asking(size, seed):
    """Tokens with one choice each, and gates without ties."""
    expert_t, E, _ = arguments(eq.slots, size, seed).values()
    gate_t = np.random.default_rng(seed).permutation(len(expert_t)) / len(expert_t)
    return expert_t, gate_t, E


def one_choice(expert_t, order_t, E, C):
    """The queue of tokens that all ask, and for one expert."""
    return eq.queue_slots(expert_t[:, None], np.ones((len(expert_t), 1), bool), order_t, E, C)[:, 0]


def by_gate(expert_t, gate_t, E, C):
    """Batch-prioritised routing."""
    return one_choice(expert_t, eq.surest_first(gate_t), E, C)


@given(sizes, seeds, rooms)
def test_one_choice_in_the_tokens_order_is_the_papers_queue(size, seed, C):
    """3f: first come, first served, slot for slot."""
    expert_t, E, _ = arguments(eq.slots, size, seed).values()

    slot_t = one_choice(expert_t, np.arange(len(expert_t)), E, C)

    np.testing.assert_array_equal(slot_t, eq.slots(expert_t, E, C))


@given(sizes, seeds, rooms)
def test_the_queue_is_as_if_choices_came_one_after_the_other(size, seed, C):
    """3f: all first choices in their order, then all second ones in the same order, and so on."""
    expert_tn, asks_tn, order_t, E = asking(size, seed)
    waiting_e = [0] * E
    expected_tn = np.full(expert_tn.shape, -1)
    for n in range(expert_tn.shape[1]):
        for t in order_t:
            e = expert_tn[t, n]
            if asks_tn[t, n] and waiting_e[e] < C:
                expected_tn[t, n] = waiting_e[e]
                waiting_e[e] += 1

    slot_tn = eq.queue_slots(expert_tn, asks_tn, order_t, E, C)

    np.testing.assert_array_equal(slot_tn, expected_tn)


@given(sizes, seeds, rooms)
def test_an_expert_that_dropped_a_first_choice_seats_no_second_one(size, seed, C):
    """GShard: second choices queue behind all first ones, third ones behind all second ones."""
    expert_tn, asks_tn, order_t, E = asking(size, seed)

    slot_tn = eq.queue_slots(expert_tn, asks_tn, order_t, E, C)

    N = expert_tn.shape[1]
    for e in range(E):
        dropped_n = ((expert_tn == e) & asks_tn & (slot_tn < 0)).any(axis=0)
        seated_n = ((expert_tn == e) & (slot_tn >= 0)).any(axis=0)
        assert not any(dropped_n[n] and seated_n[n + 1 :].any() for n in range(N))


@given(sizes, seeds, rooms)
def test_who_does_not_ask_takes_no_slot_and_moves_nobody(size, seed, C):
    """GShard: whatever expert is named where nobody asks."""
    expert_tn, asks_tn, order_t, E = asking(size, seed)
    other_tn = np.where(asks_tn, expert_tn, (expert_tn + 1) % E)

    slot_tn = eq.queue_slots(expert_tn, asks_tn, order_t, E, C)

    assert (slot_tn[~asks_tn] == -1).all()
    np.testing.assert_array_equal(slot_tn, eq.queue_slots(other_tn, asks_tn, order_t, E, C))


@given(sizes, seeds, rooms)
def test_an_experts_slots_have_no_hole(size, seed, C):
    """3f: 0..min(n, C)-1, each once, whatever the order and the number of choices."""
    expert_tn, asks_tn, order_t, E = asking(size, seed)

    slot_tn = eq.queue_slots(expert_tn, asks_tn, order_t, E, C)

    for e in range(E):
        asked_tn = (expert_tn == e) & asks_tn
        taken = slot_tn[asked_tn & (slot_tn >= 0)]
        assert sorted(taken) == [*range(min(asked_tn.sum(), C))]


@given(sizes, seeds, rooms)
def test_more_room_moves_nobody_in_any_order(size, seed, C):
    """3c: kept(C) is a subset of kept(C + 1), in the same slots, second choices too."""
    expert_tn, asks_tn, order_t, E = asking(size, seed)

    slot_tn, roomier_tn = (eq.queue_slots(expert_tn, asks_tn, order_t, E, room) for room in (C, C + 1))

    kept_tn = slot_tn >= 0
    np.testing.assert_array_equal(roomier_tn[kept_tn], slot_tn[kept_tn])


@given(sizes, seeds, rooms)
def test_an_order_is_tokens_that_stand_so(size, seed, C):
    """3i: random order included; where a token stood before has no say."""
    expert_tn, asks_tn, order_t, E = asking(size, seed)
    T = len(order_t)

    slot_tn = eq.queue_slots(expert_tn, asks_tn, order_t, E, C)
    standing_tn = eq.queue_slots(expert_tn[order_t], asks_tn[order_t], np.arange(T), E, C)

    np.testing.assert_array_equal(slot_tn[order_t], standing_tn)


@given(crowds, seeds)
def test_the_surest_come_first_and_equals_as_they_stand(size, seed):
    """V-MoE: every token once, gates never rising, and among equal gates the earlier token first."""
    gate_t = np.round(arguments(lambda gate_t: None, size, seed)["gate_t"], 1)

    order_t = eq.surest_first(gate_t)

    assert order_t.tolist() == sorted(range(len(gate_t)), key=lambda t: (-gate_t[t], t))


@given(sizes, seeds, rooms)
def test_by_gate_an_expert_keeps_its_surest(size, seed, C):
    """V-MoE: the C largest gates that ask for it, the surest in slot 0."""
    expert_t, gate_t, E = surely_asking(size, seed)

    slot_t = by_gate(expert_t, gate_t, E, C)

    for e in range(E):
        surest = sorted(np.flatnonzero(expert_t == e), key=lambda t: -gate_t[t])
        room = min(C, len(surest))
        assert slot_t[surest].tolist() == [*range(room), *[-1] * (len(surest) - room)]


@given(sizes, seeds, rooms)
def test_by_gate_the_tokens_places_do_not_matter(size, seed, C):
    """V-MoE: permutation-equivariant, as long as no two are equally sure."""
    expert_t, gate_t, E = surely_asking(size, seed)
    places_t = np.random.default_rng(seed + 1).permutation(len(expert_t))

    moved_t = by_gate(expert_t[places_t], gate_t[places_t], E, C)

    np.testing.assert_array_equal(moved_t, by_gate(expert_t, gate_t, E, C)[places_t])


@given(crowds, seeds, rooms)
def test_among_the_equally_sure_the_first_comes_first(size, seed, C):
    """V-MoE: with equal gates, by gate is first come."""
    expert_t, E, _ = arguments(eq.slots, size, seed).values()

    slot_t = by_gate(expert_t, np.full(len(expert_t), 0.5), E, C)

    np.testing.assert_array_equal(slot_t, eq.slots(expert_t, E, C))


@given(sizes, seeds, rooms, st.integers(0, 9))
def test_first_come_is_causal(size, seed, C, end):
    """3i: a prefix has the slots that it has without what follows."""
    expert_t, E, _ = arguments(eq.slots, size, seed).values()
    start_t = expert_t[:end]

    whole_t = one_choice(expert_t, np.arange(len(expert_t)), E, C)
    prefix_t = one_choice(start_t, np.arange(len(start_t)), E, C)

    np.testing.assert_array_equal(whole_t[:end], prefix_t)


def test_by_gate_a_later_token_evicts_an_earlier_one():
    """3i: so a decoder under batch-prioritised routing sees the future."""
    expert_t, gate_t = np.array([0, 0]), np.array([0.6, 0.9])

    before_t, after_t = by_gate(expert_t[:1], gate_t[:1], 1, 1), by_gate(expert_t, gate_t, 1, 1)

    assert before_t.tolist() == [0]
    assert after_t.tolist() == [-1, 0]


def test_with_second_choices_even_first_come_is_not_causal():
    """3i: a second choice waits for the first choices of later tokens."""
    expert_tn, asks_tn = np.array([[0, 1], [1, 0]]), np.ones((2, 2), bool)

    before_tn = eq.queue_slots(expert_tn[:1], asks_tn[:1], np.arange(1), 2, 1)
    after_tn = eq.queue_slots(expert_tn, asks_tn, np.arange(2), 2, 1)

    assert before_tn.tolist() == [[0, 0]]
    assert after_tn.tolist() == [[0, -1], [0, -1]]


@given(sizes, seeds, rooms)
def test_in_one_group_a_sentence_waits_for_those_before_it_and_for_none_behind(size, seed, C):
    """3i: first come over a flattened batch; as many slots further back as tokens of those before asked for its expert."""
    expert_t, E, _ = arguments(eq.slots, size, seed).values()
    rng, T = np.random.default_rng(seed), len(expert_t)
    before_t, behind_t = rng.integers(E, size=T), rng.integers(E, size=T)

    slot_t = one_choice(np.concatenate([before_t, expert_t, behind_t]), np.arange(3 * T), E, C)[T : 2 * T]

    last_t = one_choice(np.concatenate([before_t, expert_t]), np.arange(2 * T), E, C)[T:]
    place_t = eq.slots(expert_t, E, T) + np.bincount(before_t, minlength=E)[expert_t]
    np.testing.assert_array_equal(slot_t, last_t)
    np.testing.assert_array_equal(slot_t, np.where(place_t < C, place_t, -1))


@given(sizes, seeds, rooms)
def test_with_one_choice_those_left_behind_stay_behind(size, seed, C):
    """App. B: k = 1 is the paper's queue."""
    expert_t, E, _ = arguments(eq.slots, size, seed).values()

    slot_tn = eq.left_behind_slots(expert_t[:, None], E, C)

    np.testing.assert_array_equal(slot_tn[:, 0], eq.slots(expert_t, E, C))


@given(sizes, seeds, rooms)
def test_a_token_left_behind_sits_at_its_first_choice_that_had_room(size, seed, C):
    """App. B: stage by stage, one token after the other, behind all who sit there already."""
    expert_tn, _, _, E = asking(size, seed)
    taken_e = [0] * E
    expected_tn = np.full(expert_tn.shape, -1)
    for n in range(expert_tn.shape[1]):
        for t in np.flatnonzero((expected_tn < 0).all(axis=1)):
            e = expert_tn[t, n]
            if taken_e[e] < C:
                expected_tn[t, n] = taken_e[e]
                taken_e[e] += 1

    slot_tn = eq.left_behind_slots(expert_tn, E, C)

    np.testing.assert_array_equal(slot_tn, expected_tn)


@given(sizes, seeds, rooms)
def test_a_token_passes_over_none_but_full_experts(size, seed, C):
    """App. B: so who is dropped found all its choices full."""
    expert_tn, _, _, E = asking(size, seed)

    slot_tn = eq.left_behind_slots(expert_tn, E, C)

    kept_e = np.bincount(expert_tn[slot_tn >= 0], minlength=E)
    sits_t = (slot_tn >= 0).any(axis=1)
    stage_t = np.where(sits_t, (slot_tn >= 0).argmax(axis=1), expert_tn.shape[1])
    for t, stage in enumerate(stage_t):
        assert (kept_e[expert_tn[t, :stage]] == C).all()


@given(sizes, seeds, rooms)
def test_no_token_sits_twice_and_no_seat_is_given_twice(size, seed, C):
    """App. B, 3b: at most one slot a token, no two tokens share an expert's slot, and the slots have no hole."""
    expert_tn, _, _, E = asking(size, seed)

    slot_tn = eq.left_behind_slots(expert_tn, E, C)

    assert ((slot_tn >= 0).sum(axis=1) <= 1).all()
    for e in range(E):
        taken = sorted(slot_tn[(expert_tn == e) & (slot_tn >= 0)])
        assert taken == [*range(len(taken))]
        assert len(taken) <= C


@given(sizes, seeds, rooms)
def test_later_stages_move_nobody_so_another_choice_drops_no_more(size, seed, C):
    """App. B: drops do not rise with k."""
    expert_tn, _, _, E = asking(size, seed)

    slot_tn, fewer_tn = eq.left_behind_slots(expert_tn, E, C), eq.left_behind_slots(expert_tn[:, :-1], E, C)

    np.testing.assert_array_equal(slot_tn[:, :-1], fewer_tn)
    left_t, left_before_t = ((seat_tn < 0).all(axis=1) for seat_tn in (slot_tn, fewer_tn))
    assert not (left_t & ~left_before_t).any()


@given(sizes, seeds, rooms)
def test_with_every_expert_to_try_only_a_full_house_drops(size, seed, C):
    """App. B: k = N drops max(0, T - N C), whatever the tokens ask for."""
    p_te = arguments(lambda p_te: None, size, seed)["p_te"]
    T, E = p_te.shape

    slot_te = eq.left_behind_slots(np.argsort(p_te, axis=1), E, C)

    assert (slot_te < 0).all(axis=1).sum() == max(0, T - E * C)


def test_a_later_tokens_first_choice_comes_before_an_earlier_ones_second():
    """3i: No Token Left Behind is not causal."""
    expert_tn = np.array([[0, 1], [0, 1], [1, 0]])

    before_tn, after_tn = eq.left_behind_slots(expert_tn[:2], 2, 1), eq.left_behind_slots(expert_tn, 2, 1)

    assert before_tn.tolist() == [[0, -1], [-1, 0]]
    assert after_tn.tolist() == [[0, -1], [-1, -1], [0, -1]]


@given(sizes, seeds, rooms)
def test_experts_that_choose_are_all_equally_busy(size, seed, C):
    """Expert choice: min(C, T) tokens each, in slots without a hole: perfect balance and no loss for it."""
    p_te = arguments(lambda p_te: None, size, seed)["p_te"]

    slot_te = eq.expert_choice_slots(p_te, C)

    room = min(C, len(p_te))
    for slot_t in slot_te.T:
        assert sorted(slot_t) == [*[-1] * (len(p_te) - room), *range(room)]


@given(crowds, seeds, rooms)
def test_an_expert_takes_who_asks_for_it_most(size, seed, C):
    """Expert choice: its C largest probabilities, the largest in slot 0; of equals the earlier token."""
    p_te = np.round(arguments(lambda p_te: None, size, seed)["p_te"], 1)

    slot_te = eq.expert_choice_slots(p_te, C)

    for p_t, slot_t in zip(p_te.T, slot_te.T, strict=True):
        keenest = sorted(range(len(p_t)), key=lambda t: (-p_t[t], t))
        room = min(C, len(keenest))
        assert slot_t[keenest].tolist() == [*range(room), *[-1] * (len(keenest) - room)]


@given(sizes, seeds, rooms)
def test_experts_choose_whatever_the_tokens_places(size, seed, C):
    """Expert choice: permutation-equivariant, without ties."""
    T, E = arguments(lambda T, E: None, size, seed).values()
    rng = np.random.default_rng(seed)
    p_te = np.stack([rng.permutation(T) for _ in range(E)], axis=1) / T
    places_t = rng.permutation(T)

    moved_te = eq.expert_choice_slots(p_te[places_t], C)

    np.testing.assert_array_equal(moved_te, eq.expert_choice_slots(p_te, C)[places_t])


@pytest.mark.parametrize(("C", "experts"), [(0, [0, 0, 0]), (1, [0, 1, 1]), (2, [2, 1, 1]), (3, [2, 2, 2])])
def test_a_token_may_be_taken_by_every_expert_or_by_none(C, experts):
    """Expert choice: balance is among the experts, not among the tokens."""
    slot_te = eq.expert_choice_slots(SPLIT, C)

    assert (slot_te >= 0).sum(axis=1).tolist() == experts


def test_a_later_token_takes_an_earlier_ones_expert():
    """3i: expert choice is not causal."""
    before_te, after_te = eq.expert_choice_slots(SPLIT[:2], 1), eq.expert_choice_slots(SPLIT, 1)

    assert before_te.tolist() == [[-1, 0], [0, -1]]
    assert after_te.tolist() == [[-1, -1], [0, -1], [-1, 0]]


@given(sizes, seeds, rooms)
def test_a_capacity_that_is_not_rounded_seats_whoever_is_below_it(size, seed, C):
    """3: a queue of 2.5 seats slots 0, 1 and 2, by any rule."""
    expert_tn, asks_tn, order_t, E = asking(size, seed)
    p_te = arguments(lambda p_te: None, size, seed)["p_te"]

    for seat in (
        lambda C: eq.queue_slots(expert_tn, asks_tn, order_t, E, C),
        lambda C: eq.left_behind_slots(expert_tn, E, C),
        lambda C: eq.expert_choice_slots(p_te, C),
    ):
        np.testing.assert_array_equal(seat(C + 0.5), seat(C + 1))
