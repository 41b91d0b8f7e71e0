"""Models of a true shape with random weights that behave: half of the hidden units are 0, experts are asked about alike often.

Words are small beside what layers add to them, looks are sharp, and each expert's answers are about a mean of 0: else a tied
head repeats the first word for ever, or all sentences come to be one, and all answers of a batch ask the same expert.
"""

import numpy as np

from switchnp import Routing, weights
from switchnp.params import blueprint


def write_random(path, config, dtype="float32", seed=8):
    """One weights file, array by array, never all of it in memory."""
    rng = np.random.default_rng(seed)
    arrays = ((name, _pieces(name, shape, config, rng)) for name, shape in blueprint(config).items())
    weights.write(path, config, Routing.huggingface(), arrays, dtype=dtype, provenance={"source": "random"}, force=True)


def _pieces(name, shape, config, rng):
    if name.endswith("norm_d"):
        yield np.ones(shape, np.float32)
        return
    scale = np.float32(_scale(name.rsplit("/", 1)[-1], config))
    stacked = name.endswith(("_edf", "_efd"))
    for _ in range(shape[0] if stacked else 1):
        piece = scale * rng.standard_normal((1, *shape[1:]) if stacked else shape, np.float32)
        yield piece - piece.mean(-2, keepdims=True) if name.endswith(("wo_fd", "wo_efd")) else piece


def _scale(name, config):
    """One over the root of how many numbers are added up; in a query so that scores are near 4, for T5 does not scale them."""
    D, F, K, H = config.d_model, config.d_ff, config.d_kv, config.num_heads
    inputs = {"wq_dhk": D * K / 16, "wo_hkd": H * K, "wo_fd": F, "wo_efd": F, "embedding_vd": 16, "bias_rh": 100}
    return inputs.get(name, D) ** -0.5
