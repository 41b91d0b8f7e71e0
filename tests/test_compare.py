"""The rule by which sparse and dense are compared, and what is said of it."""

import json
import sys
from dataclasses import replace

import pytest
from references import ROOT

sys.path.insert(0, str(ROOT / "recipes"))

import compare

import switchnp


def runs(*differences):
    """A run a seed, where the dense model is so much worse in two domains on the average."""
    return {
        seed: {"dense": {"a": 4.0 + apart, "b": 3.0 + apart}, "sparse": {"a": 4.1, "b": 2.9}}
        for seed, apart in enumerate(differences)
    }


@pytest.mark.parametrize(
    ("differences", "answer"), [((0.1, 0.11, 0.12), "YES"), ((-0.1, -0.11, -0.12), "NO"), ((0.3, -0.1, 0.1), "UNDECIDED")]
)
def test_an_answer_is_given_only_where_the_interval_leaves_zero_out(differences, answer):
    assert compare.decided(runs(*differences))["answer"] == answer


def test_the_interval_is_student_s():
    mean, half = compare.interval([1.0, 2.0, 3.0])

    assert mean == 2
    assert half == pytest.approx(4.303 / 3**0.5)


def test_losses_of_a_run_are_those_of_its_last_step_whatever_a_kill_left(tmp_path):
    line = json.dumps({"step": 10, "evaluation": {"a": {"loss": 2.0}, "b": {"loss": 3.0}, "all": {"loss": 2.5}}})
    metrics = tmp_path / "metrics.jsonl"

    assert compare.losses(tmp_path, 10) == {}
    for unfinished in ("", line[:30]):
        metrics.write_text(unfinished)
        assert compare.losses(tmp_path, 10) == {}
    metrics.write_text(f"{line}\n")
    assert compare.losses(tmp_path, 10) == {"a": 2.0, "b": 3.0}
    assert compare.losses(tmp_path, 20) == {}


@pytest.mark.parametrize("seeds", ["1", "1,2,3,4,5,6,7,8,9,10,11"])
def test_seeds_that_make_no_interval_are_refused_before_anything_runs(monkeypatch, capsys, seeds):
    monkeypatch.setattr(sys, "argv", ["compare.py", "--seeds", seeds])
    monkeypatch.setattr(compare, "loss_of", lambda *_: pytest.fail("it ran"))

    with pytest.raises(SystemExit):
        compare.main()

    assert "expected 2 to 10 seeds" in capsys.readouterr().err


def test_the_page_has_a_row_for_each_seed_and_domain():
    shape = {"parameters": 1000, "source": 100, "target": 200}
    facts = {"steps": 10, "peaks": {"dense": {1e-3: 3.4}, "sparse": {1e-3: 3.5}}, "shapes": {"sparse": shape, "dense": shape}}

    text = compare.section(facts | compare.decided(runs(0.1, 0.2)))

    assert "| seed 0 | 3.600 | 3.500 | +0.100 |" in text
    assert "| a | 4.150 | 4.100 | +0.050 |" in text
    assert "dense 3.400 at 0.001;\nsparse 3.500 at 0.001" in text


def test_the_dense_model_has_no_experts_and_a_token_costs_the_same_but_for_the_router(tmp_path):
    vocabulary = tmp_path / "spiece.model"
    vocabulary.write_bytes(switchnp.load(ROOT / "weights/switch-tiny.h5").tokenizer.model_bytes)
    recipes = [compare.recipe_of(kind) for kind in ("sparse", "dense")]

    sparse, dense = (compare.shape(each._replace(model=replace(each.model, tokenizer=str(vocabulary)))) for each in recipes)

    routers = 2 * 2 * 128 * 8
    assert sparse["source"] - dense["source"] == sparse["target"] - dense["target"] == routers
    assert sparse["parameters"] - dense["parameters"] == 4 * (7 * 2 * 128 * 512 + 128 * 8)
