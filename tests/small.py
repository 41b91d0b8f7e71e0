"""Small models with random weights, for tests that need no reference."""

import numpy as np

from switchnp import Config, SwitchTransformer, Tree
from switchnp.params import blueprint


def small_config(**changes):
    """Two layers a stack, the second sparse, four experts."""
    numbers = {
        "d_model": 12,
        "d_ff": 16,
        "d_kv": 5,
        "num_heads": 3,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "num_experts": 4,
        "sparse_encoder_layers": (1,),
        "sparse_decoder_layers": (1,),
        "vocab_size": 40,
    }
    return Config(**numbers | changes)


def small_params(config, seed=0, dtype=np.float32):
    """Normal weights, scaled so that activations stay near one."""
    rng = np.random.default_rng(seed)
    leaves = {}
    for path, shape in blueprint(config).items():
        scale = 1.0 if path.endswith(("norm_d", "embedding_vd", "wr_de")) else 0.3
        leaves[path] = (scale * rng.normal(size=shape)).astype(dtype)
    return Tree.of(leaves)


def small_model(routing=None, engine="kernels", seed=0, dtype=np.float32, **changes):
    """A whole model of such weights."""
    config = small_config(**changes)
    return SwitchTransformer(config, small_params(config, seed, dtype), routing, engine=engine)
