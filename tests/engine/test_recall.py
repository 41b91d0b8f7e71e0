"""One query over remembered words is softmax and a weighted sum, whatever the sizes, and writes nothing beside."""

import ml_dtypes
import numpy as np
import pytest

from switchnp.engine.instructions import FLOAT32, LANES, WIDENED
from switchnp.engine.linking import link
from switchnp.engine.recall import recalled
from switchnp.kernels.jit import jit


@jit()
def _call(kind, q, K, S, places, keys, values, bias, o):
    recalled(kind, q, K, S, places, keys, values, bias, o)


@pytest.fixture(autouse=True)
def linked():
    link()


@pytest.mark.parametrize("kind", [FLOAT32, WIDENED])
@pytest.mark.parametrize("K", [1, 3, 8, 15, 16, 17, 33, 64, 70, 130])
def test_words_count_as_the_query_meets_their_keys(kind, K):
    rng = np.random.default_rng(K)
    for S in (0, 1, 2, 3, 4, 5, 15, 16, 17, 33):
        words = rng.normal(size=(max(S, 1), 2, K)).astype(ml_dtypes.bfloat16 if kind == WIDENED else np.float32)
        order = rng.permutation(max(S, 1))[:S]
        q_k, places = rng.normal(size=K).astype(np.float32), (order * words.strides[0]).astype(np.int64)
        bias_s, o_k = np.full(S + LANES, np.nan, np.float32), np.full(K + 64, 7, np.float32)
        bias_s[:S] = rng.normal(size=S)

        keys = words.ctypes.data
        _call(kind, q_k.ctypes.data, K, S, places.ctypes.data, keys, keys + words.strides[1], bias_s.ctypes.data, o_k.ctypes.data)

        key_sk, value_sk = words[order].astype(np.float64).transpose(1, 0, 2)
        score_s = key_sk @ q_k + bias_s[:S]
        weight_s = np.exp(score_s - score_s.max(initial=0))
        expected = weight_s @ value_sk / weight_s.sum() if S else np.zeros(K)
        np.testing.assert_allclose(o_k[:K], expected, rtol=0, atol=1e-5)
        assert (o_k[K:] == 7).all()
