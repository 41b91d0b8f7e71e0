"""Every way of multiplying gives the product, and writes nothing else."""

import ml_dtypes
import numpy as np
import pytest
from products_by_kind import KINDS, TOLERANCE, matrix, product

from switchnp.engine.operands import SPAN

SHAPES = [
    (768, 200, 0, 768, 0, 200),
    (70, 130, 10, 67, 64, 130),
    (5, 7, 0, 5, 0, 7),
    (1100, 96, 64, 1100, 0, 64),
    (33, 64, 0, 33, 0, 64),
]
INPUTS = [1, 2, 3, 4, 6, 7, 12, 13]


def _off(got, x, w):
    """The largest error, as a share of |x| |w| for the worst pair."""
    want = x.astype(np.float64) @ w.astype(np.float64)
    lengths = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(w, axis=0)[None]
    return (np.abs(got - want) / np.maximum(lengths, 1e-30)).max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["stream", "tile", "multiply"])
@pytest.mark.parametrize("K, N, k0, k1, c0, c1", SHAPES)
def test_a_product_is_the_product_and_nothing_beside_it_is_touched(way, kind, K, N, k0, k1, c0, c1):
    rng = np.random.default_rng(K)
    w, scale, meant = matrix(rng, kind, K, N, 0)
    for M in INPUTS:
        x = rng.normal(size=(M, k1 - k0)).astype(np.float32)
        y = np.full((M, N), 7, np.float32)

        product(way, kind, x, w, scale, (k0, k1), (c0, c1), y)

        assert _off(y[:, c0:c1], x, meant[k0:k1, c0:c1]) < TOLERANCE[kind], M
        assert (np.delete(y, np.s_[c0:c1], axis=1) == 7).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("V, K, v0, v1", [(200, 768, 0, 200), (130, 70, 64, 130), (7, 5, 0, 7), (66, 1100, 0, 66)])
def test_rows_of_a_table_are_multiplied_as_columns_are(kind, V, K, v0, v1):
    rng = np.random.default_rng(K)
    w, scale, meant = matrix(rng, kind, V, K, 1)
    for M in INPUTS:
        x = rng.normal(size=(M, K)).astype(np.float32)
        y = np.full((M, V), 7, np.float32)

        product("dots", kind, x, w, scale, (0, 0), (v0, v1), y)

        assert _off(y[:, v0:v1], x, meant[v0:v1].T) < TOLERANCE[kind], M
        assert (np.delete(y, np.s_[v0:v1], axis=1) == 7).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["stream", "tile"])
def test_add_adds(way, kind):
    rng = np.random.default_rng(0)
    w, scale, _ = matrix(rng, kind, 48, 100, 0)
    x = rng.normal(size=(3, 48)).astype(np.float32)
    once, twice = np.zeros((3, 100), np.float32), np.zeros((3, 100), np.float32)

    product(way, kind, x, w, scale, (0, 48), (0, 100), once)
    for _ in range(2):
        product(way, kind, x, w, scale, (0, 48), (0, 100), twice, add=True)

    np.testing.assert_allclose(twice, 2 * once, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("M", [1, 3])
def test_rows_of_zeros_are_passed_over_without_a_trace(kind, M):
    rng = np.random.default_rng(1)
    w, scale, meant = matrix(rng, kind, 200, 96, 0)
    x = np.maximum(rng.normal(size=(M, 200)), 0).astype(np.float32)
    x[:, 150:] = 0
    poisoned = w.copy()
    if kind != "int8":
        poisoned[150:] = np.nan
    y = np.empty((M, 96), np.float32)

    product("stream", kind, x, poisoned, scale, (0, 200), (0, 96), y, sparse=True)

    assert _off(y, x, meant) < TOLERANCE[kind]


@pytest.mark.parametrize("way", ["stream", "tile"])
def test_an_input_of_zeros_gives_zeros(way):
    for kind in KINDS:
        w, scale, _ = matrix(np.random.default_rng(2), kind, 30, 64, 0)
        y = np.full((2, 64), 7, np.float32)

        product(way, kind, np.zeros((2, 30), np.float32), w, scale, (0, 30), (0, 64), y)

        assert (y == 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["stream", "tile"])
def test_a_column_has_the_same_bits_whoever_else_is_computed(way, kind):
    rng = np.random.default_rng(3)
    w, scale, _ = matrix(rng, kind, 100, 320, 0)
    x = rng.normal(size=(5, 100)).astype(np.float32)
    whole, parts = np.empty((5, 320), np.float32), np.empty((5, 320), np.float32)

    product(way, kind, x, w, scale, (0, 100), (0, 320), whole)
    for c in (0, 64, 256):
        product(way, kind, x, w, scale, (0, 100), (c, {0: 64, 64: 256, 256: 320}[c]), parts)

    assert (whole == parts).all()


@pytest.mark.parametrize("M", [1, 3, 30])
@pytest.mark.parametrize("way", ["stream", "tile", "multiply"])
@pytest.mark.parametrize("K", [70, 1100])
def test_an_input_of_int8_is_the_nearest_of_255_steps_up_to_the_largest_of_its_stretch(K, way, M):
    """A matrix that changes nothing gives the input as it is seen."""
    rng = np.random.default_rng(K)
    x = (rng.normal(size=(M, K)) * np.where(np.arange(K) < SPAN, 1, 9)).astype(np.float32)
    one = np.full(K, 1 / 127, np.float32)
    y = np.empty((M, K), np.float32)

    product(way, "int8", x, 127 * np.eye(K, dtype=np.int8), one, (0, K), (0, K), y)

    for stretch in (np.s_[:, :SPAN], np.s_[:, SPAN:]):
        step = np.abs(x[stretch]).max(axis=1, keepdims=True, initial=0) / 127
        np.testing.assert_allclose(y[stretch], np.rint(x[stretch] / step) * step, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("M", [1, 3, 30])
@pytest.mark.parametrize("way", ["stream", "tile", "multiply"])
def test_an_input_of_bfloat16_is_the_nearest_and_of_two_the_even_one(way, M):
    x = np.random.default_rng(0).normal(size=(M, 71)).astype(np.float32)
    x[:, 3:6] = 1 + 2.0**-8, 1 + 3 * 2.0**-8, -1 - 2.0**-8
    y = np.empty((M, 71), np.float32)

    product(way, "bfloat16", x, np.eye(71, dtype=ml_dtypes.bfloat16), np.ones(1, np.float32), (0, 71), (0, 71), y)

    np.testing.assert_array_equal(y, x.astype(ml_dtypes.bfloat16).astype(np.float32))
