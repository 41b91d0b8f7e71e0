"""Each task as often as it should be, each example once an epoch, and never lost when interrupted."""

import itertools
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_texts import numbered, numbers_tokenizer, prose

from switchnp.data.mixtures import BYTES_PER_TOKEN, Mixture, Task, seeded, shares
from switchnp.data.sources import Blocks, Lines, Pairs
from switchnp.data.spans import raw_length, restored
from switchnp.errors import ConfigError, InputError
from switchnp.tokenizer import SENTINELS, Tokenizer

TOKENIZER = numbers_tokenizer()
seeds = st.integers(0, 2**70)
sizes = st.lists(st.integers(1, 10**9), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return Lines(prose(tmp_path_factory.mktemp("mixtures") / "prose.txt", 60))


def taken(mixture, count):
    return list(itertools.islice(mixture, count))


def mixed(text, seed, **options):
    tasks = [Task("some", numbered(5)), Task("fill", text, "fill"), Task("more", numbered(11, "b"))]
    return Mixture(tasks, TOKENIZER, seed, **{"max_inputs": 24, "max_targets": 24} | options)


def raw_tokens(text):
    """The plain tokens of a file, blank lines and all, as blocks are encoded."""
    return [i for i in TOKENIZER.encode(text) if 1 < i < TOKENIZER.vocab_size - SENTINELS]


@given(seeds, st.integers(1, 20))
def test_each_pair_comes_once_an_epoch_and_in_another_order_in_the_next(seed, count):
    mixture = Mixture([Task("some", numbered(count))], TOKENIZER, seed)
    expected = Counter((*TOKENIZER.encode(prompt), *TOKENIZER.encode(answer)) for prompt, answer in numbered(count))

    epochs = [[(*inputs, *targets) for inputs, targets, _ in taken(mixture, count)] for _ in range(4)]

    assert all(Counter(epoch) == expected for epoch in epochs)
    assert count < 4 or any(epoch != epochs[0] for epoch in epochs[1:])
    assert mixture.epochs == {"some": 4}


@given(seeds, st.integers(8, 60))
def test_each_word_of_a_text_comes_once_an_epoch(text, seed, max_inputs):
    mixture = Mixture([Task("fill", text, "fill")], TOKENIZER, seed, max_inputs=max_inputs)
    length, _ = raw_length(max_inputs, 114)
    blocks = Blocks(text, BYTES_PER_TOKEN * length)
    expected = Counter(i for block in blocks for i in raw_tokens(block))

    examples = [next(mixture)]
    while mixture.epochs["fill"] == 0:
        examples.append(next(mixture))
    if mixture.state()["places"][0][1:3] != [0, 0]:
        examples.pop()  # the first of the next epoch, because a blank block was the last of this

    windows = [restored(inputs, targets, TOKENIZER.vocab_size) for inputs, targets, _ in examples]
    lone = sum(len(raw_tokens(block)) == 1 for block in blocks)
    assert Counter(i for window in windows for i in window).total() == expected.total() - lone
    assert Counter(i for window in windows for i in window) <= expected
    assert all(2 <= len(window) <= length for window in windows)


def test_windows_of_a_block_follow_each_other_and_are_equally_long(tmp_path):
    path = tmp_path / "one.txt"
    path.write_text(" ".join(["quatre"] * 50 + ["cento"] * 50), "utf-8")
    mixture = Mixture([Task("fill", Lines(path), "fill")], TOKENIZER, 3, max_inputs=30)
    whole, (length, _) = raw_tokens(path.read_text("utf-8")), raw_length(30)

    windows = [restored(*sides, TOKENIZER.vocab_size) for *sides, _ in taken(mixture, -(-len(whole) // length))]

    assert [i for window in windows for i in window] == whole
    assert mixture.epochs == {"fill": 1}
    assert max(map(len, windows)) - min(map(len, windows)) <= 1


def test_the_gaps_of_a_text_are_others_in_every_epoch(tmp_path):
    path = tmp_path / "one.txt"
    path.write_text("one hundred vingt quatre soixante zwei und " * 4, "utf-8")

    first, second = taken(Mixture([Task("fill", Lines(path), "fill")], TOKENIZER, 0), 2)

    assert first != second


def test_special_tokens_in_a_text_are_left_out_of_it(tmp_path):
    path = tmp_path / "specials.txt"
    path.write_text("one <extra_id_0> hundred</s> vingt <pad> quatre", "utf-8")

    inputs, targets, _ = next(Mixture([Task("fill", Lines(path), "fill")], TOKENIZER, 0))

    assert restored(inputs, targets, TOKENIZER.vocab_size) == raw_tokens(path.read_text("utf-8"))


@given(seeds, st.integers(0, 40))
@settings(max_examples=20)
def test_an_interrupted_mixture_goes_on_with_exactly_the_next_example(text, seed, count):
    mixture = mixed(text, seed)
    taken(mixture, count)
    state = json.loads(json.dumps(mixture.state()))

    expected = taken(mixture, 30)

    assert taken(mixed(text, seed).restore(state), 30) == expected
    assert taken(mixture.restore(state), 30) == expected
    assert len(json.dumps(state)) < 300


@given(seeds)
@settings(max_examples=10)
def test_a_seed_says_all_examples_and_another_says_others(text, seed):
    once, again, other = (taken(mixed(text, it), 30) for it in (seed, seed, seed + 1))

    assert once == again
    assert once != other


@given(sizes, st.floats(0.1, 100), st.integers(1, 10**9) | st.none())
def test_shares_are_in_proportion_to_limited_sizes_under_a_temperature(examples, temperature, limit):
    share = shares(examples, temperature, limit)

    ratios = [(min(n, limit or n) / min(examples[0], limit or examples[0])) ** (1 / temperature) for n in examples]
    np.testing.assert_allclose(share.sum(), 1)
    np.testing.assert_allclose(share, np.array(ratios) * share[0], rtol=1e-9)


def test_shares_are_what_the_examples_say():
    """Raffel et al. 2020, §3.5.2: in proportion, up to a limit, and alike at a high temperature."""
    np.testing.assert_allclose(shares([1, 3]), [0.25, 0.75])
    np.testing.assert_allclose(shares([1, 3], limit=1), [0.5, 0.5])
    np.testing.assert_allclose(shares([1, 9], temperature=2), [0.25, 0.75])
    np.testing.assert_allclose(shares([1, 10**9], temperature=float("inf")), [0.5, 0.5])


@pytest.mark.parametrize("options", [{}, {"temperature": 3.0}, {"weights": [1, 2, 5]}, {"limit": 6}])
def test_tasks_come_as_often_as_they_are_likely(text, options):
    mixture = mixed(text, 5, **options)
    count = 1500

    found = Counter(example.task for example in taken(mixture, count))

    for name, share in zip(mixture.names, mixture.probabilities, strict=True):
        assert abs(found[name] / count - share) < 4 * np.sqrt(share * (1 - share) / count)


def test_weights_are_the_shares_and_a_task_of_weight_nothing_never_comes(text):
    mixture = mixed(text, 0, weights=[3, 0, 1])

    assert mixture.probabilities.tolist() == [0.75, 0, 0.25]
    assert {example.task for example in taken(mixture, 50)} == {"some", "more"}


def test_examples_count_as_many_as_there_are_pairs_and_blocks(text):
    blocks = Blocks(text, BYTES_PER_TOKEN * raw_length(24, 24)[0])

    np.testing.assert_allclose(mixed(text, 0).probabilities, np.array([5, len(blocks), 11]) / (16 + len(blocks)))


def test_pairs_that_are_too_long_are_left_out_and_counted():
    pairs = [*numbered(4), ("one " * 40, "one"), ("one", "one " * 40)]
    mixture = Mixture([Task("some", pairs)], TOKENIZER, 0, max_inputs=20, max_targets=20)

    examples = taken(mixture, 8)

    assert Counter(tuple(inputs) for inputs, *_ in examples) == {tuple(TOKENIZER.encode(p)): 2 for p, _ in numbered(4)}
    assert mixture.skipped["some"] in (2, 3, 4)
    taken(mixture, 1)
    assert mixture.skipped["some"] >= 4


@pytest.mark.parametrize("content", ["\n\n\n", "<extra_id_0>\n"])
def test_a_task_without_an_example_that_fits_says_so(tmp_path, content):
    path = tmp_path / "blank.txt"
    path.write_text(content)

    with pytest.raises(InputError, match=r"the task fill has no example that fits into \(512, 114\) ids"):
        next(Mixture([Task("fill", Lines(path), "fill")], TOKENIZER, 0))
    with pytest.raises(InputError, match=r"the task long has no example that fits into \(4, 114\) ids"):
        next(Mixture([Task("long", [("one " * 9, "one")])], TOKENIZER, 0, max_inputs=4))


def test_one_pair_that_fits_is_found_among_many_that_do_not():
    mixture = Mixture([Task("some", [("one", "one"), *[("one " * 40, "one")] * 20])], TOKENIZER, 0, max_inputs=20)

    taken(mixture, 30)

    assert mixture.epochs["some"] in (29, 30)
    assert 29 * 20 <= mixture.skipped["some"] <= 30 * 20


@pytest.mark.parametrize(("density", "mean_span"), [(0.15, 3.0), (0.5, 3.0), (0.15, 1.0)])
def test_no_example_is_longer_than_the_limits_and_the_longest_is_as_long(text, density, mean_span):
    tasks = [Task("some", numbered(40)), Task("fill", text, "fill", density, mean_span)]

    examples = taken(Mixture(tasks, TOKENIZER, 0, max_inputs=17, max_targets=9), 150)

    assert max(len(inputs) for inputs, *_ in examples) <= 17
    assert max(len(targets) for _, targets, _ in examples) <= 9
    assert any(len(inputs) == 17 or len(targets) == 9 for inputs, targets, task in examples if task == "fill")


def test_pairs_of_a_file_are_those_in_memory(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"{prompt}\t{answer}\n" for prompt, answer in numbered(9)), "utf-8")

    from_disk, from_memory = (Mixture([Task("it", it)], TOKENIZER, 4) for it in (Pairs(path), numbered(9)))

    assert taken(from_disk, 20) == taken(from_memory, 20)


@pytest.mark.parametrize("options", [{"seed": 1}, {"max_inputs": 25}, {"max_targets": 25}, {"temperature": 2.0}])
def test_a_state_of_another_mixture_is_refused(text, options):
    state = mixed(text, 0).state()

    with pytest.raises(InputError, match="the state is of another mixture"):
        mixed(text, **{"seed": 0} | options).restore(state)


@pytest.mark.parametrize(
    "task",
    [Task("b", numbered(3)), Task("a", numbered(4)), Task("a", [*numbered(2), ("", "")]), Task("a", numbered(3), "pairs", 0.5)],
)
def test_a_state_of_other_tasks_is_refused(task):
    state = Mixture([Task("a", numbered(3))], TOKENIZER, 0).state()

    with pytest.raises(InputError, match="the state is of another mixture"):
        Mixture([task], TOKENIZER, 0).restore(state)


def test_a_state_of_another_tokenizer_is_refused():
    state = Mixture([Task("a", numbered(3))], TOKENIZER, 0).state()
    other = Tokenizer(TOKENIZER.model_bytes + bytes.fromhex("1a02 1800"))

    with pytest.raises(InputError, match="the state is of another mixture"):
        Mixture([Task("a", numbered(3))], other, 0).restore(state)


def test_counters_draw_apart():
    draws = {
        seeded(seed, *counters).integers(2**62) for seed in (0, 1, 2**32) for counters in [(0,), (0, 0), (0, 0, 0), (1,), (0, 1)]
    }

    assert len(draws) == 15


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"kind": "guess"}, "the task a is of kind 'guess', expected 'pairs' or 'fill'"),
        ({"kind": "fill"}, "the task a has a source of type list, expected Lines"),
        ({"source": []}, "the task a has no examples, expected one or more"),
        ({"source": [("a", "b"), ("a",)]}, "the task a has ('a',) as its pair 1, expected two texts"),
        ({"source": ["ab"]}, "the task a has 'ab' as its pair 0, expected two texts"),
        ({"density": 1.5}, "in the task a spans of 3.0 make up 1.5 of a text, expected 1 or more and a share between 0 and 1"),
    ],
)
def test_an_impossible_task_is_refused(options, sentence):
    with pytest.raises(ConfigError) as refused:
        Task(**{"name": "a", "source": numbered(2)} | options)

    assert str(refused.value) == sentence


def test_lines_are_no_pairs(text):
    with pytest.raises(ConfigError, match="the task a has a source of type Lines, expected pairs of prompt and answer"):
        Task("a", text)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"seed": -1}, "seed is -1, expected a whole number"),
        ({"seed": 0.5}, "seed is 0.5, expected a whole number"),
        ({"temperature": 0.0}, "temperature is 0.0 and limit None, expected both above 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"limit": 0}, "limit 0, expected both above 0"),
        ({"weights": [1.0, 2.0]}, "expected 3 of 0 or more"),
        ({"weights": [0, 0, 0]}, "not all of them 0"),
        ({"weights": [1, -1, 1]}, "expected 3 of 0 or more"),
        ({"weights": [1, float("inf"), 1]}, "expected 3 of 0 or more"),
    ],
)
def test_an_impossible_mixture_is_refused(text, options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        mixed(text, **{"seed": 0} | options)


@pytest.mark.parametrize("tasks", [[], [Task("a", numbered(2)), Task("a", numbered(3))]])
def test_tasks_have_names_of_their_own(tasks):
    with pytest.raises(ConfigError, match="expected one or more, each with a name of its own"):
        Mixture(tasks, TOKENIZER, 0)
