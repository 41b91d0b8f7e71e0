"""The commands as people run them: answers on stdout, one sentence on stderr, never a traceback."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from references import ROOT, huggingface_case

import switchnp
import switchnp.model
from switchnp import cli

NUMBERS = str(ROOT / "weights/switch-numbers.h5")


def run(*arguments, **options):
    command = [sys.executable, "-m", "switchnp", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, **options)
    assert "Traceback" not in done.stderr + done.stdout
    return done


def test_generate_answers_each_prompt_on_a_line():
    done = run("generate", NUMBERS, "say in French: 1984", "say in German: 84")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "mille neuf cent quatre-vingt-quatre\nvierundachtzig\n"


def test_generate_answers_in_json():
    done = run("generate", NUMBERS, "say in Spanish: 2026", "--json")

    assert json.loads(done.stdout) == [{"prompt": "say in Spanish: 2026", "answer": "dos mil veintiséis"}]


def test_the_number_of_new_tokens_is_the_users():
    done = run("generate", NUMBERS, "say in French: 1984", "--max-new-tokens", "2", "--engine", "equations")

    assert done.stdout == "mille neuf\n"


def test_info_says_what_the_file_holds():
    done = run("info", NUMBERS)
    facts = json.loads(run("info", NUMBERS, "--json").stdout)

    assert "1,158,016" in done.stdout
    assert "huggingface 5.23" in done.stdout
    assert facts["config"]["d_model"] == 96
    assert facts["parameters"] == 1_158_016
    assert facts["provenance"]["source"] == "numbers-hf"
    assert facts["routing"]["pads"] == "routed"
    assert facts["arrays"]["encoder/blocks/1/switch/wi_edf"] == [8, 96, 256]


def test_trace_is_a_table_of_token_layer_expert_gate_and_slot():
    done = run("trace", NUMBERS, "say in French: 84")
    seats = json.loads(run("trace", NUMBERS, "say in French: 84", "--json").stdout)

    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["encoder"]
    assert lines[1] == ["token", "layer", "expert", "gate", "slot"]
    assert len([line for line in lines if len(line) == 5 and line[1] == "1"]) == len(seats)
    assert seats[0].keys() == {"stack", "layer", "token", "expert", "gate", "slot"}
    a = switchnp.load(NUMBERS).trace("say in French: 84").encoder.blocks[1].switch
    assert [seat["expert"] for seat in seats if seat["stack"] == "encoder"] == a.expert_t.tolist()


def test_trace_says_dropped_where_a_queue_was_full(tmp_path):
    from dataclasses import replace

    model = switchnp.load(NUMBERS)
    tight = switchnp.SwitchTransformer(replace(model.config, expert_capacity=1), model.params, model.routing, model.tokenizer)
    tight.save(tmp_path / "tight.h5")

    done = run("trace", tmp_path / "tight.h5", "say in French: 84")

    assert "dropped" in done.stdout


def test_routing_is_a_table_of_every_preset_with_its_sources():
    done, facts = run("routing"), json.loads(run("routing", "--json").stdout)

    lines = done.stdout.splitlines()
    assert lines[0].split() == ["choice", *facts["origins"], "source"]
    assert [line.split()[0] for line in lines[1 : 1 + len(facts["choices"])]] == [row["choice"] for row in facts["choices"]]
    assert lines[-1].startswith("huggingface:4.25")
    assert {"paper", "mesh-tf", "flaxformer", "huggingface:5.0"} <= set(facts["origins"])


def test_routing_compares_one_text_under_two_presets():
    text = "say in French: 1984"
    arguments = ("routing", "--compare", "huggingface", "paper,capacity=1", NUMBERS, text)

    done, facts = run(*arguments), json.loads(run(*arguments, "--json").stdout)

    assert (done.returncode, done.stderr) == (0, "")
    assert "expert 4 is full under paper,capacity=1" in done.stdout
    assert "tokens of Switch layers part" in done.stdout
    assert facts["dropped"][0] == 0 < facts["dropped"][1]
    assert facts["choices"]["capacity"] == [None, 1]


def test_a_file_that_asks_for_simulated_precision_is_run_on_the_equations(tmp_path):
    switchnp.load(NUMBERS, engine="equations", precision="selective").save(tmp_path / "narrow.h5")

    spoken = run("generate", tmp_path / "narrow.h5", "say in German: 84")
    compared = run("routing", "--compare", "paper", "mesh-tf", tmp_path / "narrow.h5", "say in German: 84")

    assert (spoken.stdout, spoken.stderr) == ("vierundachtzig\n", "")
    assert compared.returncode == 0


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (("papers", "paper"), "'papers' is no routing"),
        (("paper", "paper,router=expert choice"), "would let the decoder see the future"),
        (("paper", "paper,group=packed"), "Routing.group_tokens is None"),
    ],
)
def test_a_routing_that_is_none_explains_itself(pair, message):
    done = run("routing", "--compare", *pair, NUMBERS, "text")

    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_routing_may_be_changed_on_the_command_line():
    router = "paper,router=top k,decoder_router=top 1"
    narrow, twice = "paper,precision=selective", ("--routing", router)

    spoken = [run("generate", NUMBERS, "say in German: 84", "--routing", name).stdout for name in (narrow, router)]
    place = json.loads(run("trace", NUMBERS, "say in German: 84", *twice, "--json").stdout)[0]
    drawn = [run("trace", NUMBERS, "84", "--routing", "paper,eval_policy=sample", "--seed", seed).stdout for seed in "113"]

    assert spoken == ["vierundachtzig\n"] * 2
    assert (len(place["expert"]), len(place["gate"]), len(place["slot"])) == (2, 2, 2)
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    "routing", ["paper", "mesh-tf", "flaxformer", "huggingface", "huggingface:5.0", "huggingface:4.57", "huggingface:4.25"]
)
def test_every_routing_can_be_asked_for(routing):
    assert run("generate", NUMBERS, "say in German: 84", "--routing", routing).stdout == "vierundachtzig\n"


def test_convert_writes_a_model_that_info_reads(tmp_path):
    folder = huggingface_case("p02_overflow")

    done = run("convert", folder, tmp_path / "out.h5", "--dtype", "bfloat16")
    again = run("convert", folder, tmp_path / "out.h5")
    forced = run("convert", folder, tmp_path / "out.h5", "--force", "--json")

    assert done.returncode == 0
    assert "in bfloat16" in done.stdout
    assert (again.returncode, again.stdout) == (1, "")
    assert "exists" in again.stderr
    assert json.loads(forced.stdout)["dtype"] == "float32"
    assert run("info", tmp_path / "out.h5").returncode == 0


def test_a_file_without_a_tokenizer_explains_itself(tmp_path):
    run("convert", huggingface_case("p02_overflow"), tmp_path / "ids.h5")

    done = run("generate", tmp_path / "ids.h5", "text")

    assert done.returncode == 1
    assert done.stderr == "switchnp: this model has no tokenizer, expected ids instead of text (or convert it with --tokenizer)\n"


@pytest.mark.parametrize("command", ["info", "generate", "trace"])
@pytest.mark.parametrize("kind", ["missing", "text", "empty", "folder", "truncated", "flipped"])
def test_a_bad_file_is_one_sentence_and_status_1(command, kind, tmp_path):
    whole = (ROOT / "weights/switch-numbers.h5").read_bytes()
    path = tmp_path / "bad.h5"
    middle = len(whole) // 2
    contents = {
        "text": b"Roses are red\n",
        "empty": b"",
        "truncated": whole[:-1000],
        "flipped": whole[:middle] + bytes([whole[middle] ^ 64]) + whole[middle + 1 :],
    }
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(contents[kind])

    done = run(command, path, *(["say in German: 84"] if command != "info" else []))

    if (command, kind) == ("info", "flipped"):
        assert "weights not read" in done.stdout
        done = run("info", path, "--verify")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("switchnp: ")
    assert done.stderr.count("\n") == 1
    assert "bad.h5" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["info"],
        ["info", NUMBERS, "--fast"],
        ["info", NUMBERS, "--ver"],
        ["generate", NUMBERS],
        ["generate", NUMBERS, "x", "--max-new-tokens", "many"],
        ["generate", NUMBERS, "x", "--max-new-tokens", "0"],
        ["generate", NUMBERS, "x", "--routing", "random"],
        ["generate", NUMBERS, "x", "--routing", "paper,router=top k"],
        ["generate", NUMBERS, "x", "--seed", "-1"],
        ["generate", NUMBERS, "x", "--seed", "9" * 5000],
        ["routing", "--compare", "paper", "huggingface"],
        ["convert", "a", "b", "--dtype", "int3"],
    ],
)
def test_misuse_is_status_2(arguments):
    done = run(*arguments)

    assert done.returncode == 2
    assert done.stdout == ""


def test_bytes_that_are_no_text_are_one_sentence():
    command = [sys.executable, "-m", "switchnp", "generate", NUMBERS, b"\xff\xfe"]

    done = subprocess.run(command, capture_output=True, timeout=60)

    assert done.returncode == 1
    assert done.stderr.startswith(b"switchnp: ")
    assert done.stderr.count(b"\n") == 1


def test_a_terminal_that_knows_only_ascii_still_gets_the_answer():
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}

    done = run("trace", NUMBERS, "say in Spanish: 2026", env=environment)

    assert done.returncode == 0
    assert "\\u2581" in done.stdout


@pytest.mark.parametrize("command", ["info", "generate", "convert", "trace"])
def test_help_has_an_example(command):
    done = run(command, "--help")

    assert done.returncode == 0
    assert f"example: switchnp {command} " in " ".join(done.stdout.split())


def test_version_is_the_packages():
    assert run("--version").stdout == f"switchnp {switchnp.__version__}\n"


def test_a_reader_that_stops_early_is_no_error():
    command = [sys.executable, "-m", "switchnp", "info", NUMBERS, "--json"]

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as writer:
        writer.stdout.close()
        said = writer.stderr.read()

    assert (writer.returncode, said) == (0, "")


def test_json_is_json_on_any_terminal():
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}

    done = run("generate", NUMBERS, "say in Spanish: 2026", "--json", env=environment)

    assert json.loads(done.stdout)[0]["answer"] == "dos mil veintiséis"


def test_what_a_terminal_would_obey_is_not_printed(monkeypatch, capsys):
    model = switchnp.load(NUMBERS)
    monkeypatch.setattr(model.tokenizer, "answer", lambda ids: "a\x1b[2J\nb é")
    monkeypatch.setattr(switchnp.model, "load", lambda *_, **__: model)

    assert cli.main(["generate", NUMBERS, "x"]) == 0
    assert capsys.readouterr().out == "a\\x1b[2J\\nb é\n"


def test_verify_refuses_what_load_refuses(tmp_path):
    model = switchnp.load(NUMBERS)
    switchnp.weights.save(tmp_path / "m.h5", model.params, model.config, model.routing, tokenizer=b"garbage")

    done = run("info", tmp_path / "m.h5", "--verify")

    assert done.returncode == 1
    assert "not a SentencePiece model" in done.stderr


def test_a_polite_kill_leaves_no_temporary_file(tmp_path):
    code = (
        "import os, signal, switchnp.hdf5; from switchnp import cli; "
        "switchnp.hdf5.sign = lambda *_: os.kill(os.getpid(), signal.SIGTERM); "
        f"cli.main(['convert', {str(huggingface_case('p02_overflow'))!r}, {str(tmp_path / 'out.h5')!r}])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.returncode == 143
    assert list(tmp_path.iterdir()) == []


def test_commands_run_in_a_thread_too(capsys):
    with ThreadPoolExecutor(1) as pool:
        status = pool.submit(cli.main, ["info", NUMBERS]).result()

    assert status == 0
    assert "1,158,016" in capsys.readouterr().out


def test_a_warning_is_one_line(tmp_path):
    folder = huggingface_case("p02_overflow")
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    settings = json.loads((tmp_path / "config.json").read_text()) | {"num_layers": 9}
    (tmp_path / "config.json").write_text(json.dumps(settings))

    done = run("convert", tmp_path, tmp_path / "out.h5")

    assert done.stderr.startswith("switchnp: warning: config.json disagrees with the tensors, which win: num_layers 9")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_are_no_traceback(closed, tmp_path):
    folder, target = huggingface_case("p02_overflow"), tmp_path / "out.h5"
    shell = f"{sys.executable} -m switchnp convert {folder} {target} {closed}"

    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=60)

    assert done.returncode == 0
    assert "Traceback" not in done.stdout + done.stderr
    assert target.exists()


def test_a_full_disk_under_the_answer_is_one_sentence():
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m switchnp info {NUMBERS} > /dev/full"], capture_output=True, text=True
    )

    assert done.returncode == 1
    assert done.stderr.startswith("switchnp: the answer cannot be written: ")


def test_an_interrupt_is_status_130(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(switchnp.model, "load", interrupted)

    assert cli.main(["generate", NUMBERS, "x"]) == 130
    assert capsys.readouterr().err == "switchnp: interrupted\n"


def test_a_bug_is_one_sentence_too(monkeypatch, capsys):
    def buggy(*_, **__):
        raise KeyError("x")

    monkeypatch.setattr(switchnp.model, "load", buggy)

    assert cli.main(["generate", NUMBERS, "x"]) == 1
    assert capsys.readouterr().err == "switchnp: unexpected KeyError, which is a bug: 'x'\n"


def test_help_does_not_wait_for_numpy():
    code = "import sys; from switchnp.cli import _parser; _parser().format_help(); print('numpy' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.stdout.splitlines()[-1] == "False", done.stderr


@pytest.mark.parametrize(
    ("suffix", "spoil"), [(".nbi", lambda data: b"garbage" + data[7:]), (".nbc", lambda data: data[: len(data) // 2])]
)
def test_a_damaged_numba_cache_is_made_anew(tmp_path, suffix, spoil):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    run("generate", NUMBERS, "say in German: 84", env=environment)
    spoiled = [path for path in tmp_path.rglob(f"*{suffix}") if path.write_bytes(spoil(path.read_bytes())) is not None]
    assert spoiled

    done = run("generate", NUMBERS, "say in German: 84", env=environment)
    again = run("generate", NUMBERS, "say in German: 84", env=environment)

    assert done.stdout == again.stdout == "vierundachtzig\n"
    assert done.stderr.startswith("switchnp: warning: Numba's cache in ")
    assert done.stderr.count("is damaged and is made anew") == done.stderr.count("\n") == 1
    assert again.stderr == ""


def test_a_numba_cache_that_has_no_place_is_done_without():
    environment = os.environ | {"NUMBA_CACHE_DIR": "/proc/nowhere"}

    done = run("generate", NUMBERS, "say in German: 84", env=environment)

    assert done.stdout == "vierundachtzig\n"
