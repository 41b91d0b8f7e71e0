"""How a model is examined, and which experts are asked by which task."""

import numpy as np
import pytest

import switchnp
from recipes import NUMBERS, kitchen
from switchnp.evaluation import Pair, evaluate
from switchnp.training.examination import examined, held_pairs
from switchnp.training.kitchen import born, examination
from switchnp.training.recipe import read_recipe

PAIRS = [Pair("say in French: 84", "quatre-vingt-quatre", "x"), Pair("say in Italian: 21", "ventidue", "x")]


def test_a_task_is_scored_as_evaluate_scores_it():
    model = switchnp.load(NUMBERS)
    held = held_pairs("numbers", PAIRS, model.tokenizer, 9)

    report = examined(model, [held])

    expected = evaluate(model, PAIRS)["all"]
    score = report.scores["numbers"]
    assert score["exact_match"] == expected.exact_match == 0.5
    assert score["token_accuracy"] == pytest.approx(expected.token_accuracy)
    assert score["loss"] == pytest.approx(expected.loss, rel=1e-4)
    assert report.loss == score["loss"]
    assert report.specialisation == {"encoder/1": 0.0, "decoder/1": 0.0}


def test_gaps_of_held_out_text_are_the_same_every_time(tmp_path):
    recipe = read_recipe(kitchen(tmp_path))

    one, other = (examination(recipe, born(recipe)) for _ in range(2))

    assert [task.name for task in one] == ["numbers", "text"]
    assert one[1].pairs is None
    assert one[1].examples == other[1].examples
    assert len(one[1].examples) == recipe.evaluation.limit


def test_experts_that_part_by_task_are_seen_to_do_so(tmp_path):
    recipe = read_recipe(kitchen(tmp_path))
    model = born(recipe)
    for stack in (model.params.encoder.blocks[1].switch, model.params.decoder.blocks[0].switch):
        stack.wr_de[...] = 0
    held = examination(recipe, model)

    alike = examined(model, held).specialisation
    router = model.params.encoder.blocks[1].switch.wr_de
    router[...] = np.random.default_rng(0).normal(size=router.shape)
    apart = examined(model, held).specialisation

    assert alike == {"encoder/1": 0.0, "decoder/0": 0.0}
    assert 0.001 < apart["encoder/1"] <= np.log(2)
