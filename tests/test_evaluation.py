"""Scores of answers: by hand on the shipped model, from files of pairs, and from the command line."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from references import ROOT, TESTS
from small import small_model

import switchnp
from switchnp import GenerationConfig, Routing
from switchnp.errors import FileError, InputError, TokenizerError
from switchnp.evaluation import Pair, evaluate, read_pairs

NUMBERS = ROOT / "weights/switch-numbers.h5"
CASES = json.loads((TESTS / "parity/numbers/answers.json").read_text())[:20]
RIGHT = [Pair(case["prompt"], case["answer"], case["prompt"].partition(":")[0]) for case in CASES]
WRONG = [
    Pair("say in German: 84", "vierundneunzig", "wrong"),
    Pair("say in French: 1984", "mille neuf cent", "wrong"),
    Pair("say in French: 1984", "mille neuf cent quatre-vingt-quatre fois", "wrong"),
]


@pytest.fixture(scope="module")
def model():
    return switchnp.load(NUMBERS, engine="equations")


def changed(model, **settings):
    """The same model with other habits of generation."""
    generation = GenerationConfig(**settings)
    return switchnp.SwitchTransformer(
        model.config, model.params, model.routing, model.tokenizer, engine="equations", generation=generation
    )


def close(scores, others):
    return scores.keys() == others.keys() and all(scores[task] == pytest.approx(others[task], abs=1e-6) for task in scores)


def test_answers_that_the_model_knows_score_1(model):
    scores = evaluate(model, RIGHT)

    assert list(scores) == [*dict.fromkeys(pair.task for pair in RIGHT), "all"]
    assert {(score.exact_match, score.token_accuracy) for score in scores.values()} == {(1.0, 1.0)}
    assert scores["all"].items == len(RIGHT) == sum(score.items for task, score in scores.items() if task != "all")
    assert 0 < scores["all"].loss < 1e-3


@pytest.mark.parametrize("pair", WRONG)
def test_words_and_loss_are_those_that_the_model_gives_the_pair_alone(model, pair):
    told = model.score(pair.prompt, pair.answer)
    out = model(np.array(model.tokenizer.encode(pair.prompt)), labels=np.array(told.ids))
    heard = np.mean(out.logits[0].argmax(axis=1) == np.array(told.ids))

    score = evaluate(model, [pair])["wrong"]

    assert 0 < score.token_accuracy < 1
    assert score == pytest.approx((1, 0.0, heard, -told.score / len(told.ids)), rel=1e-5)


def test_all_together_counts_every_pair_and_every_word_alike(model):
    scores = evaluate(model, [*WRONG, *RIGHT])
    words = {"wrong": sum(len(model.tokenizer.encode(pair.answer)) for pair in WRONG)}
    words["right"] = sum(len(model.tokenizer.encode(pair.answer)) for pair in RIGHT)
    alone = {"wrong": scores["wrong"], "right": evaluate(model, RIGHT)["all"]}

    together = [sum(alone[name][field] * words[name] for name in words) / sum(words.values()) for field in (2, 3)]

    assert scores["all"] == pytest.approx((23, 20 / 23, *together), rel=1e-5)
    assert scores["all"].token_accuracy > scores["wrong"].token_accuracy


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_scores_do_not_depend_on_batches_or_order(model, batch_size):
    pairs = [*RIGHT, *WRONG]
    behind = []

    scores = evaluate(model, pairs[::-1], batch_size, progress=behind.append)

    assert close(scores, evaluate(model, pairs))
    assert sum(behind) == len(pairs)
    assert max(behind) == batch_size


def test_a_pair_of_no_task_counts_once(model):
    scores = evaluate(model, [("say in German: 84", "vierundachtzig", "all"), WRONG[0]])

    assert list(scores) == ["wrong", "all"]
    assert (scores["all"].items, scores["all"].exact_match) == (2, 0.5)


@pytest.mark.parametrize("answer", ["  mille neuf  cent quatre-vingt-quatre ", "ｍille neuf cent quatre-vingt-quatre"])
def test_an_answer_is_compared_as_the_tokenizer_writes_it(model, answer):
    assert evaluate(model, [("say in French: 1984", answer, "spaces")])["spaces"].exact_match == 1.0


def test_a_sentinel_is_part_of_an_answer(model):
    assert evaluate(model, [("say in German: 84", "<extra_id_0> vierundachtzig", "gaps")])["gaps"].exact_match == 0.0


@pytest.mark.parametrize(
    "habits", [{"max_new_tokens": 2}, {"prefix": "deux"}, {"num_beams": 2}, {"do_sample": True, "temperature": 9.0}]
)
def test_the_models_own_habits_of_generation_do_not_count(model, habits):
    assert close(evaluate(changed(model, **habits), RIGHT[:5]), evaluate(model, RIGHT[:5]))


def test_a_routing_that_draws_needs_a_generator_and_says_the_same_by_the_same_seed(model):
    drawing = switchnp.load(NUMBERS, replace(Routing.paper(), name="drawing", eval_policy="sample"), engine="equations")

    first, again = (evaluate(drawing, WRONG, rng=np.random.default_rng(1)) for _ in range(2))

    assert first == again
    assert first != evaluate(drawing, WRONG, rng=np.random.default_rng(2))
    with pytest.raises(InputError, match="draws at random"):
        evaluate(drawing, WRONG)


def test_without_pairs_batches_or_a_tokenizer_there_is_nothing_to_score(model):
    with pytest.raises(InputError, match="there are 0 pairs"):
        evaluate(model, [])
    with pytest.raises(InputError, match="in batches of 0, expected one or more"):
        evaluate(model, RIGHT, 0)
    with pytest.raises(TokenizerError, match="this model has no tokenizer"):
        evaluate(small_model(), RIGHT)


# ---- files of pairs ----

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r"), min_size=1).filter(str.strip)


@given(st.lists(st.tuples(texts, texts, texts.map(str.strip)), min_size=1, max_size=5))
def test_pairs_are_read_as_they_were_written(tmp_path_factory, pairs):
    path = tmp_path_factory.mktemp("pairs") / "tasks.tsv"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n\n".join("\t".join(pair) for pair in pairs).encode())

    assert read_pairs(path) == [Pair(*pair) for pair in pairs]


def test_lines_may_end_as_on_windows(tmp_path):
    (tmp_path / "tasks.tsv").write_bytes(b"a\tb\r\nc\td\r\n\r\n")

    assert read_pairs(tmp_path / "tasks.tsv") == [Pair("a", "b", "all"), Pair("c", "d", "all")]


@pytest.mark.parametrize(
    ("line", "task"),
    [
        ("say in German: 84\tvierundachtzig", "say in German"),
        ("say : at 12:30\tx", "say"),
        ("hello\tx", "all"),
        (": 84\tx", "all"),
        ("say in German: 84\tx\tcounting", "counting"),
    ],
)
def test_a_task_is_named_or_stands_before_the_first_colon(tmp_path, line, task):
    (tmp_path / "tasks.tsv").write_text(line)

    assert read_pairs(tmp_path / "tasks.tsv")[0].task == task


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (b"a\tb\n\nc\n", r"tasks.tsv, line 3, has 1 fields, expected prompt<TAB>answer or prompt<TAB>answer<TAB>task$"),
        (b"a\tb\tc\td\n", "line 1, has 4 fields, expected"),
        (b"a\tb\na\t \n", "line 2, has 2 fields with an empty one, expected"),
        (b"a\tb\n\ta\n", "line 2, has 2 fields with an empty one, expected"),
        (b"a\tb\nc\t\xff\n", "line 2, is not UTF-8, expected"),
        (b"\n\n", "tasks.tsv has no lines, expected"),
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path, lines, message):
    (tmp_path / "tasks.tsv").write_bytes(lines)

    with pytest.raises(InputError, match=message):
        read_pairs(tmp_path / "tasks.tsv")


def test_a_path_that_is_no_file_is_refused(tmp_path):
    with pytest.raises(FileError, match="is not a regular file"):
        read_pairs(tmp_path)
    with pytest.raises(FileError, match="cannot be read"):
        read_pairs(tmp_path / "nothing.tsv")


# ---- the command ----


def run(*arguments):
    command = [sys.executable, "-m", "switchnp", "evaluate", NUMBERS, *arguments, "--engine", "equations"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def tasks(tmp_path):
    path = tmp_path / "tasks.tsv"
    path.write_text("".join("\t".join(pair) + "\n" for pair in [*RIGHT, *WRONG]), encoding="utf-8")
    return path


def test_the_command_shows_a_task_on_each_line(tasks):
    done = run(tasks)

    lines = [line.split("  ") for line in done.stdout.splitlines()]
    assert (done.returncode, done.stderr) == (0, "")
    assert [line[0].strip() for line in lines] == ["task", *dict.fromkeys(pair.task for pair in [*RIGHT, *WRONG]), "all"]
    assert lines[1][-3:] != lines[-1][-3:]
    assert "100.00%" in done.stdout.splitlines()[1] and "86.96%" in done.stdout.splitlines()[-1]


def test_the_command_answers_in_json_and_asks_no_more_of_a_task_than_it_is_told(model, tasks):
    done = run(tasks, "--json", "--limit", "2", "--batch-size", "3")

    scores = json.loads(done.stdout)
    assert scores["wrong"] == pytest.approx(evaluate(model, WRONG[:2])["wrong"]._asdict())
    assert {score["items"] for task, score in scores.items() if task != "all"} == {2}


def test_the_name_of_a_task_cannot_command_the_terminal(tmp_path):
    (tmp_path / "tasks.tsv").write_text("say in German: 84\tvierundachtzig\t\x1b[2Jred\n")

    done = run(tmp_path / "tasks.tsv")

    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert "\\x1b[2Jred" in done.stdout


@pytest.mark.parametrize(
    ("content", "options", "status", "message"),
    [
        (b"poem\n", [], 1, "switchnp: "),
        (b"a\tb\n", ["--limit", "0"], 2, "expected a whole number of 1 or more"),
        (b"a\tb\n", ["--batch-size", "many"], 2, "expected a whole number of 1 or more"),
        (b"a\tb\n", ["--routing", "paper,router=expert choice"], 2, "would let the decoder see the future"),
    ],
)
def test_the_command_explains_what_it_cannot_do(tmp_path, content, options, status, message):
    (tmp_path / "tasks.tsv").write_bytes(content)

    done = run(tmp_path / "tasks.tsv", *options)

    assert (done.returncode, done.stdout) == (status, "")
    assert message in done.stderr
    assert status == 2 or done.stderr.count("\n") == 1
