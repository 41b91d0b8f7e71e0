"""A recipe carried out: the same seed has the same bytes, also when it was interrupted; nothing that is saved is ever half."""

import errno
import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from small import small_config, small_params

import switchnp
from recipes import kitchen, lines
from switchnp import SwitchTransformer
from switchnp.cli import main
from switchnp.data.batches import Batch
from switchnp.errors import ConfigError, FileError, TrainingError, WeightsError
from switchnp.evaluation import ALL
from switchnp.optimizers import AdamW
from switchnp.schedules import Schedule
from switchnp.training import checkpoints, run
from switchnp.training.checkpoints import Folder
from switchnp.training.examination import Report
from switchnp.training.progress import bar
from switchnp.training.recipe import TrainingPart, read_recipe
from switchnp.training.run import Stopped, carry_out
from switchnp.training.trainer import Trainer, learner


def trained(folder, resume=False, **changes):
    recipe = read_recipe(kitchen(folder, **changes))
    carry_out(recipe, resume)
    return recipe


def bytes_of(folder, step):
    """A checkpoint's model and moments, byte for byte, and where everything else was."""
    checkpoint = next(each for each in opened(folder) if each.step == step)
    state = checkpoint.state()
    files = [(checkpoint.path / name).read_bytes() for name in ("model.h5", "moments.h5")]
    return [hashlib.sha256(file).hexdigest() for file in files], {name: state[name] for name in state if name != "recipe"}


def opened(folder):
    there = Folder(folder / "run", 2)
    there.close()
    return there.saved()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Ten steps without a stop."""
    folder = tmp_path_factory.mktemp("whole")
    trained(folder)
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "adafactor"},
        {"training": "accumulate = 2\nexpert_dropout = 0.4\n", "routing": "mesh-tf"},
        {"evaluation": "patience = 9\n", "routing": "paper,router=top k,decoder_router=top 1"},
    ],
    ids=["adamw", "adafactor", "accumulate", "patience"],
)
def test_a_run_that_was_stopped_ends_with_the_same_bytes(tmp_path, changes):
    there, parts = tmp_path / "whole", tmp_path / "parts"
    there.mkdir(), parts.mkdir()
    trained(there, **changes)

    trained(parts, steps=3, **changes)
    trained(parts, resume=True, steps=7, **changes)
    trained(parts, resume=True, **changes)

    assert bytes_of(there, 10)[0] == bytes_of(parts, 10)[0]
    assert {**bytes_of(there, 10)[1], "best": 0, "impatience": 0} == {**bytes_of(parts, 10)[1], "best": 0, "impatience": 0}
    steps = [line["step"] for line in lines(parts) if "loss" in line]
    assert steps == [*range(1, 11)]


def test_a_run_that_fails_on_the_way_has_saved_its_last_whole_step(tmp_path, monkeypatch):
    recipe = read_recipe(kitchen(tmp_path, every=100))
    learn = Trainer._learn

    def failing(trainer, *more):
        if trainer.step == 6:
            raise RuntimeError("a disk is gone")
        return learn(trainer, *more)

    monkeypatch.setattr(Trainer, "_learn", failing)
    with pytest.raises(RuntimeError, match="a disk is gone"):
        carry_out(recipe)
    monkeypatch.undo()
    carry_out(recipe, resume=True)
    other = tmp_path / "other"
    other.mkdir()
    trained(other, every=100)

    assert bytes_of(tmp_path, 6)
    assert bytes_of(tmp_path, 10)[0] == bytes_of(other, 10)[0]


def test_what_is_written_down_says_what_every_router_did(whole):
    steps = [line for line in lines(whole) if "loss" in line]
    evaluations = [line for line in lines(whole) if "evaluation" in line]

    assert [line["step"] for line in evaluations] == [4, 8, 10]
    assert {*steps[0]["layers"]} == {"encoder/1", "decoder/0"}
    for line in steps:
        for layer in line["layers"].values():
            assert sum(layer["load"]) == pytest.approx(1)
            assert 0 <= layer["dropped"] < 1
            assert 0 < layer["entropy"] <= np.log(4) + 1e-6
            assert 0.5 < layer["balance"] <= 4
        assert line["loss"] == pytest.approx(line["task_loss"] + 0.01 * sum(each["balance"] for each in line["layers"].values()))
    assert {*evaluations[0]["evaluation"]} == {"numbers", "text", "all"}
    assert evaluations[0]["evaluation"]["text"]["exact_match"] is None
    assert 0 <= evaluations[0]["specialisation"]["encoder/1"] <= np.log(2)


def test_the_last_two_checkpoints_stay_and_the_chosen_one(tmp_path):
    trained(tmp_path, every=2, training="keep_at = [3]\n")

    assert [checkpoint.step for checkpoint in opened(tmp_path)] == [3, 8, 10]
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]


def test_a_checkpoint_is_a_model_like_any_other(whole):
    model = switchnp.load(opened(whole)[-1].model)

    assert isinstance(model.generate("say in English: 42", max_new_tokens=3), str)
    assert model.routing == switchnp.Routing.paper()


def test_a_second_run_is_refused_without_resume_and_a_changed_recipe_with_it(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "copy")

    with pytest.raises(ConfigError, match="expected --resume or another folder"):
        trained(tmp_path / "copy")
    with pytest.raises(ConfigError, match=r"schedule changed since .*step-00000010"):
        trained(tmp_path / "copy", resume=True, peak=2e-2)


def test_two_trainers_of_one_folder_do_not_meet(whole):
    first = Folder(whole / "run", 2)

    with pytest.raises(FileError, match="in use by another trainer"):
        Folder(whole / "run", 2)
    first.close()


@pytest.mark.parametrize("file", ["model.h5", "moments.h5", "state.json"])
def test_a_damaged_checkpoint_is_refused(whole, tmp_path, file):
    shutil.copytree(whole, tmp_path / "copy")
    path = opened(tmp_path / "copy")[-1].path / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content[:-1])

    with pytest.raises(WeightsError):
        trained(tmp_path / "copy", resume=True, steps=12)


def test_a_digit_that_changed_in_a_checkpoint_is_noticed(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "copy")
    path = opened(tmp_path / "copy")[-1].path / "state.json"
    text = path.read_text()
    assert text.count('"drawn": ') == 1

    path.write_text(text.replace('"drawn": ', '"drawn": 1'))

    with pytest.raises(WeightsError, match=r"state.json is not what this run wrote"):
        trained(tmp_path / "copy", resume=True, steps=12)


def cut_at(call, function):
    """The function, but for one call, in which somebody interrupts."""
    calls = count(1)

    def cut(*arguments, **more):
        if next(calls) == call:
            raise KeyboardInterrupt
        return function(*arguments, **more)

    return cut


def evaluations(folder):
    return [line for line in lines(folder) if "evaluation" in line]


@pytest.mark.parametrize(("place", "name", "call"), [(run, "examined", 1), (run, "examined", 3), (SwitchTransformer, "save", 1)])
def test_an_evaluation_that_was_cut_off_is_made_once_when_the_run_goes_on(whole, tmp_path, monkeypatch, place, name, call):
    with monkeypatch.context() as patched:
        patched.setattr(place, name, cut_at(call, getattr(place, name)))
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path)
    assert opened(tmp_path)[-1].step == (10 if call == 3 else 4)

    trained(tmp_path, resume=True)

    assert bytes_of(tmp_path, 10) == bytes_of(whole, 10)
    assert evaluations(tmp_path) == evaluations(whole)
    assert (tmp_path / "run/best.h5").read_bytes() == (whole / "run/best.h5").read_bytes()


def test_a_chosen_checkpoint_stays_though_its_evaluation_was_cut_off(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(run, "examined", cut_at(1, run.examined))
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path, every=2, training="keep_at = [4]\n")

    trained(tmp_path, every=2, training="keep_at = [4]\n", resume=True)

    assert [checkpoint.step for checkpoint in opened(tmp_path)] == [4, 8, 10]


def test_best_weights_of_another_run_in_the_folder_are_not_taken_for_those_of_this_one(tmp_path, monkeypatch):
    best = tmp_path / "run/best.h5"
    best.parent.mkdir()
    best.write_bytes(b"of another run")
    monkeypatch.setattr(run, "examined", cut_at(1, run.examined))

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path)

    assert not best.exists()


def test_best_weights_of_this_run_stay_when_it_goes_on(tmp_path, monkeypatch):
    trained(tmp_path, steps=5)
    expected = (tmp_path / "run/best.h5").read_bytes()
    monkeypatch.setattr(run, "examined", cut_at(1, run.examined))

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, resume=True)

    assert (tmp_path / "run/best.h5").read_bytes() == expected


def test_a_held_out_loss_that_is_no_number_ends_the_run_unsaved(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "examined", lambda *_: Report({ALL: {"loss": math.nan}}, {}))

    with pytest.raises(TrainingError, match="step 4: the held-out loss is no number; the last good checkpoint is none"):
        trained(tmp_path)

    assert opened(tmp_path) == []
    assert all("evaluation" not in line for line in lines(tmp_path))


def test_a_polite_kill_that_python_loses_ends_the_run_after_its_step():
    killed = []
    before = signal.signal(signal.SIGTERM, lambda *_: killed.append(True))
    try:
        with bar(9, shown=False) as show:
            signal.raise_signal(signal.SIGTERM)
            assert show.stopping
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)

    assert killed == [True, True]


def test_a_loss_that_is_no_number_ends_the_run_with_step_layer_and_checkpoint(tmp_path):
    with np.errstate(all="ignore"), pytest.raises(TrainingError) as said:
        trained(tmp_path, peak=9e14, every=1, steps=30)

    assert "step " in str(said.value)
    assert "finite" in str(said.value)
    assert f"the last good checkpoint is {tmp_path}/run/step-" in str(said.value)
    assert np.isfinite(dict(switchnp.load(opened(tmp_path)[-1].model, engine="kernels").params.leaves())["embedding_vd"]).all()


def test_a_run_whose_loss_does_not_fall_ends_by_patience_and_takes_no_step_when_resumed(tmp_path):
    trained(tmp_path, peak=1e-9, steps=60, evaluation="patience = 2\n")
    ended = lines(tmp_path)[-1]["step"]

    trained(tmp_path, resume=True, peak=1e-9, steps=60, evaluation="patience = 2\n")

    assert ended < 60
    assert lines(tmp_path)[-1]["step"] == ended


def test_the_weights_of_the_lowest_held_out_loss_are_kept_though_training_went_on(tmp_path, monkeypatch):
    losses = iter([3.0, 2.0, 2.5])
    monkeypatch.setattr(Report, "loss", property(lambda report: next(losses)))

    said = carry_out(read_recipe(kitchen(tmp_path)))

    best, eighth = (dict(switchnp.load(path).params.leaves()) for path in (tmp_path / "run/best.h5", opened(tmp_path)[0].model))
    assert said.endswith(f"the lowest held-out loss, 2.000, was after step 8: {tmp_path}/run/best.h5")
    assert opened(tmp_path)[0].step == 8
    assert all(np.array_equal(best[path], eighth[path]) for path in eighth)


def test_a_checkpoint_that_was_put_aside_when_a_kill_came_is_there_again(tmp_path):
    trained(tmp_path, steps=4)
    target, before = opened(tmp_path)[-1].path, bytes_of(tmp_path, 4)

    shutil.copytree(target, target.with_name(f".{target.name}"))
    target.rename(target.with_name(f".{target.name}.old"))

    assert bytes_of(tmp_path, 4) == before
    assert not [*target.parent.glob(".step-*")]


def test_ctrl_c_while_the_last_step_is_saved_loses_nothing(tmp_path, monkeypatch):
    save = Folder.save

    def interrupted(self, *arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return save(self, *arguments)

    monkeypatch.setattr(Folder, "save", interrupted)

    with pytest.raises(Stopped, match="stopped after step 2, all is saved"):
        trained(tmp_path, steps=2)

    assert [checkpoint.step for checkpoint in opened(tmp_path)] == [2]


@pytest.mark.parametrize("drawn", ["order=random,decoder_order=first come", "eval_policy=sample"])
def test_a_routing_that_draws_is_examined_alike_every_time(tmp_path, drawn):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        trained(tmp_path / name, steps=1, routing=f"paper,{drawn}")

    one, two = (lines(tmp_path / name)[-1] for name in ("one", "two"))

    assert one["evaluation"] == two["evaluation"]


def test_a_folder_without_locks_is_explained(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(errno.ENOLCK, "")

    monkeypatch.setattr(checkpoints, "locked", refuse)

    with pytest.raises(FileError, match="cannot be written"):
        Folder(tmp_path / "run", 1)


def test_moments_that_have_no_room_on_the_disk_are_not_begun(tmp_path, monkeypatch):
    usage = shutil.disk_usage

    def full_behind_the_model(folder):
        return usage(folder)._replace(free=9_000 if (folder / "model.h5").exists() else 10**9)

    monkeypatch.setattr(shutil, "disk_usage", full_behind_the_model)

    with pytest.raises(FileError, match=r"moments.h5 needs \d+ bytes, but 9000 are free in its folder"):
        trained(tmp_path)

    assert opened(tmp_path) == []
    assert not [*(tmp_path / "run").glob(".step-*")]


@pytest.mark.parametrize("part", ["model", "model.config", "schedule"])
def test_a_part_that_is_no_table_is_explained(tmp_path, part):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'run = "run"\nsteps = 1\n{part} = 5\n[[task]]\nname = "a"\nfile = "a"\n')

    with pytest.raises(ConfigError, match=rf"\[{part}\] is 5, expected names and values"):
        read_recipe(recipe)


def test_only_the_stack_that_is_nudged_has_its_bias_nudged():
    config = small_config(router_bias=True)
    routing = replace(switchnp.Routing.paper(), router="bias", decoder_router="top 1")
    model = learner(switchnp.SwitchTransformer(config, small_params(config, 3), routing, engine="kernels"))
    batches = iter([Batch([[5, 6, 1], [7, 8, 9, 1]], [[3, 1], [4, 2, 1]], ["a", "a"])])
    before = model.params.map(np.copy)

    Trainer(model, batches, AdamW(model.params), Schedule(peak=1e-9), TrainingPart()).take()

    moved = {path: np.abs(b - before[path]).max() for path, b in model.params.leaves() if path.endswith("br_e")}
    assert {round(float(far), 4) for path, far in moved.items() if path.startswith("encoder")} == {1e-3}
    assert {round(float(far), 4) for path, far in moved.items() if path.startswith("decoder")} == {0}


def test_the_command_says_where_the_model_is_and_explains_what_is_wrong(tmp_path, capsys):
    recipe = kitchen(tmp_path, steps=2)

    assert main(["train", str(recipe)]) == 0
    assert "done after step 2" in capsys.readouterr().out
    assert main(["train", str(recipe)]) == 1
    assert "expected --resume" in capsys.readouterr().err
    assert main(["train", str(recipe), "--resume", "--steps", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["said"].startswith("done after step 3")
    assert main(["distill", str(recipe)]) == 1
    assert "expected switchnp distill with a [teacher]" in capsys.readouterr().err


def started(recipe, *more):
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-m", "switchnp", "train", str(recipe), *more]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_step(folder, process):
    while not (folder / "run/metrics.jsonl").exists() or (folder / "run/metrics.jsonl").stat().st_size < 3000:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def test_ctrl_c_saves_and_says_how_to_go_on_and_a_kill_loses_at_most_the_interval(tmp_path):
    recipe = kitchen(tmp_path, steps=100_000, every=5, evaluation="", optimizer="adafactor")
    process = started(recipe)
    wait_for_step(tmp_path, process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    stopped = opened(tmp_path)[-1].step

    process_two = started(recipe, "--resume")
    while not opened_quietly(tmp_path, stopped):
        assert process_two.poll() is None, process_two.communicate()
        time.sleep(0.01)
    process_two.kill()
    process_two.communicate()
    written = max(line["step"] for line in lines_that_are_whole(tmp_path))

    assert process.returncode == 130
    assert f"stopped after step {stopped}, all is saved" in said
    assert written - opened(tmp_path)[-1].step <= 5
    carry_out(read_recipe(kitchen(tmp_path, steps=written + 2, every=5, evaluation="", optimizer="adafactor")), True)
    assert [line["step"] for line in lines(tmp_path) if "loss" in line] == [*range(1, written + 3)]


def opened_quietly(folder, step):
    return any(int(path.name[5:]) > step for path in (folder / "run").glob("step-*"))


def lines_that_are_whole(folder):
    text = (folder / "run/metrics.jsonl").read_text()
    return [json.loads(line) for line in text[: text.rfind("\n")].splitlines()]
