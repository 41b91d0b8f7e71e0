"""The commands as people run them: answers on stdout, one sentence on stderr, never a traceback."""

import json
import os
import subprocess
import sys

import pytest
from references import ROOT, huggingface_case

import switchnp

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
    assert facts["routing"]["pads"] == "routed"
    assert facts["arrays"]["encoder/blocks/1/switch/wi_edf"] == [8, 96, 256]


def test_trace_is_a_table_of_token_layer_expert_gate_and_slot():
    done = run("trace", NUMBERS, "say in French: 84")
    seats = json.loads(run("trace", NUMBERS, "say in French: 84", "--json").stdout)

    lines = [line.split() for line in done.stdout.splitlines() if line]
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


@pytest.mark.parametrize("routing", ["paper", "huggingface", "huggingface:4.57", "huggingface:4.25"])
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
        assert done.returncode == 0  # info reads no weights
        return
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
        ["generate", NUMBERS],
        ["generate", NUMBERS, "x", "--max-new-tokens", "many"],
        ["generate", NUMBERS, "x", "--routing", "random"],
        ["convert", "a", "b", "--dtype", "int3"],
    ],
)
def test_misuse_is_status_2(arguments):
    done = run(*arguments)

    assert done.returncode == 2
    assert done.stdout == ""


def test_nonsense_numbers_are_one_sentence():
    done = run("generate", NUMBERS, "x", "--max-new-tokens", "0")

    assert (done.returncode, done.stderr) == (1, "switchnp: max_new_tokens is 0, expected a whole number of 1 or more\n")


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
    shell = f"{sys.executable} -m switchnp trace {NUMBERS} 'say in French: 1984' | head -n 1"

    done = subprocess.run(["bash", "-o", "pipefail", "-c", shell], capture_output=True, text=True, timeout=60)

    assert done.stderr == ""
