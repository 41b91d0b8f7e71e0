"""Which tokens queue together: how many groups, and how far a batch is filled up so that they divide."""

import pytest
from draw import sizes
from hypothesis import given
from hypothesis import strategies as st

from switchnp import equations as eq

group_sizes = st.integers(1, 40)


@given(sizes, st.integers(1, 60), group_sizes)
def test_the_groups_divide_the_tokens_and_are_the_fewest_that_may(multiple, each, group_tokens):
    """§2.2: a multiple of `multiple`, at least that, and at least tokens // group_tokens; the least of all such numbers."""
    tokens = multiple * each

    G = eq.group_count(tokens, group_tokens, multiple)

    least = max(tokens // group_tokens, multiple)
    fitting = [g for g in range(least, tokens + 1) if tokens % g == 0 and g % multiple == 0]
    assert fitting[0] == G


@pytest.mark.parametrize(
    ("tokens", "group_tokens", "E", "G"),
    [
        (72, 16, 2, 4),  # 18 tokens a group, which is more than 16
        (512, 8192, 8, 8),  # 64 tokens a group, though all would fit in one
        (8 * 8192, 8192, 8, 8),
        (16 * 8192, 8192, 8, 16),
        (12, 5, 6, 6),
        (30, 7, 2, 6),  # from 4: 4 does not divide 30
    ],
)
def test_flaxformer_has_as_many_groups_as_experts_or_more(tokens, group_tokens, E, G):
    """§2.2: so the group is never the batch, and may be larger than it was told to be."""
    assert eq.group_count(tokens, group_tokens, E) == G


@given(st.integers(1, 99), group_sizes)
def test_mesh_tf_has_one_group_unless_two_would_be_full(tokens, group_tokens):
    """§2.2: with a multiple of 1, which is also what is meant where none is named."""
    G = eq.group_count(tokens, group_tokens)

    assert (G == 1) == (tokens < 2 * group_tokens)


@given(sizes, sizes, st.integers(1, 12))
def test_a_filled_batch_divides_and_adds_the_fewest_tokens_to_one_axis(B, T, multiple):
    """§2.2: of all larger batches that grow one axis alone; more words where the two add as many."""
    filled_B, filled_T = eq.filled_batch(B, T, multiple)

    more = range(B * T * multiple + 1)
    taller = min((B + b) * T for b in more if (B + b) * T % multiple == 0)
    wider = min(B * (T + t) for t in more if B * (T + t) % multiple == 0)
    assert (filled_B, filled_T) == ((taller // T, T) if taller < wider else (B, wider // B))
    assert filled_B * filled_T % multiple == 0


@pytest.mark.parametrize(
    ("B", "T", "multiple", "filled"),
    [
        (2, 8, 4, (2, 8)),  # divides already
        (3, 5, 4, (4, 5)),  # 5 tokens in a sentence more, 9 in three words more
        (5, 3, 4, (5, 4)),  # and the other way round
        (3, 3, 4, (3, 4)),  # 3 either way: words
        (1, 7, 8, (1, 8)),
        (7, 1, 8, (8, 1)),
    ],
)
def test_one_axis_is_filled(B, T, multiple, filled):
    """§2.2: flaxformer's choice, by example."""
    assert eq.filled_batch(B, T, multiple) == filled
