"""The commands as people run them: answers on stdout, one sentence on stderr, never a traceback."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from references import ROOT, huggingface_case

import switchnp
import switchnp.loading
from switchnp import cli

NUMBERS = str(ROOT / "weights/switch-numbers.h5")


def run(*arguments, **options):
    command = [sys.executable, "-m", "switchnp", *map(str, arguments)]
    stdin = {} if "input" in options else {"stdin": subprocess.DEVNULL}
    done = subprocess.run(command, capture_output=True, timeout=120, **stdin, **options)
    done.stdout, done.stderr = done.stdout.decode(), done.stderr.decode()
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
    assert facts["settings"]["capacity"] == [None, 1]
    assert {"stack", "layer", "token", "a", "b", "moved", "why"} <= set(facts["tokens"][0])


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


# ---- generate, fill, score ----


def test_prompts_come_from_stdin_one_a_line_and_leave_one_a_line(tmp_path):
    prompts = b"say in German: 84\r\nsay in French: 1984\n\nsay in Italian: 365"

    done = run("generate", NUMBERS, "--batch-size", "2", input=prompts)

    assert done.returncode == 0
    said = done.stdout.split("\n")
    assert (said[0], said[1], said[3]) == ("vierundachtzig", "mille neuf cent quatre-vingt-quatre", "trecentosessantacinque")
    assert len(said) == 5
    assert done.stdout == "\n".join(run("generate", NUMBERS, line or "").stdout.rstrip("\n") for line in texts(prompts)) + "\n"


def texts(prompts):
    return prompts.decode().replace("\r", "").split("\n")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (b"", "there is no prompt, expected one as an argument or one a line on stdin"),
        (b"\xff\xfe\n", "stdin cannot be read as text"),
    ],
)
def test_a_stdin_that_is_no_prompt_explains_itself(given, message):
    done = run("generate", NUMBERS, input=given)

    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


OPTIONS = {
    "max_new_tokens": ["2"],
    "min_new_tokens": ["30"],
    "num_beams": ["2", "--num-return-sequences", "2"],
    "length_penalty": ["9", "--num-beams", "2", "--num-return-sequences", "2"],
    "early_stopping": ["never", "--num-beams", "2", "--num-return-sequences", "2"],
    "num_return_sequences": ["2", "--num-beams", "2"],
    "do_sample": ["--temperature", "9"],
    "temperature": ["9", "--do-sample"],
    "top_k": ["3", "--do-sample", "--temperature", "9"],
    "top_p": ["0.5", "--do-sample", "--temperature", "9"],
    "min_p": ["0.5", "--do-sample", "--temperature", "9"],
    "typical_p": ["0.5", "--do-sample", "--temperature", "9"],
    "repetition_penalty": ["9"],
    "no_repeat_ngram_size": ["1"],
    "bad_words": ["neuf", "--bad-words", "quatre"],
    "prefix": ["deux"],
    "stop": ["cent", "--stop", "neuf"],
    "seed": ["5", "--do-sample", "--temperature", "9"],
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_argument_of_generate_is_an_option(name):
    model, text = switchnp.load(NUMBERS), "say in French: 1984"
    words = iter([f"--{name.replace('_', '-')}", *OPTIONS[name]])
    settings = {}
    for word in words:
        key = word.removeprefix("--").replace("-", "_")
        if key == "do_sample":
            settings[key] = True
        elif key in ("bad_words", "stop"):
            settings[key] = [*settings.get(key, []), next(words)]
        else:
            value = next(words)
            settings[key] = json.loads(value) if value[0].isdigit() else value

    done = run("generate", NUMBERS, text, f"--{name.replace('_', '-')}", *OPTIONS[name])

    expected = model.generate(text, **settings)
    assert done.stdout == ("\t".join(expected) if isinstance(expected, list) else expected) + "\n", done.stderr
    if name not in ("early_stopping", "length_penalty", "min_p"):  # which change no beam, and no first choice, here
        assert expected != model.generate(text)


def test_a_prompt_may_stand_behind_an_option():
    done = run("generate", NUMBERS, "--num-beams", "2", "say in German: 84")

    assert (done.returncode, done.stdout) == (0, "vierundachtzig\n")
    assert run("score", NUMBERS, "a", "b", "c").returncode == 2
    assert "(did you mean --num-beams?)" in run("generate", NUMBERS, "x", "--num-beam", "2").stderr


def test_every_field_of_the_config_is_among_those_options():
    assert set(OPTIONS) == set(switchnp.GenerationConfig.__dataclass_fields__)


def test_an_answer_is_streamed_as_it_is_said():
    done = run("generate", NUMBERS, "say in German: 84", "say in French: 1984", "--stream")

    assert done.stdout == "vierundachtzig\nmille neuf cent quatre-vingt-quatre\n"
    several = run("generate", NUMBERS, "x", "--stream", "--do-sample", "--num-return-sequences", "2")
    assert (several.returncode, several.stdout) == (1, "")
    assert "--stream is given with several answers to a prompt" in several.stderr
    refused = run("generate", NUMBERS, "say in German: 84", "--stream", "--json")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "--stream is given with --json or --resume" in refused.stderr


def test_a_streaming_answer_is_interrupted_with_status_130(tmp_path):
    (tmp_path / "prompts").write_text("say in French: 1984\n" * 4000)
    with open(tmp_path / "prompts", "rb") as prompts:
        command = [sys.executable, "-m", "switchnp", "generate", NUMBERS, "--stream"]
        running = subprocess.Popen(command, stdin=prompts, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    first = running.stdout.readline()
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)

    assert first == b"mille neuf cent quatre-vingt-quatre\n"
    assert (running.returncode, said) == (130, b"switchnp: interrupted\n")


def test_a_gap_is_filled_and_its_candidates_are_listed():
    done, facts = (run("fill", NUMBERS, "say in <extra_id_0>: 84", *more) for more in ((), ("--json", "--candidates", "2")))

    filled = json.loads(facts.stdout)
    assert done.stdout.split("\n")[0] == filled["text"]
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == ["<extra_id_0>"] * (len(done.stdout.splitlines()) - 1)
    assert len(filled["gaps"]["<extra_id_0>"]) <= 2
    assert (
        run("fill", NUMBERS, "no gap").stderr == "switchnp: the text has no gap, expected <extra_id_0> where words are missing\n"
    )


def test_a_score_is_a_logarithm_for_each_word_and_their_sum():
    done, facts = (run("score", NUMBERS, "say in German: 84", "vierundachtzig", *more) for more in ((), ("--json",)))

    answer = json.loads(facts.stdout)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[-1][0] == "total"
    assert float(lines[-1][1]) == pytest.approx(answer["score"], abs=1e-4)
    assert [line[0] for line in lines[:-1]] == [word["token"] for word in answer["words"]]
    assert sum(word["logprob"] for word in answer["words"]) == pytest.approx(answer["score"])


def test_a_journal_of_another_job_is_not_continued(tmp_path):
    first = run("generate", NUMBERS, "say in German: 84", "--resume", tmp_path / "poem")
    (tmp_path / "poem").write_text("roses\n")
    done = run("generate", NUMBERS, "say in German: 84", "--resume", tmp_path / "poem")

    assert first.stdout == "vierundachtzig\n"
    assert (done.returncode, done.stdout) == (1, "")
    assert "is not the journal of a job" in done.stderr
    assert (tmp_path / "poem").read_text() == "roses\n"


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
        ["generate", NUMBERS, "x", "--early-stopping", "soon"],
        ["generate", NUMBERS, "x", "--temperature", "warm"],
        ["generate", NUMBERS, "x", "--batch-size", "0"],
        ["fill", NUMBERS],
        ["score", NUMBERS, "x"],
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


@pytest.mark.parametrize("command", list(cli.COMMANDS))
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
    monkeypatch.setattr(switchnp.loading, "load", lambda *_, **__: model)

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

    monkeypatch.setattr(switchnp.loading, "load", interrupted)

    assert cli.main(["generate", NUMBERS, "x"]) == 130
    assert capsys.readouterr().err == "switchnp: interrupted\n"


def test_a_bug_is_one_sentence_too(monkeypatch, capsys):
    def buggy(*_, **__):
        raise KeyError("x")

    monkeypatch.setattr(switchnp.loading, "load", buggy)

    assert cli.main(["generate", NUMBERS, "x"]) == 1
    assert capsys.readouterr().err == "switchnp: unexpected KeyError, which is a bug: 'x'\n"


def test_help_does_not_wait_for_numpy():
    imports = "import sys; from switchnp.cli import COMMANDS; from switchnp.arguments import parser"
    code = f"{imports}; parser(COMMANDS, '0').format_help(); print('numpy' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.stdout.splitlines()[-1] == "False", done.stderr


@pytest.mark.parametrize(
    ("suffix", "spoil"), [(".nbi", lambda data: b"garbage" + data[7:]), (".nbc", lambda data: data[: len(data) // 2])]
)
def test_a_damaged_numba_cache_is_made_anew(tmp_path, suffix, spoil):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    run("generate", NUMBERS, "say in German: 84", "--engine", "kernels", env=environment)
    spoiled = [path for path in tmp_path.rglob(f"*{suffix}") if path.write_bytes(spoil(path.read_bytes())) is not None]
    assert spoiled

    done = run("generate", NUMBERS, "say in German: 84", "--engine", "kernels", env=environment)
    again = run("generate", NUMBERS, "say in German: 84", "--engine", "kernels", env=environment)

    assert done.stdout == again.stdout == "vierundachtzig\n"
    assert done.stderr.startswith("switchnp: warning: Numba's cache in ")
    assert done.stderr.count("is damaged and is made anew") == done.stderr.count("\n") == 1
    assert again.stderr == ""


def test_a_numba_cache_that_has_no_place_is_done_without():
    environment = os.environ | {"NUMBA_CACHE_DIR": "/proc/nowhere"}

    done = run("generate", NUMBERS, "say in German: 84", "--engine", "kernels", env=environment)

    assert done.stdout == "vierundachtzig\n"
