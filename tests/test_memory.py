"""What a pass needs, what there is, and that what cannot fit is refused before it starts."""

import tracemalloc

import numpy as np
import pytest
from references import ROOT
from small import small_model

from switchnp import GenerationConfig, Routing, load, memory, network, train
from switchnp.errors import InputError
from switchnp.network import Row


def row(*lengths):
    """Sentences of these lengths."""
    segment = np.repeat(np.arange(len(lengths)), lengths)
    position = np.concatenate([np.arange(length) for length in lengths])
    return Row(np.full(len(segment), 5), segment, position, np.ones(len(segment), bool), len(lengths))


@pytest.mark.parametrize("engine", ["kernels", "equations"])
@pytest.mark.parametrize("lengths", [(400,), (900,), (300, 300, 500)])
def test_the_estimate_of_an_encoder_is_right_within_a_factor_of_two(lengths, engine):
    model = small_model(Routing.paper(), engine)
    sentences = row(*lengths)
    network.encode(*model._setup, row(10))

    tracemalloc.start()
    network.encode(*model._setup, sentences)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    estimate = memory.needed(model.config, sentences, 0, 0, 4, engine)
    assert estimate / 2 < peak < estimate * 2


def test_a_pass_that_cannot_fit_is_refused_with_both_figures_before_it_starts(monkeypatch):
    model = small_model()
    monkeypatch.setattr(memory, "free", lambda: 3_000_000)
    monkeypatch.setattr(network, "encode", lambda *_, **__: pytest.fail("it started"))

    figures = r"need about 0\.\d GB of memory, but 0\.0 GB are free"
    with pytest.raises(InputError, match=f"1 sentences of up to 4000 tokens and 1 answers of up to 67 {figures}"):
        model.generate(np.full((1, 4000), 5), prefix=[3, 4])
    for call in (lambda: model(np.full((1, 4000), 5), labels=[[3]]), lambda: model.encode(np.full((1, 4000), 5))):
        with pytest.raises(InputError, match="need about"):
            call()


def test_what_fits_is_let_through(monkeypatch):
    model = small_model()
    monkeypatch.setattr(memory, "free", lambda: None)

    assert model.generate([[5, 6]], max_new_tokens=1).shape == (1, 2)


def test_more_of_anything_needs_more():
    config = small_model().config
    least = memory.needed(config, row(100), 10, 1, 4)

    assert memory.needed(config, row(200), 10, 1, 4) > least
    assert memory.needed(config, row(100), 10_000, 1, 4) > least
    assert memory.needed(config, row(100), 10, 500, 4) > least
    assert memory.needed(config, row(100), 10, 1, 8) > least


def test_what_is_free_is_a_sensible_number():
    assert 10**7 < memory.free() < 10**15


def test_a_container_may_allow_less_than_the_system_has(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")

    assert memory.free() == 600_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free() > 600_000


def test_files_that_a_container_has_read_and_written_do_not_count_as_used(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("990000\n")
    (tmp_path / "memory.stat").write_text("anon 200000\nactive_file 90000\ninactive_file 700000\n")

    assert memory.free() == 710_000


def test_beams_count_as_answers(monkeypatch):
    model = small_model()
    asked = []
    monkeypatch.setattr(memory, "check", lambda config, row, words, voices, *_: asked.append((words, voices)))
    model.generation = GenerationConfig(max_new_tokens=3)

    model.generate([[5], [6]], num_beams=4)
    model.generate([[5], [6]], do_sample=True, num_return_sequences=3)

    assert asked == [(4, 8), (4, 6)]


def test_the_estimate_of_many_answers_is_right_within_a_factor_of_two():
    model = small_model(Routing.paper(), vocab_size=5000)
    prompt = [[5, 6, 7]]
    model.generate(prompt, num_beams=2, max_new_tokens=2)

    tracemalloc.start()
    model.generate(prompt, num_beams=200, max_new_tokens=10, min_new_tokens=10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    estimate = memory.needed(model.config, row(3), 10, 200, 4)
    assert estimate / 2 < peak < estimate * 2


def test_training_whose_gradients_and_moments_cannot_fit_is_refused_before_its_first_step(monkeypatch):
    model = load(ROOT / "weights/switch-numbers.h5", engine="kernels")
    size = sum(leaf.nbytes for _, leaf in model.params.leaves())
    monkeypatch.setattr(memory, "free", lambda: 2 * size)
    with pytest.raises(InputError, match=r"training 1,158,016 parameters needs 0\.0 GB of memory at least, but 0\.0 GB are free"):
        train(model, [("say in English: 1", "one")], steps=1, progress=False)
    monkeypatch.setattr(memory, "free", lambda: 4 * size)

    assert len(train(model, [("say in English: 1", "one")], steps=1, progress=False)) == 1
