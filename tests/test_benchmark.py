"""The harness, not the speed: names, ratios and sentences; nothing here looks at a clock."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from references import ROOT, converted
from small import small_config, small_model, small_params

import switchnp
from switchnp import Config, Routing, cost, weights
from switchnp.benchmark import export, lineup, machine, turns
from switchnp.benchmark.bandwidth import Reader, step_bytes, zero_fraction
from switchnp.benchmark.contender import Contender, ContenderFailed, Running
from switchnp.benchmark.measurement import DECODE, READ, _add_reading, measured
from switchnp.benchmark.metrics import METRICS, START, decode, encode
from switchnp.benchmark.report import Report
from switchnp.benchmark.turns import Figures
from switchnp.errors import FileError, InputError, SwitchError

DIES = "import sys; print('so it goes', file=sys.stderr); sys.exit(3)"
WORKS = """
import json, sys
print(json.dumps({"import": 1, "load": 2, "versions": {"fake": "1.0"}}), flush=True)
for line in sys.stdin:
    [(request, numbers)] = json.loads(line).items()
    REQUEST
    print(json.dumps({"value": VALUE, "mapped": 0}), flush=True)
"""


def ours(file):
    """Our contenders on a file, each on one of its own dtype beside it."""
    return lineup.ours(file, weights.read_header(file)[0], file.parent)


@pytest.fixture
def file(tmp_path):
    """A tiny model's weights file."""
    small_model(Routing.huggingface()).save(tmp_path / "tiny.h5")
    return tmp_path / "tiny.h5"


def fake(name, value=1.0, request="pass", code=WORKS):
    """A contender that always answers the same."""
    code = code.replace("VALUE", str(value)).replace("REQUEST", request)
    return Contender(name=name, library="fake", path=ROOT, dtype="float32", vocabulary=40, command=("-c", code))


def run(*arguments):
    command = [sys.executable, "-m", "switchnp", "bench", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300)
    assert "Traceback" not in done.stderr + done.stdout
    return done


def test_the_command_prints_a_table_and_we_are_as_good_as_ourselves(file, tmp_path):
    done = run(file, "--rounds", 1, "--metrics", "encode,start", "--threads", "1", "--json", tmp_path / "out.json")

    assert (done.returncode, done.stderr) == (0, "")
    head, *rows = done.stdout.split("\n\n")[0].splitlines()
    assert head.split() == ["threads", "metric", "unit", "contender", "median", "quartiles", "speed"]
    names = [contender.name for contender in ours(file)]
    assert {name for name in names if any(name in row for row in rows)} == set(names)
    assert {row.split()[-2] for row in rows if names[0] in row} == {"1.00"}
    for metric in ("encode 1x128", "encode 1x512", "encode 8x128", "import", "load", "first token", "peak memory"):
        assert any(f" {metric} " in row for row in rows), metric
    report = json.loads((tmp_path / "out.json").read_text())
    assert len(report["rows"]) == len(rows)
    assert report["model"]["config"]["d_model"] == 12
    assert report["versions"][names[0]]["switchnp"] == switchnp.__version__


def test_json_goes_to_stdout_where_no_file_is_named(file):
    done = run("--rounds", 1, "--metrics", "encode", "--threads", "1", file, "--json")

    rows = json.loads(done.stdout)["rows"]
    assert {row["metric"] for row in rows} == {"encode 1x128", "encode 1x512", "encode 8x128"}
    assert all(row["raw"] and row["median"] > 0 for row in rows)


def test_a_peer_that_is_not_installed_is_one_sentence_and_the_rest_goes_on(file, tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -I "$@"\n')
    python.chmod(0o755)

    report = measured(file, against=["transformers"], threads=[1], rounds=1, metrics=["encode"], python=str(python))

    [note] = report.notes
    assert note.startswith(f"transformers is left out: {python} has no transformers and no torch (pip install")
    assert {row.contender for row in report.rows} == {contender.name for contender in ours(file)}


@pytest.mark.parametrize("python", ["/nowhere/python", "/bin/false"])
def test_a_python_that_is_none_is_one_sentence(file, python):
    _, notes = lineup.line_up(file, ["transformers", "ctranslate2"], python, file.parent)

    assert [note.split(" is left out: ")[0] for note in notes] == ["transformers", "ctranslate2"]
    assert all(python in note and "\n" not in note for note in notes)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--against", "torch"], "there is no contender 'torch', expected some of transformers, ctranslate2"),
        (["--metrics", "speed"], "there is no metric 'speed', expected some of decode, encode, start, bandwidth"),
        (["--threads", "2,0"], "--threads is '2,0', expected numbers from 1 to 1024 with commas between them"),
        (["--json", ROOT / "README.md"], f"{ROOT / 'README.md'} exists already; --force (force=True) overwrites it"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(file, arguments, sentence):
    done = run(file, *arguments)

    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"switchnp: {sentence}\n")


def test_a_file_that_is_no_model_leaves_no_report(tmp_path):
    (tmp_path / "poem.h5").write_text("no model")

    done = run(tmp_path / "poem.h5", "--json", tmp_path / "out.json")

    assert done.returncode == 1
    assert done.stderr.endswith("poem.h5 is not an HDF5 file\n")
    assert [path.name for path in tmp_path.iterdir()] == ["poem.h5"]


def test_who_cannot_start_is_named_and_the_others_go_on():
    figures = turns.race([fake("good"), fake("bad", code=DIES)], [decode(1)], 1, 2)

    assert figures.notes == ["bad ended with status 3: so it goes"]
    assert figures.values == {"decode 1": {"good": [1.0, 1.0]}}
    assert figures.versions == {"good": {"fake": "1.0"}}


def test_who_dies_on_the_way_keeps_what_it_had():
    once = "n = globals().get('n', 0) + 1; n < 4 or sys.exit(5)"

    figures = turns.race([fake("mortal", request=once), fake("good")], [encode(1, 8)], 1, 4)

    assert figures.notes == ["mortal ended with status 5"]
    assert figures.values["encode 1x8"] == {"mortal": [1.0, 1.0], "good": [1.0] * 4}


def test_a_death_by_signal_is_named():
    killed = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"

    with pytest.raises(ContenderFailed, match="bad was killed by SIGKILL"):
        Running(fake("bad", code=killed), 1)


def test_who_does_not_answer_is_not_waited_for_forever():
    with pytest.raises(ContenderFailed, match=r"slow has not answered for 0\.2 seconds"):
        Running(fake("slow", code="import time; time.sleep(60)"), 1, patience=0.2)


def test_who_speaks_nonsense_is_named():
    with pytest.raises(ContenderFailed, match=r"odd said .*hello.*, expected JSON"):
        Running(fake("odd", code="print('hello')"), 1)


def test_a_request_that_fails_is_the_error_of_the_library(file):
    running = Running(ours(file)[0], 1)
    try:
        with pytest.raises(ContenderFailed, match="InputError"):
            running.ask("encode", 0, 0)
        assert running.ask("encode", 1, 8)["value"] > 0
    finally:
        running.stop()


def test_a_library_that_talks_does_not_disturb_the_answers(file, monkeypatch):
    monkeypatch.setenv("NUMBA_DEBUG_CACHE", "1")  # Numba then talks on stdout

    running = Running(ours(file)[0], 1)
    try:
        assert running.ask("encode", 1, 8)["value"] > 0
    finally:
        running.stop()


def test_a_start_is_a_fresh_process_each_time(file):
    figures = turns.starts(ours(file)[:1], 1, 2)

    assert all(len(values) == 2 for by_name in figures.values.values() for values in by_name.values())
    [peak], [mapped] = figures.values["peak memory"].values(), figures.values["of it file pages"].values()
    assert 1e7 < min(peak) < 2e9
    assert max(mapped) < min(peak)


def test_no_process_is_left_behind(file):
    running = Running(ours(file)[0], 1)
    assert running.rest()

    running.stop()

    assert running._process.returncode is not None


def test_ratios_are_of_medians_and_above_one_where_something_is_better():
    figures = Figures()
    for name, values in {"ours": [1.0, 2.0, 9.0], "theirs": [4.0, 4.0, 4.0]}.items():
        for value in values:
            figures.add(METRICS["decode"][0], name, value)
            figures.add(METRICS["encode"][0], name, value)
    report = Report(machine.described(), {}, 3)

    report.add(2, figures, [METRICS["decode"][0], METRICS["encode"][0]])

    assert [(row.metric, row.contender, row.median, row.times) for row in report.rows] == [
        ("decode 1", "ours", 16.0, 1.0),
        ("decode 1", "theirs", 8.0, 0.5),
        ("encode 1x128", "ours", 2000.0, 1.0),
        ("encode 1x128", "theirs", 4000.0, 0.5),
    ]
    assert report.rows[2].quartiles == (1500.0, 5500.0)
    assert json.loads(report.json())["rows"][0]["raw"] == [1.0, 2.0, 9.0]


def test_words_that_took_no_time_are_no_speed_but_a_sentence():
    figures = Figures()
    for value in (-1.0, -0.5, 2.0):
        figures.add(METRICS["decode"][0], "disturbed", value)
        figures.add(METRICS["decode"][0], "calm", 1.0)
    report = Report(machine.described(), {}, 3)

    report.add(2, figures, METRICS["decode"])

    assert [(row.contender, row.times) for row in report.rows] == [("calm", 1.0)]
    assert report.notes == [
        "decode 1 of disturbed with 2 threads is left out: the machine was so busy that more words took no longer than one"
    ]


def test_beside_nothing_nobody_is_better():
    figures = Figures()
    for name, value in {"ours": 0.0, "theirs": 5e9}.items():
        figures.add(START["mapped"], name, value)
    report = Report(machine.described(), {}, 1)

    report.add(1, figures, START.values())

    assert [(row.median, row.times) for row in report.rows] == [(0.0, None), (5.0, None)]
    assert report.lines()[1].split() == ["1", "of", "it", "file", "pages", "GB", "ours", "0.00", "0.00", "..", "0.00"]


def test_bandwidth_stands_beside_a_plain_read(file):
    report = measured(file, threads=[1], rounds=1, metrics=["bandwidth"])

    plain, *mine = report.rows
    assert (plain.contender, plain.metric, plain.times) == ("plain read", "weights read", 1.0)
    assert len(mine) + len(report.notes) == len(ours(file))  # a busy machine may leave one out, and says so


def test_bytes_a_second_are_the_bytes_of_a_step_times_the_steps():
    figures = Figures()
    figures.add(DECODE, "ours", 4.0)
    figures.add(DECODE, "theirs", 4.0)

    _add_reading(figures, {"ours": 10**9})

    assert set(figures.values[READ.name]) == {"ours"}
    assert READ.figure(figures.values[READ.name]["ours"][0]) == pytest.approx(DECODE.amount / 4, rel=1e-12)


def test_a_plain_read_reads_all_of_it(monkeypatch):
    monkeypatch.setattr("switchnp.benchmark.bandwidth.LARGEST_CACHE", 80)

    reader = Reader(64, 3)

    assert reader.size == 80
    assert [part.tolist() for part in reader.parts] == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert reader.seconds() > 0


@pytest.mark.parametrize("name", ["switch-base-8", "switch-base-128", "switch-xxl-128"])
def test_the_bytes_of_a_step_are_those_that_the_costs_count(name):
    config = Config.preset(name)
    layers = [each for each in cost.forward(config, 128, 1, dispatch="sort") if each.path.startswith(("decoder", "head"))]
    seen = 2 * config.num_decoder_layers * config.d_model * config.num_heads * config.d_kv
    norms = (3 * config.num_decoder_layers + 1) * config.d_model
    outside = norms + config.relative_attention_num_buckets * config.num_heads + config.d_model

    assert step_bytes(config, "float32") == sum(each.weights for each in layers) - 4 * (seen + outside)


def test_zeros_save_half_of_what_they_are_of_wo():
    config = small_config()
    wo = config.num_decoder_layers * config.d_model * config.d_ff

    assert step_bytes(config, "float32") - step_bytes(config, "float32", 0.5) == 4 * wo / 2


def test_the_fraction_of_zeros_is_of_the_hidden_units_that_a_token_meets():
    ids = np.arange(3, 39).reshape(4, 9)
    model = small_model(Routing.huggingface())
    params = switchnp.Tree.of({path: leaf if "/wi_" not in path else np.zeros_like(leaf) for path, leaf in model.params.leaves()})

    assert 0.2 < zero_fraction(model, ids) < 0.8
    assert zero_fraction(switchnp.SwitchTransformer(model.config, params, Routing.huggingface()), ids) == 1.0
    assert zero_fraction(small_model(Routing.huggingface(), dense_act_fn="gelu"), ids) == 0.0


@pytest.mark.parametrize("sparse", [(1,), (), (0, 1)])
@pytest.mark.parametrize("tied", [True, False])
def test_an_exported_folder_is_the_very_same_model(tmp_path, sparse, tied):
    config = small_config(sparse_decoder_layers=sparse, tie_word_embeddings=tied, expert_capacity=7)
    params = small_params(config)

    export.write_folder(tmp_path / "folder", config, params, "float32")

    back = converted(tmp_path / "folder")
    assert back.config == config
    for (path, leaf), (_, returned) in zip(params.leaves(), back.params.leaves(), strict=True):
        np.testing.assert_array_equal(leaf, returned, err_msg=path)


def test_what_transformers_cannot_build_is_one_sentence(tmp_path):
    for changes in ({"sparse_encoder_layers": (0,)}, {"is_gated_act": True}):
        with pytest.raises(InputError, match="transformers has no model of this shape"):
            export.huggingface_settings(small_config(**changes))


def test_a_folder_is_made_once(file, tmp_path, monkeypatch):
    monkeypatch.setattr(lineup, "_check_installed", lambda name, python: None)
    first, _ = lineup.line_up(file, ["transformers"], sys.executable, tmp_path / "cache")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.safetensors")}

    again, notes = lineup.line_up(file, ["transformers"], sys.executable, tmp_path / "cache")

    assert (again, notes) == (first, [])
    assert [contender.name for contender in first[-2:]] == ["transformers float32", "transformers bfloat16"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.safetensors")} == times
    assert len(times) == 2


def test_another_model_has_another_folder(file, tmp_path, monkeypatch):
    monkeypatch.setattr(lineup, "_check_installed", lambda name, python: None)
    small_model(Routing.huggingface(), seed=1).save(tmp_path / "other.h5")

    for path in (file, tmp_path / "other.h5"):
        lineup.line_up(path, ["transformers"], sys.executable, tmp_path / "cache")

    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_peer_whose_model_cannot_be_made_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(lineup, "_check_installed", lambda name, python: None)
    config = replace(small_config(), dense_act_fn="gelu", sparse_encoder_layers=(0,))
    switchnp.SwitchTransformer(config, small_params(config)).save(tmp_path / "model.h5")

    _, notes = lineup.line_up(tmp_path / "model.h5", ["transformers", "ctranslate2"], sys.executable, tmp_path)

    assert notes[0].startswith("transformers is left out: transformers has no model of this shape")
    assert notes[1] == "ctranslate2 is left out: its dense T5 is made for models with relu only"


def test_a_cache_that_cannot_be_made_is_one_sentence(file):
    with pytest.raises(FileError, match="cannot be written"):
        measured(file, cache=ROOT / "README.md")


def test_every_failure_is_ours():
    assert issubclass(ContenderFailed, SwitchError)


def test_the_machine_says_who_it_is():
    about = machine.described()

    assert about["cores"] >= 1
    assert about["memory"] > 10**8
    assert json.loads(json.dumps(about)) == about


def test_a_random_model_has_half_of_its_hidden_units_at_0_and_busy_experts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import random_model

    config = Config.preset("switch-base-8")
    config = replace(config, d_model=64, d_ff=128, d_kv=16, num_heads=4, vocab_size=500, expert_capacity=512)
    random_model.write_random(tmp_path / "random.h5", config)
    model, ids = switchnp.load(tmp_path / "random.h5"), np.random.default_rng(0).integers(3, 500, (4, 64))

    trace = model.trace(ids, decoder_input_ids=np.zeros((4, 1), int))

    assert 0.4 < zero_fraction(model, ids) < 0.6
    assert 0.01 < trace.decoder.logits_tv.std() < 10
    for layer in config.sparse_encoder_layers:
        assert (np.bincount(trace.encoder.blocks[layer].switch.expert_t, minlength=8) > 0).sum() >= 6


def test_the_page_of_performance_has_a_place_for_what_is_measured(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import table

    figures = Figures(notes=["theirs is left out: it is not installed"], versions={"switchnp float32": {"switchnp": "0"}})
    for name, seconds in {"switchnp float32": 1.0, "transformers float32": 2.0}.items():
        figures.add(DECODE, name, seconds)
    for name, speed in {"switchnp float32": 20e9, "plain read": 30e9}.items():
        figures.add(READ, name, 1 / speed)
    report = Report(machine.described(), {}, 1)
    report.add(2, figures, [DECODE, READ])

    page = table.page(report).splitlines()

    assert (ROOT / "docs/performance.md").read_text(encoding="utf-8").count(table.BEGIN) == 1
    assert (ROOT / "docs/performance.md").read_text(encoding="utf-8").count(table.END) == 1
    assert "| decode 1, tok/s | 32 (32 to 32) | 16 (16 to 16) |  |" in page
    assert "| decode 1 | switchnp float32 | transformers float32 | 2.00 | 1.9 | 3.00 |" in page
    assert page[-1] == "- theirs is left out: it is not installed"
