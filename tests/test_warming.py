"""What is compiled ahead is kept, and a place where nothing can be compiled is told so."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from references import ROOT

import switchnp

NUMBERS = str(ROOT / "weights/switch-numbers.h5")


def _run(*arguments, **environment):
    command = [sys.executable, "-m", "switchnp", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=os.environ | environment)


def test_what_was_warmed_is_kept_where_it_says():
    done = _run("warmup", "--json")

    warmed = json.loads(done.stdout)
    assert done.returncode == 0
    assert warmed["functions"] > 20
    assert os.path.isdir(warmed["folder"])


def test_nothing_is_compiled_after_it():
    folder = Path(json.loads(_run("warmup", "--json").stdout)["folder"])
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.nbi")}

    _run("generate", NUMBERS, "say in German: 84", "--threads", "2")
    calls = "ids = [[5, 6, 7]] * 2; m.encode(ids); m.score(ids, ids); m(ids, None, ids)"
    code = f"import switchnp; m = switchnp.load({NUMBERS!r}, threads=2); {calls}"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.nbi")} == before


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_arithmetic_and_threads_are_chosen_on_the_command_line(dtype):
    done = _run("generate", NUMBERS, "say in German: 84", "--engine", "fast", "--dtype", dtype, "--threads", "2")

    assert done.stdout == "vierundachtzig\n"


def test_without_a_compiler_the_kernels_answer_and_the_fast_engine_explains_itself():
    done = _run("generate", NUMBERS, "say in German: 84", NUMBA_DISABLE_JIT="1")
    refused = _run("generate", NUMBERS, "say in German: 84", "--engine", "fast", NUMBA_DISABLE_JIT="1")

    assert done.stdout == "vierundachtzig\n"
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("switchnp: NUMBA_DISABLE_JIT is set, expected engine='kernels' or engine='equations'")


def test_a_model_made_without_a_compiler_has_the_kernels(monkeypatch):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")

    assert switchnp.load(NUMBERS).engine == "kernels"
