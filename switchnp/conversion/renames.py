"""Hugging Face's names and layouts of the arrays that we have, as one table."""

from __future__ import annotations

import math
import re
from typing import Any

from numpy.typing import NDArray

from ..config import Config
from ..params import blueprint

__all__ = ["RENAMES", "SURPLUS", "VARIANTS", "is_stacked", "returned", "tensor_names", "tensor_shapes", "turned"]

RENAMES = {
    "embedding_vd": ("shared", "v d"),
    "head_vd": ("lm_head", "v d"),
    "{stack}/embedding_vd": ("{stack}.embed_tokens", "v d"),
    "{stack}/bias_rh": ("{stack}.block.0.layer.0.SelfAttention.relative_attention_bias", "r h"),
    "{stack}/norm_d": ("{stack}.final_layer_norm", "d"),
    "{block}/attention/norm_d": ("{layer}.0.layer_norm", "d"),
    "{block}/attention/wq_dhk": ("{layer}.0.SelfAttention.q", "hk d"),
    "{block}/attention/wk_dhk": ("{layer}.0.SelfAttention.k", "hk d"),
    "{block}/attention/wv_dhk": ("{layer}.0.SelfAttention.v", "hk d"),
    "{block}/attention/wo_hkd": ("{layer}.0.SelfAttention.o", "d hk"),
    "{block}/cross/norm_d": ("{layer}.1.layer_norm", "d"),
    "{block}/cross/wq_dhk": ("{layer}.1.EncDecAttention.q", "hk d"),
    "{block}/cross/wk_dhk": ("{layer}.1.EncDecAttention.k", "hk d"),
    "{block}/cross/wv_dhk": ("{layer}.1.EncDecAttention.v", "hk d"),
    "{block}/cross/wo_hkd": ("{layer}.1.EncDecAttention.o", "d hk"),
    "{block}/dense/norm_d": ("{layer}.{last}.layer_norm", "d"),
    "{block}/dense/wi_df": ("{layer}.{last}.mlp.wi", "f d"),
    "{block}/dense/wi0_df": ("{layer}.{last}.mlp.wi_0", "f d"),
    "{block}/dense/wi1_df": ("{layer}.{last}.mlp.wi_1", "f d"),
    "{block}/dense/wo_fd": ("{layer}.{last}.mlp.wo", "d f"),
    "{block}/switch/norm_d": ("{layer}.{last}.layer_norm", "d"),
    "{block}/switch/wr_de": ("{layer}.{last}.mlp.router.classifier", "e d"),
    "{block}/switch/br_e": ("{layer}.{last}.mlp.router.classifier.bias", "e"),
    "{block}/switch/wi_edf": ("{layer}.{last}.mlp.experts.expert_{e}.wi", "f d"),
    "{block}/switch/wi0_edf": ("{layer}.{last}.mlp.experts.expert_{e}.wi_0", "f d"),
    "{block}/switch/wi1_edf": ("{layer}.{last}.mlp.experts.expert_{e}.wi_1", "f d"),
    "{block}/switch/wo_efd": ("{layer}.{last}.mlp.experts.expert_{e}.wo", "d f"),
}
"""Our path, Hugging Face's name (a .weight where it does not end in .bias), and the axes of their array.

{stack} is encoder or decoder, {block} our {stack}/blocks/{i}, {layer} their {stack}.block.{i}.layer, {last} the
feed-forward sublayer (1 in the encoder, 2 in the decoder); a name with {e} is one tensor for each expert.
"""

VARIANTS = {"lm_head.weight": "decoder.lm_head.weight"}
"""Other names in published files (Switch-XXL and Switch-C)."""

SURPLUS = {
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
    "lm_head.weight",
    "decoder.lm_head.weight",
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
}
"""Tensors that may be there and are not needed: copies of tied tables, and a stray of old T5 files."""


def tensor_names(path: str, config: Config) -> list[str]:
    """The names of the tensors that make one of our arrays, in order: one, or one for each expert."""
    stack, *rest = path.split("/")
    layer = f"{stack}.block.{rest[1]}.layer" if rest[:1] == ["blocks"] else ""
    places = {"stack": stack, "layer": layer, "last": 1 if stack == "encoder" else 2}
    theirs = _row(path)[0]
    names = [theirs.format(**places, e=e) for e in (range(config.num_experts) if is_stacked(path) else [0])]
    return [name if name.endswith(".bias") else f"{name}.weight" for name in names]


def tensor_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Every tensor of a complete checkpoint, with its shape."""
    return {name: _tensor_shape(path, config) for path in blueprint(config) for name in tensor_names(path, config)}


def turned(path: str, tensor: NDArray[Any], config: Config) -> NDArray[Any]:
    """A tensor in the layout of our array, or of its slice for one expert."""
    theirs, ours = _row(path)[1].replace(" ", ""), path.rsplit("_", 1)[1]
    axes = ours[1:] if is_stacked(path) else ours
    whole = tensor.reshape([config.axes[axis] for axis in theirs])
    return whole.transpose([theirs.index(axis) for axis in axes])


def returned(path: str, array: NDArray[Any], config: Config) -> NDArray[Any]:
    """The way back from `turned`: our array, or its slice for one expert, as their tensor."""
    theirs, ours = _row(path)[1].replace(" ", ""), path.rsplit("_", 1)[1]
    axes = ours[1:] if is_stacked(path) else ours
    return array.transpose([axes.index(axis) for axis in theirs]).reshape(_tensor_shape(path, config))


def is_stacked(path: str) -> bool:
    """True where our one array is a tensor for each expert there."""
    return "{e}" in _row(path)[0]


def _tensor_shape(path: str, config: Config) -> tuple[int, ...]:
    return tuple(math.prod(config.axes[axis] for axis in group) for group in _row(path)[1].split(" "))


def _row(path: str) -> tuple[str, str]:
    block = re.sub(r"^(encoder|decoder)/blocks/\d+", "{block}", path)
    return RENAMES[re.sub(r"^(encoder|decoder)(?=/)", "{stack}", block)]
