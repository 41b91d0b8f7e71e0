"""Models of every kind and size that may be odd, and batches with padding anywhere, for tests of the fast engine."""

from dataclasses import replace

import numpy as np
from small import small_config

from switchnp import Routing, SwitchTransformer, Tree
from switchnp.config import ACTIVATIONS
from switchnp.params import blueprint
from switchnp.routing import PRESETS

ROUTINGS = {
    **{name: make() for name, make in PRESETS.items()},
    "mesh-tf in parts": Routing.mesh_tf(4),
    "flaxformer in parts": Routing.flaxformer(6),
    "packed": Routing(group="packed", group_tokens=5, capacity="floor", eval_capacity_factor=1.0),
    "everything": Routing(group="everything", capacity="ceil", eval_capacity_factor=1.0),
    "one seat": Routing(capacity=1, dropped="identity"),
    "no seats": Routing(capacity=0, min_capacity=0),
    "hash": Routing(router="hash"),
    "bias": Routing(router="bias"),
    "top k": Routing(router="top k", decoder_router="top 1"),
}
OPEN = replace(Routing.huggingface(), name="open", capacity="unlimited")
"""Nobody is dropped."""


def config_of(rng, **changes):
    """Widths on either side of whole registers and blocks, any activation, any layers sparse."""
    tied = bool(rng.integers(2))
    layers, decoder_layers = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    numbers = {
        "d_model": int(rng.choice([9, 12, 64, 72, 130, 192])),
        "d_ff": int(rng.choice([7, 16, 64, 100, 256, 520])),
        "d_kv": int(rng.choice([5, 8, 16, 64, 70])),
        "num_heads": int(rng.choice([1, 2, 3, 6, 9])),
        "num_layers": layers,
        "num_decoder_layers": decoder_layers,
        "num_experts": int(rng.integers(1, 10)),
        "sparse_encoder_layers": sparse_of(rng, layers),
        "sparse_decoder_layers": sparse_of(rng, decoder_layers),
        "vocab_size": int(rng.choice([40, 64, 131])),
        "expert_capacity": int(rng.choice([1, 3, 64])),
        "dense_act_fn": str(rng.choice(list(ACTIVATIONS))),
        "is_gated_act": bool(rng.integers(2)),
        "tie_word_embeddings": tied,
        "separate_embeddings": not tied and bool(rng.integers(2)),
        "router_bias": bool(rng.integers(2)),
        "relative_attention_max_distance": int(rng.choice([20, 128])),
    }
    return small_config(**numbers | changes)


def sparse_of(rng, layers):
    """All, none, or some."""
    some = tuple(np.flatnonzero(rng.integers(2, size=layers)).tolist())
    return [(), tuple(range(layers)), some][rng.integers(3)]


def params_of(config, rng):
    """Weights under which every layer matters, whatever the widths."""
    return Tree.of({path: _drawn(path, shape, config, rng) for path, shape in blueprint(config).items()})


def _drawn(path, shape, config, rng):
    x = rng.normal(size=shape).astype(np.float32)
    name, axes = path.rpartition("/")[2].rsplit("_", 1)
    if name == "norm":
        return 1 + x / 4
    if path == "embedding_vd" or axes == "rh" or name == "br":
        return x
    if name == "wr":
        return np.float32(2 / np.sqrt(config.d_model)) * x
    inputs = {"dhk": config.d_model, "hkd": config.num_heads * config.d_kv, "vd": config.d_model}
    inputs |= {"df": config.d_model, "edf": config.d_model, "fd": config.d_ff, "efd": config.d_ff}
    if name == "wq":  # scores are not divided by the square root of d_kv
        x /= np.float32(np.sqrt(config.d_kv))
    return np.float32(1.2 / np.sqrt(inputs[axes])) * x


def batch_of(rng, config, sentences=None, length=None):
    """Ids and a mask that may hide places in front, in the middle, behind, or all of a sentence."""
    B, T = sentences or int(rng.integers(1, 21)), length or int(rng.integers(1, 12))
    mask = rng.random((B, T)) < rng.choice([0.5, 0.9, 1.0])
    mask[rng.random(B) < 0.1] = False
    return rng.integers(2, config.vocab_size, (B, T)), mask.astype(int)


def trio(config, params, routing=None):
    """The equations' model, and the fast ones of two threads and of one."""
    slow = SwitchTransformer(config, params, routing, engine="equations")
    return slow, *(SwitchTransformer(config, params, routing, engine="fast", threads=threads) for threads in (2, 1))


def kernels_and_fast(config, params, routing=None, threads=2):
    """The kernels' model and the fast one."""
    return (
        SwitchTransformer(config, params, routing, engine="kernels"),
        SwitchTransformer(config, params, routing, engine="fast", threads=threads),
    )


def assert_near(actual, expected, share=2e-5):
    """Within this share of the largest."""
    assert actual.shape == expected.shape
    assert np.isfinite(actual).all()
    assert np.abs(actual - expected).max(initial=0) <= share * np.abs(expected).max(initial=0)
