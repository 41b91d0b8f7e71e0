"""What a trainer does with a model: several batches are one, every kind of routing learns, a student hears its teacher."""

import codecs
import json
from dataclasses import replace

import numpy as np
import pytest
from small import small_config, small_params

import switchnp
from recipes import NUMBERS, WORDS, kitchen, lines
from switchnp import Routing, SwitchTransformer, memory
from switchnp import equations as eq
from switchnp.data.batches import Batch
from switchnp.errors import ConfigError, FileError, InputError, TokenizerError
from switchnp.gradients import Distilled
from switchnp.optimizers import AdamW
from switchnp.routers import Mode
from switchnp.schedules import Schedule
from switchnp.training import kitchen as training_kitchen
from switchnp.training.recipe import TrainingPart, read_recipe
from switchnp.training.run import carry_out
from switchnp.training.trainer import Trainer, learner

PLAIN = replace(Routing.paper(), train_policy="argmax", capacity="unlimited")
PAIRS = [(f"say in English: {i}", word) for i, word in enumerate(WORDS)]
LESSONS = [
    Batch([[5, 6, 1], [7, 8, 9, 1]], [[3, 1], [4, 2, 1]], ["a", "a"]),
    Batch([[9, 1], [3, 4, 1]], [[2, 6, 7, 1], [8, 1]], ["a", "a"]),
]


class Lessons:
    """Batches that can be handed to a trainer twice."""

    def __init__(self, lessons):
        self.lessons, self.given = lessons, 0

    def __next__(self):
        self.given += 1
        return self.lessons[(self.given - 1) % len(self.lessons)]


def small_trainer(lessons, routing=PLAIN, peak=1e-2, teacher=None, share=0.25, changes=None, **part):
    config = small_config(**changes or {})
    model = learner(SwitchTransformer(config, small_params(config, 3), routing))
    return Trainer(model, Lessons(lessons), AdamW(model.params), Schedule(peak=peak), TrainingPart(**part), 1, teacher, share)


def weights_of(trainer):
    return dict(trainer.model.params.leaves())


def test_two_batches_that_are_added_up_teach_what_one_teaches():
    both = Batch(*(one + other for one, other in zip(*LESSONS, strict=True)))
    routing = replace(PLAIN, balance_coef=0.0)
    apart, together = small_trainer(LESSONS, routing, accumulate=2), small_trainer([both], routing)

    one, other = apart.take(), together.take()

    assert one["task_loss"] == pytest.approx(other["task_loss"], rel=1e-6)
    assert one["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-5)
    assert one["tokens"] == other["tokens"]


def test_a_step_is_the_same_bits_whoever_takes_it():
    one, other = (small_trainer(LESSONS, Routing.paper(), accumulate=2, dropout=0.2) for _ in range(2))

    first, second = one.take(), other.take()

    assert first["loss"] == second["loss"]
    assert all(np.array_equal(w, weights_of(other)[path]) for path, w in weights_of(one).items())


@pytest.mark.parametrize(
    "routing",
    [
        Routing.paper(),
        Routing.mesh_tf(8),
        Routing.flaxformer(8),
        Routing.huggingface(),
        replace(Routing.paper(), router="top k", decoder_router="top 1"),
        replace(Routing.paper(), router="gshard", decoder_router="top 1"),
        replace(Routing.paper(), router="expert choice", decoder_router="hash"),
        replace(Routing.paper(), precision="bfloat16"),
        replace(Routing.paper(), precision="selective"),
    ],
    ids=lambda routing: f"{routing.name} {routing.router} {routing.precision}",
)
def test_every_routing_learns(routing):
    trainer = small_trainer(LESSONS, routing, dropout=0.0)

    losses = [trainer.take()["task_loss"] for _ in range(40)]

    assert np.mean(losses[-4:]) < 0.5 * losses[0]


def test_master_weights_stay_in_float32_where_half_precision_is_simulated():
    trainer = small_trainer(LESSONS, replace(Routing.paper(), precision="bfloat16"), peak=1e-4)
    before = {path: w.copy() for path, w in weights_of(trainer).items()}

    trainer.take()

    moved = [path for path, w in weights_of(trainer).items() if (w != before[path]).any()]
    assert {type(w) for w in weights_of(trainer).values()} == {np.ndarray}
    assert "encoder/blocks/0/attention/wq_dhk" in moved


def test_a_bias_is_moved_by_who_was_asked_and_by_nothing_else():
    routing = replace(Routing.paper(), router="bias")
    trainer = small_trainer(LESSONS, routing, changes={"router_bias": True})
    before = trainer.model.params.encoder.blocks[1].switch.br_e.copy()

    trainer.take()

    moved = trainer.model.params.encoder.blocks[1].switch.br_e - before
    assert moved.any()
    np.testing.assert_allclose(np.abs(moved[moved != 0]), 1e-3, rtol=1e-3)


def test_the_loss_of_a_student_is_a_quarter_its_teachers():
    teacher = SwitchTransformer(small_config(), small_params(small_config(), 9), PLAIN, engine="kernels")
    plain, taught = small_trainer(LESSONS), small_trainer(LESSONS, teacher=teacher)
    prompts, words, target_t = plain.model.lesson(*LESSONS[0][:2])
    opinion_tv = eq.softmax(teacher(LESSONS[0].inputs, labels=LESSONS[0].targets).logits[words.kept])
    expected, _ = plain.model.losses_and_grads(prompts, words, target_t, Mode(True), Distilled(opinion_tv, 0.25))

    line = taught.take()

    assert line["task_loss"] == pytest.approx(expected.task, rel=1e-6)
    assert line["task_loss"] != pytest.approx(plain.take()["task_loss"], rel=1e-3)


def test_a_few_pairs_are_learnt_in_a_notebook():
    model = switchnp.load(NUMBERS)
    told = ("say in English: 3", "drei zu drei")

    history = switchnp.train(model, [told], steps=60, examples=2, rate=3e-3, progress=False)

    assert [line["step"] for line in history] == [*range(1, 61)]
    assert history[-1]["task_loss"] < 0.1 < history[0]["task_loss"]
    assert model.generate(told[0]) == told[1]
    assert model.engine == "fast"


def test_what_cannot_be_trained_is_explained():
    model = switchnp.load(NUMBERS)
    nameless = SwitchTransformer(model.config, model.params)

    with pytest.raises(TokenizerError, match="no tokenizer"):
        switchnp.train(nameless, PAIRS)
    with pytest.raises(InputError, match="steps is 0"):
        switchnp.train(model, PAIRS, steps=0)
    with pytest.raises(InputError, match="model is of type NoneType"):
        switchnp.train(None, PAIRS)
    for wrong in ("sgd", ["adamw"]):
        with pytest.raises(InputError, match=r"optimizer is .*, expected one of adamw, adafactor"):
            switchnp.train(model, PAIRS, optimizer=wrong)
    for wrong in ({"pairs": None}, {"pairs": PAIRS, "examples": "3"}):
        with pytest.raises(InputError, match="expected a list of pairs and a whole number"):
            switchnp.train(model, **wrong)
    with pytest.raises(ConfigError, match="seed is -1"):
        switchnp.train(model, PAIRS, seed=-1)
    with pytest.raises(ConfigError, match="no examples"):
        switchnp.train(model, [])
    with pytest.raises(ConfigError, match=r"switchnp.train has no 'droput', did you mean dropout\?"):
        switchnp.train(model, PAIRS, droput=0.1)


def test_numpy_s_numbers_are_numbers():
    model = switchnp.load(NUMBERS)
    more = {"examples": np.int32(2), "rate": np.float32(1e-3), "accumulate": np.int64(2), "dropout": np.float32(0.1)}

    assert len(switchnp.train(model, PAIRS, steps=np.int64(1), progress=False, **more)) == 1


STUDENT = """
[teacher]
file = "teacher.h5"
"""


def test_a_dense_student_begins_with_its_teachers_weights(tmp_path):
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    carry_out(read_recipe(kitchen(teacher, steps=4)))
    recipe = kitchen(tmp_path, steps=2, more=STUDENT)
    recipe.write_text(recipe.read_text().replace("_layers = [1]", "_layers = []").replace("_layers = [0]", "_layers = []"))
    (tmp_path / "teacher.h5").write_bytes((teacher / "run/step-00000004/model.h5").read_bytes())

    carry_out(read_recipe(recipe))

    steps = [line for line in lines(tmp_path) if "loss" in line]
    assert steps[0]["layers"] == {}
    assert steps[0]["task_loss"] < next(line["task_loss"] for line in lines(teacher))
    student = switchnp.load(tmp_path / "run/step-00000002/model.h5")
    assert student.config.sparse_encoder_layers == ()


WRONG = {
    "[training]\n": ("[training]\nclp = 1.0\n", r"\[training\] has no 'clp', did you mean clip\?"),
    "steps = 10": ("steps = 0", "steps is 0, expected a whole number of 1 or more"),
    'kind = "cosine"': ('kind = "cosin"', r"in \[schedule\] the kind of schedule is 'cosin'"),
    "examples = 6": ("examples = 6\ntokens = 5", r"in \[data\] tokens is 5 and examples 6, expected one of them"),
    'optimizer]\nkind = "adamw"': (
        'optimizer]\nkind = "adamw"\ndecay = 0.8',
        r"in \[optimizer\] .*decay.* is no setting of adamw",
    ),
    "d_model = 16": ("d_model = 0", "d_model is 0, expected at least 1"),
    "num_heads = 2\n": ("num_heads = 2\nnum_haeds = 3\n", r"\[model.config\] has no 'num_haeds', did you mean num_heads\?"),
    "d_ff = 24\nd_kv = 8\n": ("", r"\[model.config\] lacks d_ff and d_kv"),
    'name = "text"': ('name = "all"', r"in \[task\] name is 'all', expected one of its own"),
    "seed = 3\n": ("seed = 1764149482000000000\n", r"seed is 1764149482000000000, expected .* below 10\^15"),
    'file = "numbers.tsv"': ('file = "nombers.tsv"', "there is no file .*nombers.tsv"),
    "weight = 2": ("", "1 of 2 tasks have a weight, expected all or none"),
    'routing = "paper"': ('routing = "papr"', "'papr' is no routing"),
    "seed = 3": ("seed = ", "is not good TOML"),
    'run = "run"\n': ("", "run is missing"),
    'tokenizer = "spiece.model"\n': ("", r"\[model\] has no file, expected a tokenizer and \[model.config\]"),
    "dropout = 0.1": ("dropout = 1.0", r"in \[training\] dropout is 1.0, expected 0 or more and below 1"),
    "[evaluation]\n": ("[evaluation]\npatience = 0\n", r"in \[evaluation\] patience is 0, expected 1 or more"),
    'kind = "fill"': ('kind = "gap"', r"in \[task\] kind is 'gap', expected 'pairs' or 'fill'"),
}


@pytest.mark.parametrize("right", WRONG)
def test_a_wrong_recipe_says_where_and_what_was_expected_and_leaves_no_folder(tmp_path, right):
    recipe = kitchen(tmp_path)
    text = recipe.read_text()
    assert text.count(right) == 1, right
    recipe.write_text(text.replace(right, WRONG[right][0]))

    with pytest.raises(ConfigError, match=WRONG[right][1]):
        carry_out(read_recipe(recipe))
    assert not (tmp_path / "run").exists()


def test_a_recipe_may_begin_with_a_byte_order_mark(tmp_path):
    recipe = kitchen(tmp_path)
    expected = read_recipe(recipe)

    recipe.write_bytes(codecs.BOM_UTF8 + recipe.read_bytes())

    assert read_recipe(recipe) == expected


def test_a_name_that_no_file_can_have_is_explained(tmp_path):
    recipe = kitchen(tmp_path)
    recipe.write_text(recipe.read_text().replace("held.tsv", "x" * 300))

    with pytest.raises(FileError, match=r"xxx.* cannot be read"):
        carry_out(read_recipe(recipe))


def test_a_model_that_does_not_fit_is_refused_before_it_is_born(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "free", lambda: 10_000)
    monkeypatch.setattr(training_kitchen, "first_values", lambda *_: pytest.fail("it was born"))

    with pytest.raises(InputError, match=r"training 22,464 parameters needs 0\.0 GB of memory at least, but 0\.0 GB are free"):
        carry_out(read_recipe(kitchen(tmp_path)))


def test_a_pair_that_is_too_long_for_the_memory_is_explained(monkeypatch):
    model = switchnp.load(NUMBERS)
    monkeypatch.setattr(memory, "free", lambda: 20_000_000)

    with pytest.raises(InputError, match=r"sentences of up to \d+ tokens need about"):
        switchnp.train(model, [("say " * 3000, "x")], steps=1, progress=False)


def test_facts_of_a_recipe_are_json_and_do_not_name_where_it_lies(tmp_path):
    recipe = read_recipe(kitchen(tmp_path))

    assert str(tmp_path) not in json.dumps(recipe.facts())
