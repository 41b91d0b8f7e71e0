"""Words in, words out."""

import numpy as np
import pytest
from draw import arguments, seeds, sizes
from hypothesis import given

from switchnp import equations as eq


@given(sizes, seeds)
def test_a_word_is_its_row_unscaled(size, seed):
    """§4: x_t = W[id_t], bit for bit."""
    drawn = arguments(eq.embed, size, seed)
    ids_t, embedding_vd = drawn.values()

    x_td = eq.embed(**drawn)

    assert x_td.tolist() == [embedding_vd[word].tolist() for word in ids_t]


@given(sizes, seeds)
def test_tied_logits_are_scaled_down_by_the_root_of_the_width(size, seed):
    """§4.3: the tied output embedding multiplies the decoder's state by d_model^-1/2."""
    drawn = arguments(eq.unembed, size, seed)
    x_td, embedding_vd = drawn.values()

    logits_tv = eq.unembed(**drawn)

    expected_tv = x_td @ embedding_vd.T / np.sqrt(x_td.shape[1])
    np.testing.assert_allclose(logits_tv, expected_tv, rtol=1e-12, atol=1e-13)


@given(sizes, seeds)
def test_untied_logits_are_not_scaled(size, seed):
    """§4.3: a table of its own needs no factor."""
    drawn = arguments(eq.head, size, seed)
    x_td, head_vd = drawn.values()

    logits_tv = eq.head(**drawn)

    np.testing.assert_allclose(logits_tv, x_td @ head_vd.T, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("equation", [eq.embed, eq.unembed, eq.head])
@given(size=sizes, seed=seeds)
def test_words_stay_in_the_models_precision(equation, dtype, size, seed):
    """§4.3: the factor d_model^-1/2 does not widen the state."""
    drawn = arguments(equation, size, seed, dtype)

    out = equation(**drawn)

    assert out.dtype == dtype
