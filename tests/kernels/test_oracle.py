"""Every kernel says what its equation says, compiled and as plain Python."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from draw import arguments, flat, seeds, sizes
from hypothesis import given

from switchnp import equations as eq
from switchnp import kernels

REPLACED = [name for name in eq.__all__ if getattr(kernels, name) is not getattr(eq, name)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", REPLACED)
@given(size=sizes, seed=seeds)
def test_kernel_equals_equation(name, dtype, size, seed):
    equation, kernel = getattr(eq, name), getattr(kernels, name)
    drawn = arguments(equation, size, seed, dtype)

    expected, actual = flat(equation(**drawn)), flat(kernel(*drawn.values()))

    tolerance = 1e-5 if dtype is np.float32 else 1e-12
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=10 * tolerance, atol=tolerance)


def test_the_first_of_equal_experts_is_chosen():
    p_te = np.array([[0.2, 0.4, 0.4], [0.5, 0.0, 0.5], [1 / 3] * 3])

    np.testing.assert_array_equal(kernels.top1(p_te), [1, 0, 0])
    np.testing.assert_array_equal(kernels.top1(p_te), eq.top1(p_te))


def test_large_logits_do_not_overflow():
    h_te = np.array([[1000.0, -1000.0], [9000.0, 9000.0]], np.float32)

    np.testing.assert_array_equal(kernels.softmax(h_te), eq.softmax(h_te))


@pytest.mark.parametrize("name", ["rms_norm", "softmax"])
def test_kernels_do_not_hide_a_nan(name):
    drawn = arguments(getattr(eq, name), size=5, seed=3, dtype=np.float32)
    next(iter(drawn.values()))[0, 0] = np.nan

    assert np.isnan(getattr(kernels, name)(*drawn.values())[0]).all()


@pytest.mark.parametrize("name", REPLACED)
def test_kernel_leaves_its_arguments_as_they_were(name):
    drawn = arguments(getattr(eq, name), size=9, seed=7, dtype=np.float32)
    before = {key: value.copy() for key, value in drawn.items() if isinstance(value, np.ndarray)}

    getattr(kernels, name)(*drawn.values())

    for key, value in before.items():
        np.testing.assert_array_equal(drawn[key], value)


def test_the_router_of_one_token_does_not_depend_on_its_neighbours():
    rng = np.random.default_rng(0)
    x_td, wr_de = rng.normal(size=(40, 96)).astype(np.float32), rng.normal(size=(96, 8)).astype(np.float32)

    together = kernels.router_logits(x_td, wr_de)
    alone = np.concatenate([kernels.router_logits(x_td[t : t + 1], wr_de) for t in range(40)])

    np.testing.assert_array_equal(together, alone)


@pytest.mark.skipif("NUMBA_DISABLE_JIT" in os.environ, reason="this is the run without the compiler")
def test_kernels_equal_equations_without_the_compiler():
    here = pathlib.Path(__file__)
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}

    run = subprocess.run([sys.executable, "-m", "pytest", "-q", "-x", str(here)], env=environment, capture_output=True, text=True)

    assert run.returncode == 0, run.stdout[-2000:]
