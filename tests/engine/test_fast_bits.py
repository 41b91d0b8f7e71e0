"""The fast engine gives the same bits by any number of threads, in any order, and whatever was in its memory before."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest
from digests import CASES, digest
from drawn import OPEN, batch_of, config_of, params_of
from references import TESTS

from switchnp import SwitchTransformer


@cache
def alone(case):
    """By one thread, in this process."""
    return digest(case, 1)


@pytest.mark.parametrize("threads", [2, 3, 5])
@pytest.mark.parametrize("case", CASES)
def test_any_number_of_threads_gives_the_same_bits(case, threads):
    assert digest(case, threads) == alone(case)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_memory_that_was_freed_or_never_written_is_not_read(threads):
    """malloc fills what it gives with one byte and what it takes back with another; another process, in another order."""
    program = [sys.executable, TESTS / "engine/digests.py", str(threads)]

    environment = os.environ | {"MALLOC_PERTURB_": "165", "PYTHONPATH": str(TESTS)}
    done = subprocess.run(program, env=environment, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {case: alone(case) for case in CASES}


def test_a_model_says_the_same_again_after_others_spoke():
    first = digest("wide", 2)
    for case in ("odd in int8", "wide in int8", "drawn 1"):
        digest(case, 2)

    assert digest("wide", 2) == first


def test_models_that_are_used_at_once_give_the_same_bits():
    with ThreadPoolExecutor(3) as pool:
        together = dict(zip(CASES, pool.map(lambda case: digest(case, 2), CASES), strict=True))

    assert together == {case: alone(case) for case in CASES}


def test_what_a_pass_gave_is_not_changed_by_the_next():
    rng = np.random.default_rng(0)
    config = config_of(rng)
    model = SwitchTransformer(config, params_of(config, rng), OPEN, engine="fast")
    ids, mask = batch_of(rng, config, 5, 9)

    out = model(ids, mask, ids)
    copies = [array.copy() for array in (out.logits, out.encoder_last_hidden_state, out.decoder_last_hidden_state)]
    model(ids[:, ::-1], mask[:, ::-1], ids[::-1])

    for copy, array in zip(copies, (out.logits, out.encoder_last_hidden_state, out.decoder_last_hidden_state), strict=True):
        np.testing.assert_array_equal(copy, array)


def test_weights_and_inputs_are_not_written_to():
    rng = np.random.default_rng(1)
    config = config_of(rng)
    params = params_of(config, rng)
    before = {path: leaf.copy() for path, leaf in params.leaves()}
    for _, leaf in params.leaves():
        leaf.flags.writeable = False
    ids, mask = batch_of(rng, config, 5, 9)
    copies = ids.copy(), mask.copy()

    model = SwitchTransformer(config, params, OPEN, engine="fast")
    model(ids, mask, ids)
    model.generate(ids, mask, 4, num_beams=2)

    for path, leaf in params.leaves():
        np.testing.assert_array_equal(leaf, before[path])
    np.testing.assert_array_equal(ids, copies[0])
    np.testing.assert_array_equal(mask, copies[1])


def test_a_child_of_fork_computes_with_threads_of_its_own():
    code = """
import os, sys, warnings
warnings.simplefilter("ignore")
sys.path[:0] = sys.argv[1:]
from digests import digest
expected = digest("drawn 1", 2)
child = os.fork()
if child == 0:
    os._exit(0 if digest("drawn 1", 2) == expected else 3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

    done = subprocess.run([sys.executable, "-c", code, TESTS / "engine", TESTS], capture_output=True, text=True, timeout=120)

    assert done.stdout.strip() == "0", done.stderr


def test_a_model_that_a_signal_asks_does_not_disturb_who_was_interrupted():
    rng = np.random.default_rng(0)
    config = config_of(rng, d_model=64, num_heads=3, d_kv=16, d_ff=100)
    model = SwitchTransformer(config, params_of(config, rng), OPEN)
    ids, others = rng.integers(3, 40, (8, 30)), rng.integers(3, 40, (16, 50))
    alone, asked = [model.encode(each) for each in (ids, others)], []
    before = signal.signal(signal.SIGALRM, lambda *_: asked.append(np.array_equal(model.encode(others), alone[1])))
    try:
        for i in range(200):
            signal.setitimer(signal.ITIMER_REAL, 1e-4 + i % 40 * 1e-4)
            assert np.array_equal(model.encode(ids), alone[0])
        signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert len(asked) > 5
    assert all(asked)
