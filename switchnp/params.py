"""The blueprint of the weights: which arrays a Config makes, and how long each axis is."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .config import Config
from .equations import truncated_normal
from .errors import ShapeError
from .quantization import scale_path
from .tree import Tree

__all__ = ["blueprint", "check_shapes", "first_values", "layout"]


def blueprint(config: Config) -> dict[str, tuple[int, ...]]:
    """Every weight's path and shape, in the order of `Tree.leaves`.

    A name carries its axes and the Config their lengths, so a path says its own shape: wi_edf is (E, D, F).
    """
    return {path: _shape(path, config.axes) for path in sorted(_paths(config), key=_by_name_then_number)}


def first_values(config: Config, rng: np.random.Generator, scale: float = 0.1, dtype: str = "float32") -> Tree:
    """The weights before the first step: truncated normal, small ones of a variance of scale / inputs (Switch, §2.4).

    Norms begin at 1, a router's bias at 0, the table of words at a deviation of 1 whatever the scale. W_q is smaller by
    sqrt(d_kv), for attention does not divide by it. Each array has a stream of its own, by its path: models that share some
    arrays, as a sparse and a dense one do, begin with the same ones.

    Source: Switch, §2.4 (E8); the table and W_q are those of T5X's configurations.
    """
    leaves, base = {}, int(rng.integers(2**63))
    for path, shape in blueprint(config).items():
        name, rng = path.rpartition("/")[2], np.random.default_rng([base, zlib.crc32(path.encode())])
        if name in ("norm_d", "br_e"):
            leaves[path] = np.full(shape, name == "norm_d", dtype)
        elif name == "embedding_vd":
            leaves[path] = truncated_normal(shape, 1, 1.0, rng).astype(dtype)
        else:
            leaves[path] = truncated_normal(shape, _inputs(name, config), scale, rng).astype(dtype)
    return Tree.of(leaves)


def _inputs(name: str, config: Config) -> int:
    """How many inputs each output of an array adds up."""
    widths = {"wq_dhk": config.d_model * config.d_kv, "wo_hkd": config.num_heads * config.d_kv}
    widths |= {"wo_fd": config.d_ff, "wo_efd": config.d_ff}
    return widths.get(name, config.d_model)


def layout(config: Config, dtype: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """Every array that a file of `dtype` stores, with its shape and number type: int8 brings scales, and not all are int8."""
    if dtype != "int8":
        return {path: (shape, dtype) for path, shape in blueprint(config).items()}
    stored = {path: (shape, "int8" if scale_path(path) else "float32") for path, shape in blueprint(config).items()}
    scales = filter(None, map(scale_path, blueprint(config)))
    stored |= {path: (_shape(path, config.axes), "float32") for path in scales}
    return {path: stored[path] for path in sorted(stored, key=_by_name_then_number)}


def check_shapes(params: Tree, config: Config) -> None:
    """Raise ShapeError unless `params` has exactly the arrays that `config` makes."""
    expected, actual = blueprint(config), dict(params.leaves())
    if missing := sorted(set(expected) - set(actual)):
        raise ShapeError(f"{missing[0]} is missing ({len(missing)} in all), but this Config needs it")
    if unexpected := sorted(set(actual) - set(expected)):
        raise ShapeError(f"{unexpected[0]} is not part of this Config ({len(unexpected)} such in all)")
    for path, shape in expected.items():
        if actual[path].shape != shape:
            raise ShapeError(f"{path} is {actual[path].shape}, but this Config makes it {shape}")


def _paths(config: Config) -> Iterator[str]:
    if config.separate_embeddings:
        yield from ("encoder/embedding_vd", "decoder/embedding_vd")
    else:
        yield "embedding_vd"
    if not config.tie_word_embeddings:
        yield "head_vd"
    yield from _stack("encoder", ("attention",), config.num_layers, set(config.sparse_encoder_layers), config)
    yield from _stack("decoder", ("attention", "cross"), config.num_decoder_layers, set(config.sparse_decoder_layers), config)


def _stack(stack: str, attentions: tuple[str, ...], layers: int, sparse: set[int], config: Config) -> Iterator[str]:
    yield from (f"{stack}/bias_rh", f"{stack}/norm_d")
    for i in range(layers):
        block = f"{stack}/blocks/{i}"
        for attention in attentions:
            yield from (f"{block}/{attention}/{name}" for name in ("norm_d", "wq_dhk", "wk_dhk", "wv_dhk", "wo_hkd"))
        if i in sparse:
            names = ["norm_d", "wr_de", *_INPUTS[config.is_gated_act, "edf"], "wo_efd"]
            yield from (f"{block}/switch/{name}" for name in names + ["br_e"] * config.router_bias)
        else:
            yield from (f"{block}/dense/{name}" for name in ("norm_d", *_INPUTS[config.is_gated_act, "df"], "wo_fd"))


_INPUTS = {
    (False, "df"): ("wi_df",),
    (False, "edf"): ("wi_edf",),
    (True, "df"): ("wi0_df", "wi1_df"),
    (True, "edf"): ("wi0_edf", "wi1_edf"),
}


def _shape(path: str, axes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(axes[letter] for letter in path.rsplit("_", 1)[1])


def _by_name_then_number(path: str) -> list[tuple[int, Any]]:
    return [(0, int(part)) if part.isdigit() else (1, part) for part in path.split("/")]
