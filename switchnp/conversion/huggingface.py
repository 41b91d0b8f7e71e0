"""A Hugging Face folder (config.json, tensors, spiece.model) becomes one HDF5 file."""

from __future__ import annotations

import math
import os
import re
import statistics
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from .. import weights
from ..config import Config, Routing
from ..errors import ConfigError, InputError, SwitchWarning, WeightsError
from ..params import blueprint
from ..tokenizer import Tokenizer
from .folder import Tensors, open_tensors, read_json

__all__ = ["RENAMES", "architecture", "convert", "sources"]

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

PADDING = 128
"""Vocabularies are padded to a multiple of this."""

SURPLUS = {
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
    "lm_head.weight",
    "decoder.lm_head.weight",
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
}
"""Tensors that may be there and are not needed: copies of tied tables, and a stray of old T5 files."""


def convert(
    source_folder: str | os.PathLike[str],
    target_h5: str | os.PathLike[str],
    dtype: str = "float32",
    tokenizer: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> None:
    """Write the model in a Hugging Face folder to one HDF5 file, whole or not at all.

    dtype       "float32" or "bfloat16", on disk
    tokenizer   a SentencePiece model to use instead of the folder's spiece.model

    Where tensors and config.json disagree about the architecture, the tensors win and a SwitchWarning says so.
    Raises FileError for paths, WeightsError for the tensors, ConfigError for config.json, TokenizerError.
    """
    folder = Path(source_folder)
    if dtype not in ("float32", "bfloat16"):
        raise InputError(f"dtype is {dtype!r}, expected 'float32' or 'bfloat16'")
    tensors = open_tensors(folder)
    settings = read_json(folder / "config.json")
    config = architecture(tensors, _config(settings, folder))
    spiece = _spiece(folder, tokenizer, config)
    plan = {path: sources(path, config, tensors.shapes) for path in blueprint(config)}
    _check(plan, tensors.shapes, config)
    weights.write(
        target_h5,
        config,
        Routing.huggingface(),
        _stream(plan, tensors, config),
        dtype=dtype,
        tokenizer=spiece,
        provenance=_provenance(folder, settings),
        force=force,
    )


def sources(path: str, config: Config, shapes: Mapping[str, Any]) -> list[str]:
    """The names of the tensors that make one of our arrays, in order."""
    stack, i = _place(path)
    theirs = RENAMES[_template(path)][0]
    known = {"stack": stack, "layer": f"{stack}.block.{i}.layer", "last": 1 if stack == "encoder" else 2}
    experts = range(config.num_experts) if "{e}" in theirs else [None]
    names = [_with_suffix(theirs.format(**known, e=e)) for e in experts]
    return [VARIANTS[name] if name not in shapes and VARIANTS.get(name) in shapes else _or_shared(name, shapes) for name in names]


def architecture(tensors: Tensors, config: Config) -> Config:
    """The Config that the tensors make; what config.json says otherwise is a SwitchWarning."""
    found = {**_layers(tensors.shapes), **_lengths(tensors.shapes), **_tables(tensors, config)}
    if found["is_gated_act"] and config.dense_act_fn == "gelu":
        found["dense_act_fn"] = "gelu_new"
    derived = {"is_gated_act", "separate_embeddings"}
    differ = [name for name, value in found.items() if getattr(config, name) != value and name not in derived]
    if differ:
        said = ", ".join(f"{name} {getattr(config, name)} (the tensors: {found[name]})" for name in differ)
        warnings.warn(f"config.json disagrees with the tensors, which win: {said}", SwitchWarning, stacklevel=3)
    return replace(config, **found)


def _config(settings: dict[str, Any], folder: Path) -> Config:
    try:
        config = Config.from_huggingface(settings)
    except ConfigError as error:
        raise ConfigError(f"{folder / 'config.json'}: {error}") from None
    if (router_dtype := settings.get("router_dtype", "float32")) != "float32":
        warnings.warn(f"router_dtype is {router_dtype!r}, but routers are computed in float32", SwitchWarning, stacklevel=3)
    return config


def _layers(shapes: Mapping[str, Any]) -> dict[str, Any]:
    blocks: dict[str, set[int]] = {"encoder": set(), "decoder": set()}
    sparse: dict[str, set[int]] = {"encoder": set(), "decoder": set()}
    for name in shapes:
        if match := re.match(r"(encoder|decoder)\.block\.(\d{1,5})\.layer\.\d\.(mlp\.(?:router|experts))?", name):
            blocks[match[1]].add(int(match[2]))
            if match[3]:
                sparse[match[1]].add(int(match[2]))
    if empty := [stack for stack, layers in blocks.items() if not layers]:
        raise WeightsError(f"the checkpoint has no {empty[0]} blocks, expected a Switch encoder-decoder")
    return {
        "num_layers": max(blocks["encoder"]) + 1,
        "num_decoder_layers": max(blocks["decoder"]) + 1,
        "sparse_encoder_layers": tuple(sorted(sparse["encoder"])),
        "sparse_decoder_layers": tuple(sorted(sparse["decoder"])),
        "is_gated_act": any(name.endswith(".wi_0.weight") for name in shapes),
        "router_bias": any(name.endswith(".router.classifier.bias") for name in shapes),
    }


def _lengths(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    def most(pattern: str, axis: int) -> int | None:
        lengths = [shape[axis] for name, shape in shapes.items() if re.search(pattern, name) and len(shape) > axis]
        return statistics.mode(lengths) if lengths else None

    heads, inner = most(r"SelfAttention\.relative_attention_bias", 1), most(r"Attention\.q\.weight", 0)
    found = {
        "d_model": most(r"layer_norm\.weight", 0),
        "vocab_size": most(r"^(shared|\w+\.embed_tokens|(decoder\.)?lm_head)\.weight", 0),
        "d_ff": most(r"\.wi(_0)?\.weight", 0),
        "num_heads": heads,
        "d_kv": inner // heads if heads and inner and inner % heads == 0 else None,
        "num_experts": most(r"router\.classifier\.weight", 0),
        "relative_attention_num_buckets": most(r"relative_attention_bias", 0),
    }
    return {name: length for name, length in found.items() if length is not None}


def _tables(tensors: Tensors, config: Config) -> dict[str, bool]:
    head = next((name for name in ("lm_head.weight", "decoder.lm_head.weight") if name in tensors.shapes), None)
    if config.tie_word_embeddings:
        return {"tie_word_embeddings": head is None or _same(tensors, head, "shared.weight"), "separate_embeddings": False}
    tables = [name for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight") if name in tensors.shapes]
    separate = "shared.weight" not in tensors.shapes or not all(_same(tensors, name, "shared.weight") for name in tables)
    return {"tie_word_embeddings": False, "separate_embeddings": separate}


def _same(tensors: Tensors, one: str, other: str) -> bool:
    if tensors.shapes[one] != tensors.shapes.get(other):
        return False
    return bool(np.array_equal(tensors.read(one), tensors.read(other)))


def _spiece(folder: Path, given: str | os.PathLike[str] | None, config: Config) -> bytes | None:
    path = Path(given) if given is not None else folder / "spiece.model"
    if given is None and not path.exists():
        return None
    tokenizer = Tokenizer(path)
    if tokenizer.vocab_size > config.vocab_size:
        raise ConfigError(f"{path} has {tokenizer.vocab_size} tokens, expected at most the model's {config.vocab_size}")
    if tokenizer.vocab_size <= config.vocab_size - PADDING:
        said = f"{path} has {tokenizer.vocab_size} tokens for a vocabulary of {config.vocab_size}; is it cut short?"
        warnings.warn(said, SwitchWarning, stacklevel=3)
    return tokenizer.model_bytes


def _check(plan: dict[str, list[str]], shapes: Mapping[str, tuple[int, ...]], config: Config) -> None:
    needed = {name: _their_shape(path, config) for path, names in plan.items() for name in names}
    faults = [f"missing {name}" for name in needed if name not in shapes]
    faults += [f"unexpected {ascii(name)[1:-1]}" for name in shapes if name not in needed and name not in SURPLUS]
    faults += [
        f"misshapen {name} {shapes[name]}, expected {shape}"
        for name, shape in needed.items()
        if name in shapes and shapes[name] != shape
    ]
    if faults:
        more = f"; and {len(faults) - 20} more" if len(faults) > 20 else ""
        raise WeightsError(f"the tensors do not fit the model ({len(faults)} faults): {'; '.join(faults[:20])}{more}")


def _stream(plan: dict[str, list[str]], tensors: Tensors, config: Config) -> Iterator[tuple[str, Iterator[NDArray[Any]]]]:
    with tqdm(total=sum(map(len, plan.values())), desc="convert", unit=" tensors", disable=None) as progress:
        for path, names in plan.items():
            yield path, _pieces(path, names, tensors, config, progress)


def _pieces(path: str, names: list[str], tensors: Tensors, config: Config, progress: Any) -> Iterator[NDArray[Any]]:
    theirs, ours = RENAMES[_template(path)][1].replace(" ", ""), path.rsplit("_", 1)[1]
    one_expert = ours.startswith("e") and "e" not in theirs
    order = [theirs.index(axis) for axis in (ours[1:] if one_expert else ours)]
    for name in names:
        array = tensors.read(name).reshape([config.axes[axis] for axis in theirs]).transpose(order)
        yield array[None] if one_expert else array
        progress.update()


def _provenance(folder: Path, settings: dict[str, Any]) -> dict[str, str]:
    version = settings.get("transformers_version")
    said = {"source": folder.resolve().name, "source_format": "huggingface"}
    return said | ({"transformers_version": version[:40]} if isinstance(version, str) else {})


def _their_shape(path: str, config: Config) -> tuple[int, ...]:
    groups = RENAMES[_template(path)][1].split(" ")
    return tuple(math.prod(config.axes[axis] for axis in group) for group in groups)


def _place(path: str) -> tuple[str, str]:
    stack, *rest = path.split("/")
    return stack, rest[1] if rest[:1] == ["blocks"] else ""


def _template(path: str) -> str:
    return re.sub(r"^(encoder|decoder)(?=/)", "{stack}", re.sub(r"^(encoder|decoder)/blocks/\d+", "{block}", path))


def _with_suffix(name: str) -> str:
    return name if name.endswith(".bias") else f"{name}.weight"


def _or_shared(name: str, shapes: Mapping[str, Any]) -> str:
    table = name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
    return "shared.weight" if table and name not in shapes else name
