"""A Hugging Face folder (config.json, tensors, spiece.model) becomes one HDF5 file."""

from __future__ import annotations

import os
import re
import statistics
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from .. import weights
from ..config import Config
from ..errors import ConfigError, FileError, SwitchWarning, WeightsError
from ..files import as_path, shown, writable
from ..params import blueprint
from ..routing import Routing
from ..search import GenerationConfig
from ..tokenizer import Tokenizer
from .folder import Tensors, open_tensors, read_json
from .renames import SURPLUS, VARIANTS, is_stacked, tensor_names, tensor_shapes, turned

__all__ = ["Plan", "architecture", "arrays", "convert", "plan"]

PADDING = 128
"""Vocabularies are padded to a multiple of this."""

Shapes = Mapping[str, tuple[int, ...]]


class Plan(NamedTuple):
    """What a folder will become: its Config, and the tensors that make each of our arrays."""

    config: Config
    tensors: Tensors
    names: dict[str, list[str]]


def convert(
    source_folder: str | os.PathLike[str],
    target_h5: str | os.PathLike[str],
    dtype: str = "float32",
    tokenizer: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> None:
    """Write the model in a Hugging Face folder to one HDF5 file, whole or not at all.

    dtype       "float32", "bfloat16" or "int8", on disk
    tokenizer   a SentencePiece model to use instead of the folder's spiece.model

    Where tensors and config.json disagree about the architecture, the tensors win and a SwitchWarning says so.
    Raises FileError for paths, WeightsError for the tensors, ConfigError for config.json, TokenizerError.
    """
    folder, target = as_path(source_folder), as_path(target_h5)
    planned = plan(folder)
    _refuse_source(target, folder)
    weights.write(
        target,
        planned.config,
        Routing.huggingface(),
        arrays(planned),
        dtype=dtype,
        tokenizer=_spiece(folder, tokenizer, planned.config),
        provenance=_provenance(folder),
        generation=_generation(folder),
        force=force,
    )


def plan(folder: Path) -> Plan:
    """Look at a folder and see that it is a whole model; of its weights only tables that may be copies are read."""
    tensors = open_tensors(folder)
    config = architecture(tensors, _config(folder))
    names = {path: _present(tensor_names(path, config), tensors.shapes) for path in blueprint(config)}
    _check(names, tensors.shapes, config)
    return Plan(config, tensors, names)


def arrays(plan: Plan) -> Iterator[tuple[str, Iterator[NDArray[Any]]]]:
    """Each of our arrays by path, in pieces along its first axis, a tensor at a time."""
    hidden = True if sys.stderr is None else None  # None: where stderr is no terminal
    with tqdm(total=sum(map(len, plan.names.values())), desc="convert", unit=" tensors", disable=hidden) as progress:
        for path in plan.names:
            yield path, _pieces(path, plan, progress)


def architecture(tensors: Tensors, config: Config) -> Config:
    """The Config that the tensors make; what config.json says otherwise is a SwitchWarning."""
    found = {**_layers(tensors.shapes), **_lengths(tensors.shapes)}
    _bound(found, tensors.shapes)
    found |= _tables(tensors, config)
    differ = [name for name, value in found.items() if getattr(config, name) != value and name != "separate_embeddings"]
    if differ:
        said = ", ".join(f"{name} {shown(getattr(config, name))} (the tensors: {shown(found[name])})" for name in differ)
        _warn(f"config.json disagrees with the tensors, which win: {said}")
    if found["is_gated_act"] and config.dense_act_fn == "gelu":
        _warn("dense_act_fn is gelu in a gated model; taken for its tanh form, gelu_new, as T5's gated layers have it")
        found["dense_act_fn"] = "gelu_new"
    return replace(config, **found)


def _generation(folder: Path) -> GenerationConfig:
    """How the folder's answers are searched for; what cannot be done is a SwitchWarning."""
    path = folder / "generation_config.json"
    if not path.exists():
        return GenerationConfig()
    try:
        return GenerationConfig.from_huggingface(read_json(path))
    except ConfigError as error:
        _warn(f"generation_config.json is passed over: {error}")
        return GenerationConfig()


def _config(folder: Path) -> Config:
    settings = read_json(folder / "config.json")
    try:
        config = Config.from_huggingface(settings)
    except ConfigError as error:
        raise ConfigError(f"{shown(folder / 'config.json')}: {error}") from None
    if (router_dtype := settings.get("router_dtype", "float32")) != "float32":
        _warn(f"router_dtype is {shown(router_dtype)}, but routers are computed in float32")
    return config


def _layers(shapes: Shapes) -> dict[str, Any]:
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


def _lengths(shapes: Shapes) -> dict[str, int]:
    def most(pattern: str, axis: int) -> int | None:
        lengths = [shape[axis] for name, shape in shapes.items() if re.search(pattern, name) and len(shape) > axis]
        return statistics.mode(lengths) if lengths else None

    heads, inner = most(r"SelfAttention\.relative_attention_bias", 1), most(r"Attention\.q\.weight", 0)
    found = {
        "d_model": most(r"layer_norm\.weight", 0),
        "vocab_size": most(r"^shared\.weight", 0) or most(r"^(\w+\.embed_tokens|(decoder\.)?lm_head)\.weight", 0),
        "d_ff": most(r"\.wi(_0)?\.weight", 0),
        "num_heads": heads,
        "d_kv": inner // heads if heads and inner and inner % heads == 0 else None,
        "num_experts": most(r"router\.classifier\.weight", 0),
        "relative_attention_num_buckets": most(r"relative_attention_bias", 0),
    }
    return {name: length for name, length in found.items() if length is not None}


def _bound(found: Mapping[str, Any], shapes: Shapes) -> None:
    """Refuse layers and experts that the checkpoint cannot have tensors for, before any list of them is made."""
    layers = found["num_layers"] + found["num_decoder_layers"]
    sparse = len(found["sparse_encoder_layers"]) + len(found["sparse_decoder_layers"])
    if max(layers, sparse * found.get("num_experts", 0)) > len(shapes):
        said = f"{layers} layers and {sparse} times {shown(found.get('num_experts', 0))} experts"
        raise WeightsError(f"the tensors speak of {said}, but there are only {len(shapes)} of them")


def _tables(tensors: Tensors, config: Config) -> dict[str, bool]:
    def differing(*names: str) -> list[str]:
        present = [name for name in names if name in tensors.shapes and "shared.weight" in tensors.shapes]
        return [name for name in present if not _is_same(name, "shared.weight", tensors)]

    for name, variant in VARIANTS.items():
        if {name, variant} <= tensors.shapes.keys() and not _is_same(name, variant, tensors):
            raise WeightsError(f"{name} and {variant} are two heads that differ, expected one")
    tables = differing("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    if not config.tie_word_embeddings:
        separate = bool(tables) or "shared.weight" not in tensors.shapes
        return {"tie_word_embeddings": False, "separate_embeddings": separate}
    if tables:
        _warn(f"{' and '.join(tables)} differ from shared.weight in a tied model; shared.weight is taken, as transformers does")
    return {"tie_word_embeddings": not differing(*VARIANTS, *VARIANTS.values()), "separate_embeddings": False}


def _is_same(one: str, other: str, tensors: Tensors) -> bool:
    same_shape = tensors.shapes[one] == tensors.shapes[other]
    return same_shape and np.array_equal(tensors.read(one), tensors.read(other))


def _present(names: list[str], shapes: Shapes) -> list[str]:
    """The names under which tensors are there: some files spell the head otherwise, some leave out copies of shared."""
    if names[0] in shapes or len(names) > 1:
        return names
    if VARIANTS.get(names[0]) in shapes:
        return [VARIANTS[names[0]]]
    return ["shared.weight"] if names[0] in SURPLUS else names


def _check(names: Mapping[str, list[str]], shapes: Shapes, config: Config) -> None:
    canonical = tensor_shapes(config)
    needed = {
        there: canonical[name]
        for path, present in names.items()
        for there, name in zip(present, tensor_names(path, config), strict=True)
    }
    faults = [f"missing {name}" for name in needed if name not in shapes]
    faults += [f"unexpected {shown(name)}" for name in shapes if name not in needed and name not in SURPLUS]
    faults += [
        f"misshapen {name} {shown(shapes[name])}, expected {shape}"
        for name, shape in needed.items()
        if name in shapes and shapes[name] != shape
    ]
    if faults:
        more = f"; and {len(faults) - 20} more" if len(faults) > 20 else ""
        raise WeightsError(f"the tensors do not fit the model ({len(faults)} faults): {'; '.join(faults[:20])}{more}")


def _pieces(path: str, plan: Plan, progress: Any) -> Iterator[NDArray[Any]]:
    for name in plan.names[path]:
        array = turned(path, plan.tensors.read(name), plan.config)
        yield array[None] if is_stacked(path) else array
        progress.update()


def _spiece(folder: Path, given: str | os.PathLike[str] | None, config: Config) -> bytes | None:
    path = as_path(given) if given is not None else folder / "spiece.model"
    if given is None and not os.path.lexists(path):
        return None
    tokenizer = Tokenizer(path)
    said = f"{shown(path)} has {tokenizer.vocab_size} tokens"
    if tokenizer.vocab_size > config.vocab_size:
        raise ConfigError(f"{said}, expected at most the model's {config.vocab_size}")
    if tokenizer.vocab_size <= config.vocab_size - PADDING:
        _warn(f"{said} for a vocabulary of {config.vocab_size}; is it cut short?")
    return tokenizer.model_bytes


def _refuse_source(target: Path, folder: Path) -> None:
    with writable(target):
        if target.exists() and any(target.samefile(file) for file in folder.iterdir() if file.exists()):
            raise FileError(f"{shown(target)} is a file of the checkpoint itself, expected another target")


def _provenance(folder: Path) -> dict[str, str]:
    version = read_json(folder / "config.json").get("transformers_version")
    said = {"source": shown(folder.resolve().name), "source_format": "huggingface"}
    return said | ({"transformers_version": shown(version)} if isinstance(version, str) else {})


def _warn(message: str) -> None:
    warnings.warn(message, SwitchWarning, stacklevel=2)
