"""The card of the small model: what its figures mean, and that a page keeps what is not its own."""

import json
import shutil
import sys
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from references import ROOT, TESTS

sys.path.insert(0, str(ROOT / "recipes"))
sys.path.insert(0, str(TESTS / "training"))

import card
import export
import page

import switchnp
from recipes import NUMBERS, kitchen
from switchnp.data.mixtures import Example
from switchnp.equations import hashed_expert
from switchnp.training.examination import Held, examined
from switchnp.training.recipe import read_recipe
from switchnp.training.run import carry_out

BEGINS, ENDS = (mark.format(name="switch-tiny") for mark in page.MARKS)
sounds = st.lists(st.sampled_from(["AH", "B", "K"]), max_size=5)
plain = st.text("ab <!->\n", max_size=20)


@cache
def fewest_changes(said, meant):
    """Levenshtein's distance by its definition."""
    if not said or not meant:
        return len(said) + len(meant)
    if said[0] == meant[0]:
        return fewest_changes(said[1:], meant[1:])
    return 1 + min(fewest_changes(said[1:], meant), fewest_changes(said, meant[1:]), fewest_changes(said[1:], meant[1:]))


@given(sounds, sounds)
def test_the_distance_is_the_fewest_changes(said, meant):
    assert card.distance(said, meant) == fewest_changes(tuple(said), tuple(meant))


def test_an_answer_is_held_against_the_form_that_it_is_nearest_to():
    assert card.nearest("K AE T", ["K AA T S", "K AE T S", "B"]) == (1, 4)
    assert card.nearest("", ["K AE T", "AH"]) == (1, 1)
    assert card.nearest("K", ["K AE", "AE K", "T AE K"]) == (1, 2)


def test_any_listed_form_is_right_and_errors_count_by_phoneme():
    forms = {"read": ["R EH D", "R IY D"], "cat": ["K AE T"], "a": ["AH", "EY"]}

    found = card.pronounced({"read": "R IY D", "cat": "K AE T S", "a": "OW"}, forms)

    assert found == {"items": 3, "any_form": 1 / 3, "phonemes": 7, "phoneme_error_rate": 2 / 7}


def test_the_hash_router_is_asked_with_the_very_words_that_the_model_read_and_said():
    model = switchnp.load(NUMBERS)
    ids = [([5, 9, 9, 200, 1], [30, 31, 1]), ([7, 300, 1], [8, 1])]
    held = [Held(f"task {n}", [Example(inputs, targets, "")], None) for n, (inputs, targets) in enumerate(ids)]

    shares = examined(card.hashed(model), held).shares

    start, experts = model.config.decoder_start_token_id, model.config.num_experts
    read = {"encoder/1": [inputs for inputs, _ in ids], "decoder/1": [[start, *targets[:-1]] for _, targets in ids]}
    for layer, tasks in read.items():
        counts = [np.bincount(hashed_expert(np.array(words), experts), minlength=experts) / len(words) for words in tasks]
        np.testing.assert_allclose(shares[layer], counts)


@given(plain, plain, plain, plain)
def test_a_section_replaces_what_was_between_the_marks_and_nothing_else(before, old, after, new):
    marked = f"{before}{BEGINS}{old}{ENDS}{after}"

    assert page.between(marked, new) == f"{before}{BEGINS}\n{new}\n{ENDS}{after}"


def test_a_page_without_marks_gets_the_section_at_its_end_and_once():
    once = page.between("# Weights\n", "old")

    assert once == f"# Weights\n\n{BEGINS}\nold\n{ENDS}\n"
    assert page.between(once, "new") == once.replace("old", "new")


def test_a_column_of_numbers_stands_on_the_right():
    assert page.table(("a", "b"), [("x", "1.5 %"), ("2", "1,000")]).splitlines()[1] == "|---|---:|"


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A run of a few steps in a task that is called pronunciation, its data folder, and a project to write into."""
    folder = tmp_path_factory.mktemp("shop")
    recipe = kitchen(folder, steps=6, training="keep_at = [2]")
    recipe.write_text(recipe.read_text().replace('name = "numbers"', 'name = "pronunciation"'))
    for name in ("data/held", "project/weights", "project/recipes", "project/docs/images"):
        (folder / name).mkdir(parents=True)
    answers = [line.split("\t")[1] for line in (folder / "held.tsv").read_text().splitlines()]
    files = {
        "held/held.tsv": "".join(f"pronounce: w{n}\t{answer}\n" for n, answer in enumerate(answers)),
        "held/pronunciation.json": json.dumps({f"w{n}": [answer] for n, answer in enumerate(answers)}),
        "held/text.txt": (folder / "text.txt").read_text(),
    }
    for name, text in files.items():
        (folder / "data" / name).write_text(text)
    shutil.copy(folder / "spiece.model", folder / "data/spiece.model")
    carry_out(read_recipe(recipe))
    return folder


def exported(shop, name, *options):
    target = shop / name
    export.main([f"{shop}/run/step-00000006/model.h5", str(target), "--force", *options])
    return target


def written(shop, model):
    """The project's files after the card was made."""
    project = shop / "project"
    where = ["--run", f"{shop}/run", "--data", f"{shop}/data", "--recipe", f"{shop}/recipe.toml", "--root", str(project)]
    card.main([str(model), *where])
    return {path.name: path.read_bytes() for path in project.rglob("*.*")}


def test_a_checkpoint_is_shipped_with_where_it_came_from_and_room_for_an_answer(shop):
    model = switchnp.load(exported(shop, "small.h5", "--dtype", "int8"))

    assert [model.provenance[name] for name in ("recipe", "seed", "steps")] == ["run", "3", "6"]
    assert "babel 2.18.0" in model.provenance["data (pip)"]
    assert model.generation.max_new_tokens == 64


def test_a_checkpoint_that_is_not_as_it_was_written_is_refused(shop, tmp_path):
    shutil.copytree(shop / "run/step-00000006", tmp_path / "step")
    with (tmp_path / "step/model.h5").open("ab") as file:
        file.write(b" ")

    with pytest.raises(SystemExit, match=r"export: .*model\.h5 is not what this run wrote"):
        export.main([f"{tmp_path}/step/model.h5", f"{tmp_path}/small.h5"])

    assert not (tmp_path / "small.h5").exists()


def test_specialisation_is_known_before_the_first_step_and_wherever_a_model_was_examined_or_kept(shop):
    recipe = card.settled(read_recipe(shop / "recipe.toml"), shop / "data")

    found = card.rise_and_fall(recipe, shop / "run")

    assert list(found) == [0, 2, 4, 6]
    assert all(list(layers) == ["encoder/1", "decoder/0"] for layers in found.values())
    assert found[0] != found[2]


def test_the_card_gives_the_figures_and_keeps_what_is_said_of_other_weights(shop):
    (shop / "project/weights/README.md").write_text("# Weights\n\n## others\n")

    files = written(shop, exported(shop, "small.h5"))

    found, text = json.loads(files["tiny.json"]), files["README.md"].decode()
    assert text.startswith(f"# Weights\n\n## others\n\n{BEGINS}\n## small.h5\n")
    assert found["tasks"]["pronunciation"]["items"] == found["pronunciation"]["items"] == 10
    assert found["pronunciation"]["any_form"] == found["tasks"]["pronunciation"]["exact_match"]
    assert f"| text | 5 | {page.percent(found['tasks']['text']['token_accuracy'])} |" in text
    assert all(sum(shares) == pytest.approx(1) for shares in found["load"].values())


def test_the_same_model_makes_the_same_card_and_picture_to_the_byte(shop):
    model = exported(shop, "small.h5")
    (shop / "project/weights/README.md").write_text("# Weights\n")

    first, second = (written(shop, model) for _ in range(2))

    assert first.keys() == {"README.md", "tiny.json", "specialisation.svg"}
    assert first == second
