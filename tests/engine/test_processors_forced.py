"""Processors of many kinds get the same answers: whatever the engine chooses by their features is right."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import llvmlite.binding
import numpy as np
import pytest
from references import ROOT

NUMBERS = str(ROOT / "weights/switch-numbers.h5")
PROGRAM = str(ROOT / "tests/engine/answers_of_a_processor.py")
OLD = "cx16 sahf sse sse2 sse3 ssse3 sse4.1 sse4.2 popcnt mmx fxsr cmov cx8"
AVX2 = f"{OLD} avx avx2 fma f16c bmi bmi2 lzcnt movbe"
AVX512 = f"{AVX2} avx512f avx512bw avx512dq avx512vl avx512cd"
PROCESSORS = {
    "no AVX": ("x86-64", ""),
    "AVX2": ("haswell", AVX2),
    "AVX-512": ("skylake-avx512", AVX512),
    "VNNI": ("cascadelake", f"{AVX512} avx512vnni"),
    "this one": (None, None),
}
CHOICES = {
    "no AVX": (4, [1, 1, 1, 1]),
    "AVX2": (8, [1, 1, 1, 1]),
    "AVX-512": (16, [1, 1, 1, 1]),
    "VNNI": (16, [1, 1, 4, 1]),
}
"""LANES and FOLDS of engine.instructions."""


def _possible(name):
    there = {feature for feature, has in llvmlite.binding.get_host_cpu_features().items() if has}
    wanted = PROCESSORS[name][1]
    return wanted is None or ("sse2" in there and set(wanted.split()) <= there | {"sahf", "mmx", "fxsr", "cmov", "cx8"})


POSSIBLE = [name for name in PROCESSORS if _possible(name)]


@pytest.fixture(scope="module")
def answers(request):
    """What each processor says; two at a time, with caches that last from run to run, for each compiles for half a minute."""

    def said(name):
        processor, features = PROCESSORS[name]
        folder = request.config.cache.mkdir(f"numba-{name.replace(' ', '-')}")
        own = {"NUMBA_CACHE_DIR": str(folder)}
        if processor is not None:
            own |= {"NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": ",".join(f"+{each}" for each in features.split())}
        done = subprocess.run(
            [sys.executable, PROGRAM, NUMBERS], env=os.environ | own, capture_output=True, text=True, timeout=500
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    with ThreadPoolExecutor(2) as runners:
        return dict(zip(POSSIBLE, runners.map(said, POSSIBLE), strict=True))


@pytest.mark.parametrize("name", POSSIBLE)
def test_logits_are_those_of_the_equations_and_answers_are_the_same(name, answers):
    said = answers[name]
    exact = np.array(said["equations"]["logits"])

    for dtype, tolerance in {"float32": 2e-5, "bfloat16": 1e-2, "int8": 3e-2}.items():
        off = np.abs(np.array(said[dtype]["logits"]) - exact).max() / np.abs(exact).max()
        assert off < tolerance, dtype
        assert said[dtype]["answers"] == said["equations"]["answers"], dtype


def test_int8_is_the_same_on_every_processor_that_looks_in_float32(answers):
    """Its products are exact; norms and softmax add in other orders. Who multiplies pairs of bfloat16 looks in those."""
    alike = [np.array(said["int8"]["logits"]) for said in answers.values() if said["folds"][1] == 1]

    for other in alike[1:]:
        assert np.abs(alike[0] - other).max() < 1e-4 * np.abs(alike[0]).max()


@pytest.mark.parametrize("name", [name for name in POSSIBLE if name in CHOICES])
def test_instructions_are_those_of_the_processor(name, answers):
    assert (answers[name]["lanes"], answers[name]["folds"]) == CHOICES[name]
