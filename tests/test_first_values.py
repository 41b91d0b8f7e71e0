"""Weights before the first step."""

import numpy as np
import pytest
from small import small_config

from switchnp import SwitchTransformer
from switchnp.params import first_values

CONFIG = small_config(d_model=64, d_ff=96, d_kv=16, num_heads=4, vocab_size=300, router_bias=True)
INPUTS = {"wi_edf": 64, "wo_efd": 96, "wi_df": 64, "wo_fd": 96, "wr_de": 64, "wk_dhk": 64, "wo_hkd": 64, "wq_dhk": 64 * 16}


@pytest.mark.parametrize("name", INPUTS)
def test_the_variance_of_first_values_is_the_scale_over_the_inputs(name):
    """E8: sigma = sqrt(s / n), none beyond two of it; W_q makes up for attention that does not divide by sqrt(d_kv)."""
    params = first_values(CONFIG, np.random.default_rng(0), scale=0.1, dtype="float64")
    sigma = np.sqrt(0.1 / INPUTS[name])
    found = [leaf for path, leaf in params.leaves() if path.endswith(f"/{name}")]

    assert found
    for leaf in found:
        assert np.abs(leaf).max() <= 2 * sigma
        if leaf.size > 1000:
            assert leaf.std() == pytest.approx(0.8796 * sigma, rel=0.06)


def test_norms_begin_at_one_biases_at_zero_and_words_at_a_deviation_of_one_whatever_the_scale():
    params = first_values(CONFIG, np.random.default_rng(0), scale=1e-6)

    assert (params.encoder.blocks[1].switch.norm_d == 1).all()
    assert not params.encoder.blocks[1].switch.br_e.any()
    assert params.embedding_vd.std() == pytest.approx(0.8796, rel=0.02)


def test_a_new_model_answers_at_once_and_the_same_seed_makes_the_same():
    one, other = (first_values(CONFIG, np.random.default_rng(5)) for _ in range(2))

    out = SwitchTransformer(CONFIG, one, engine="kernels")([[3, 4, 1]], labels=[[5, 1]])

    assert all(np.array_equal(leaf, dict(other.leaves())[path]) for path, leaf in one.leaves())
    assert 0.5 * np.log(300) < out.cross_entropy < 2 * np.log(300)
