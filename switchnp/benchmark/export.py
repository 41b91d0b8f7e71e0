"""Our weights as a Hugging Face folder, so that transformers runs the very same model."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import Config
from ..conversion.renames import is_stacked, returned, tensor_names, tensor_shapes
from ..errors import InputError
from ..files import writable
from ..params import blueprint
from ..tree import Tree
from ..weights import NUMPY

__all__ = ["huggingface_settings", "write_folder"]

SAFETENSORS = {"float32": "F32", "bfloat16": "BF16"}


def write_folder(folder: Path, config: Config, params: Tree, dtype: str) -> None:
    """config.json and model.safetensors, in float32 or bfloat16; raises InputError where transformers has no such model."""
    settings = huggingface_settings(config) | {"dtype": dtype}
    size, header, end = NUMPY[dtype].itemsize, {}, 0
    for name, shape in tensor_shapes(config).items():
        begin, end = end, end + size * math.prod(shape)
        header[name] = {"dtype": SAFETENSORS[dtype], "shape": shape, "data_offsets": [begin, end]}
    raw = json.dumps(header | {"__metadata__": {"format": "pt"}}).encode()
    raw += b" " * (-len(raw) % 8)
    with writable(folder):
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(settings, indent=1))
        with open(folder / "model.safetensors", "wb") as file:
            file.write(struct.pack("<Q", len(raw)) + raw)
            for tensor in _tensors(config, params):
                file.write(np.ascontiguousarray(tensor).astype(NUMPY[dtype]).tobytes())


def huggingface_settings(config: Config) -> dict[str, Any]:
    """A config.json of which transformers builds this model; raises InputError where there is none."""
    settings = {name: value for name, value in asdict(config).items() if not name.startswith("sparse_")}
    sparse = {"encoder": config.sparse_encoder_layers, "decoder": config.sparse_decoder_layers}
    layers = {"encoder": config.num_layers, "decoder": config.num_decoder_layers}
    for stack in sparse:
        settings[f"num_sparse_{stack}_layers"] = len(sparse[stack])
        settings[f"{stack}_sparse_step"] = _step(layers[stack], sparse[stack])
    settings |= {"architectures": ["SwitchTransformersForConditionalGeneration"], "model_type": "switch_transformers"}
    if Config.from_huggingface(settings) != config:
        raise InputError("transformers has no model of this shape (sparse layers, gated activation or separate embeddings)")
    return settings


def _step(layers: int, sparse: tuple[int, ...]) -> int:
    """The sparse step that makes these layers sparse, 0 where none of them are or no step does."""
    made = {step: tuple(i for i in range(layers) if step == 1 or i % step == 1) for step in range(1, layers + 1)}
    return next((step for step, found in made.items() if found == sparse), 0)


def _tensors(config: Config, params: Tree) -> Iterator[NDArray[Any]]:
    arrays = dict(params.leaves())
    for path in blueprint(config):
        for e, _ in enumerate(tensor_names(path, config)):
            yield returned(path, arrays[path][e] if is_stacked(path) else arrays[path], config)
