"""The shipped model does what its card (recipes/tiny.json) says, on a hundred held-out items of each task."""

import json
import math
from pathlib import Path

import pytest
from references import ROOT

import switchnp
from switchnp.evaluation import ALL, evaluate, read_pairs

HERE = Path(__file__).resolve().parent
TINY = ROOT / "weights/switch-tiny.h5"
CARD = json.loads((ROOT / "recipes/tiny.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def model():
    return switchnp.load(TINY)


@pytest.mark.parametrize("task", ["numbers", "pronunciation", "dates"])
def test_as_many_are_right_as_the_card_says(model, task):
    promised = CARD["tasks"][task]["exact_match"]
    pairs = read_pairs(HERE / f"{task}.tsv")

    found = evaluate(model, pairs)[ALL].exact_match

    spread = math.sqrt(max(promised * (1 - promised), 0.01) / len(pairs))
    assert abs(found - promised) < 3 * spread


def test_it_is_small_enough_and_says_where_it_comes_from(model):
    assert TINY.stat().st_size <= 15_000_000
    assert {"licence", "recipe", "seed"} <= set(model.provenance)
    assert model.config.num_experts == 8


def test_an_answer_does_not_depend_on_its_neighbours(model):
    prompts = ["say in French: 1984", "pronounce: hello", "date in German: 2026-11-25"]

    assert model.generate(prompts) == [model.generate(prompt) for prompt in prompts]


def test_a_gap_is_filled_in_the_language_around_it(model):
    filled = model.fill("In the beginning God created the <extra_id_0> and the earth.")

    assert filled.gaps[0].candidates
    assert "<extra_id_0>" not in filled.text
