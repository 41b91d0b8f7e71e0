"""Many threads and processes ask at once, and each is answered as if it were alone."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from references import ROOT
from small import small_config, small_params

from switchnp import SwitchTransformer
from switchnp.engine import matrices, voices

NUMBERS = str(ROOT / "weights/switch-numbers.h5")


def _models():
    """Of different shapes, arithmetic and numbers of threads; the third has work enough for several."""
    wide = {"d_model": 192, "d_ff": 512, "d_kv": 32, "num_heads": 6, "vocab_size": 3000}
    shapes = [{}, {"d_model": 20, "num_heads": 2, "is_gated_act": True, "dense_act_fn": "gelu_new"}, wide, {"num_experts": 2}]
    found = []
    for i, (shape, dtype) in enumerate(zip(shapes * 2, ["float32", "int8", "float32", "bfloat16"] + ["int8"] * 4, strict=True)):
        config = small_config(**shape)
        found.append(SwitchTransformer(config, small_params(config, i), dtype=dtype, threads=1 + i % 3))
    return found


def _answer(models, seed):
    """Bytes of one random call."""
    rng = np.random.default_rng(seed)
    model = models[rng.integers(len(models))]
    ids = rng.integers(3, 40, (rng.integers(1, 4), rng.integers(1, 40)))
    kind = rng.integers(3)
    if kind == 0:
        return model.encode(ids).tobytes()
    if kind == 1:
        beams, words = int(rng.integers(1, 4)), int(rng.integers(1, 8))
        return model.generate(ids, max_new_tokens=words, num_beams=beams).tobytes()
    return repr([answer.logprobs for answer in model.score(ids, rng.integers(3, 40, (len(ids), 3)))])


def test_a_thousand_calls_of_eight_threads_have_the_bits_of_one(monkeypatch):
    models, seeds = _models(), range(1000)
    expected = [_answer(models, seed) for seed in seeds]
    for module in (matrices, voices):  # and where small work is shared, those of where it is not
        monkeypatch.setattr(module, "ENOUGH", 0)

    with ThreadPoolExecutor(8) as callers:
        found = list(callers.map(partial(_answer, models), seeds))

    assert [seed for seed in seeds if found[seed] != expected[seed]] == []


START = """
import multiprocessing, os, sys, threading, time
import numpy as np
import switchnp
from switchnp.engine import matrices, voices
matrices.ENOUGH = voices.ENOUGH = 0
TEXT = "say in German: 84"

def answer(_=0):
    return switchnp.load(sys.argv[1], threads=2).generate(TEXT)

def awaited(child):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        gone, status = os.waitpid(child, os.WNOHANG)
        if gone:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, 9)
    return "hung"

def forked():
    child = os.fork()
    if child == 0:
        os._exit(0 if model.generate(TEXT) == "vierundachtzig" == answer() else 7)
    return awaited(child)
"""
USED = """
model = switchnp.load(sys.argv[1], threads=2)
assert model.generate(TEXT) == "vierundachtzig"
"""
BUSY = """
stop = []
def work():
    while not stop:
        assert model.generate(TEXT) == "vierundachtzig" == answer()
workers = [threading.Thread(target=work) for _ in range(2)]
for worker in workers:
    worker.start()
"""
FORK = "print([forked() for _ in range(5)])\n"
IN_A_THREAD = f"t = threading.Thread(target=lambda: {FORK.strip()}); t.start(); t.join()\n"
PROGRAMS = {
    "before use": START + "model = switchnp.load(sys.argv[1], threads=2)\n" + FORK,
    "after use": START + USED + FORK,
    "while other threads are inside": START + USED + BUSY + FORK + "stop.append(1)\n",
    "from a thread": START + USED + BUSY + IN_A_THREAD + "stop.append(1)\n",
}


def _run(code, tmp_path, timeout=240):
    path = tmp_path / "program.py"
    path.write_text(code)
    command = [sys.executable, "-W", "ignore::DeprecationWarning", str(path), NUMBERS]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


@pytest.mark.parametrize("when", PROGRAMS)
def test_a_forked_child_answers(when, tmp_path):
    done = _run(PROGRAMS[when], tmp_path)

    assert (done.returncode, done.stdout) == (0, f"{[0] * 5}\n"), done.stderr


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_of_every_kind_answer(method, tmp_path):
    code = f"""{START}
if __name__ == "__main__":
    answer()
    with multiprocessing.get_context({method!r}).Pool(2) as processes:
        print(processes.map_async(answer, range(6)).get(120) == ["vierundachtzig"] * 6)
"""
    done = _run(code, tmp_path)

    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
