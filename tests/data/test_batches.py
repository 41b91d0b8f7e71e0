"""Batches hold what was drawn, no more than their budget, and go on where they were left."""

import itertools
import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_texts import numbered, numbers_tokenizer, prose

from switchnp.data.batches import Batches
from switchnp.data.mixtures import Mixture, Task
from switchnp.data.sources import Lines
from switchnp.errors import ConfigError, InputError

TOKENIZER = numbers_tokenizer()
seeds = st.integers(0, 2**40)
sizes = st.builds(lambda name, count: {name: count}, st.sampled_from(["tokens", "examples"]), st.integers(1, 90))
buckets = st.integers(1, 5)
few = settings(max_examples=25)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return Lines(prose(tmp_path_factory.mktemp("batches") / "prose.txt", 60))


def mixed(text, seed):
    tasks = [Task("some", numbered(40)), Task("fill", text, "fill")]
    return Mixture(tasks, TOKENIZER, seed, max_inputs=24, max_targets=24)


def taken(batches, count):
    return list(itertools.islice(batches, count))


def lengths(batch):
    return [len(inputs) + len(targets) for inputs, targets in zip(batch.inputs, batch.targets, strict=True)]


def examples(batches):
    """What was served, as often as it was."""
    return Counter((*inputs, *targets, task) for batch in batches for inputs, targets, task in zip(*batch, strict=True))


@given(seeds, sizes, buckets)
@few
def test_batches_serve_what_a_mixture_gives_and_nothing_twice(text, seed, size, bucket):
    batches = Batches(mixed(text, seed), **size, bucket=bucket)

    served = taken(batches, 30)
    while batches.state()["served"]:
        served += taken(batches, 1)

    count = sum(len(batch.tasks) for batch in served)
    expected = Counter((*inputs, *targets, task) for inputs, targets, task in itertools.islice(mixed(text, seed), count))
    assert examples(served) == expected


@given(seeds, st.integers(1, 90), buckets)
@few
def test_a_batch_has_at_most_its_tokens_or_one_example_alone(text, seed, tokens, bucket):
    for batch in taken(Batches(mixed(text, seed), tokens=tokens, bucket=bucket), 30):
        assert sum(lengths(batch)) <= tokens or len(batch.tasks) == 1


@given(seeds, st.integers(1, 9), buckets)
@few
def test_a_batch_has_the_number_of_examples_that_was_asked(text, seed, count, bucket):
    for batch in taken(Batches(mixed(text, seed), examples=count, bucket=bucket), 20):
        assert len(batch.inputs) == len(batch.targets) == len(batch.tasks) == count


@given(seeds, sizes, buckets, st.integers(0, 20))
@few
def test_interrupted_batches_go_on_with_exactly_the_next(text, seed, size, bucket, count):
    batches = Batches(mixed(text, seed), **size, bucket=bucket)
    taken(batches, count)
    state = json.loads(json.dumps(batches.state()))

    expected = taken(batches, 15)

    assert taken(Batches(mixed(text, seed), **size, bucket=bucket).restore(state), 15) == expected
    assert taken(batches.restore(state), 15) == expected
    assert len(json.dumps(state)) < 400


@given(seeds, sizes)
@few
def test_a_seed_says_all_batches_and_another_says_others(text, seed, size):
    once, again, other = (taken(Batches(mixed(text, it), **size), 12) for it in (seed, seed, seed + 1))

    assert once == again
    assert once != other


def test_sentences_of_a_batch_are_alike_long(text):
    """Laid side by side, buckets of 16 batches would need far less padding than batches as they are drawn."""

    def padding(bucket):
        rows = [lengths(batch) for batch in taken(Batches(mixed(text, 0), examples=8, bucket=bucket), 64)]
        return sum(max(row) * len(row) - sum(row) for row in rows)

    assert padding(16) < padding(1) / 3


def test_the_batches_of_a_bucket_do_not_come_in_the_order_of_their_lengths(text):
    sums = [sum(lengths(batch)) for batch in taken(Batches(mixed(text, 0), examples=8, bucket=16), 32)]

    assert sums[:16] != sorted(sums[:16])
    assert [sorted(sums[:16]).index(it) for it in sums[:16]] != [sorted(sums[16:]).index(it) for it in sums[16:]]


def test_the_order_of_batches_is_drawn_from_the_seed():
    """Each bucket is an epoch of 8 pairs of 8 lengths, so that nothing else can tell two seeds apart."""
    pairs = [("one " * (n + 1), "one") for n in range(8)]

    orders = [taken(Batches(Mixture([Task("a", pairs)], TOKENIZER, seed), examples=1, bucket=8), 8) for seed in range(4)]

    assert all(sorted(order) == sorted(orders[0]) for order in orders)
    assert all(once != other for once, other in itertools.combinations(orders, 2))


def test_no_more_is_drawn_ahead_than_a_bucket_and_a_few(text):
    batches = Batches(mixed(text, 0), tokens=100, bucket=4)

    served = sum(len(batch.tasks) for batch in taken(batches, 400))

    assert batches.mixture.state()["drawn"] - served < 4 * 100 / 4


def test_a_budget_of_tokens_is_used(text):
    batches = taken(Batches(mixed(text, 1), tokens=1000, bucket=4), 40)

    assert sum(sum(lengths(batch)) for batch in batches) > 0.95 * 40 * 1000


def test_an_example_that_is_longer_than_the_budget_is_served_alone(text):
    batches = taken(Batches(mixed(text, 1), tokens=1, bucket=3), 10)

    assert [len(batch.tasks) for batch in batches] == [1] * 10


def test_a_state_of_other_batches_is_refused(text):
    state = Batches(mixed(text, 0), tokens=100, bucket=2).state()

    with pytest.raises(
        InputError, match=r"the state is of the batches \{'tokens': 100, 'bucket': 2\}, expected \{'tokens': 100, 'b"
    ):
        Batches(mixed(text, 0), tokens=100).restore(state)
    with pytest.raises(InputError, match="the state is of the batches"):
        Batches(mixed(text, 0), examples=100, bucket=2).restore(state)
    with pytest.raises(InputError, match="the state is of another mixture"):
        Batches(mixed(text, 1), tokens=100, bucket=2).restore(state)


@pytest.mark.parametrize(
    "options", [{}, {"tokens": 1, "examples": 1}, {"tokens": 0}, {"examples": -1}, {"tokens": 1, "bucket": 0}]
)
def test_impossible_batches_are_refused(text, options):
    with pytest.raises(ConfigError, match="expected one of the first two, and numbers of 1 or more"):
        Batches(mixed(text, 0), **options)
