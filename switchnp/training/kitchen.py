"""A recipe's model, data, optimizer and examination, made ready."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .. import loading, memory
from ..config import Config
from ..data.batches import Batches
from ..data.mixtures import Mixture, Task
from ..data.sources import Lines, Pairs
from ..errors import ConfigError
from ..evaluation import read_pairs
from ..files import readable, shown
from ..model import SwitchTransformer
from ..optimizers import OPTIMIZERS
from ..params import first_values
from ..routing import Routing
from ..tokenizer import Tokenizer
from ..tree import Tree
from .examination import Held, held_fill, held_pairs
from .recipe import Recipe, TaskPart, part
from .trainer import Trainer, learner

__all__ = ["born", "examination", "trainer_of"]

BORN = 0x5EED
"""Keeps the stream of first values apart from those of the steps."""


def born(recipe: Recipe) -> SwitchTransformer:
    """The model as it is before the first step: read from a file, or drawn; a student may begin with its teacher's weights."""
    about = recipe.model
    routing = None if about.routing is None else Routing.named(about.routing)
    if about.file is not None:
        if recipe.config or about.tokenizer:
            raise ConfigError("[model] has a file, expected no [model.config] and no tokenizer beside it")
        return learner(loading.load(recipe.path(about.file), routing))
    if about.tokenizer is None or not recipe.config:
        raise ConfigError("[model] has no file, expected a tokenizer and [model.config]")
    tokenizer = Tokenizer(recipe.path(about.tokenizer))
    config = _config(recipe.config, tokenizer)
    memory.check_training(config.num_parameters, 2 * 4 * config.num_parameters)
    rng = np.random.default_rng(np.random.SeedSequence(recipe.seed, spawn_key=(BORN,)))
    params = first_values(config, rng, about.init_scale)
    return learner(SwitchTransformer(config, params, routing, tokenizer, provenance={"recipe": recipe.run.name}))


def trainer_of(recipe: Recipe, model: SwitchTransformer) -> Trainer:
    """All that learns, before its first step."""
    teacher = share = None
    if recipe.teacher is not None:
        teacher, share = loading.load(recipe.path(recipe.teacher.file), engine="kernels"), recipe.teacher.share
        if teacher.config.vocab_size != model.config.vocab_size or _words(teacher) != _words(model):
            raise ConfigError("teacher and student have different vocabularies, expected the same tokenizer and vocab_size")
        if recipe.teacher.inherit:
            _inherit(model.params, teacher.params)
    try:
        optimizer = OPTIMIZERS[recipe.optimizer.kind](model.params, **recipe.optimizer.settings)
    except TypeError as error:
        raise ConfigError(f"in [optimizer] {str(error).rpartition(' ')[2]} is no setting of {recipe.optimizer.kind}") from None
    about = recipe.schedule, recipe.training, recipe.seed, teacher, 0.25 if share is None else share
    return Trainer(model, _batches(recipe, model), optimizer, *about)


def examination(recipe: Recipe, model: SwitchTransformer) -> list[Held]:
    """What the model is examined in: the held files of the recipe's tasks."""
    tokenizer, limit = _tokenizer(model), recipe.evaluation.limit
    lengths = recipe.data.max_inputs, recipe.data.max_targets
    held = []
    for task in recipe.tasks:
        if task.held is None:
            continue
        file = _there(recipe, task.held)
        if task.kind == "pairs":
            held.append(held_pairs(task.name, read_pairs(file), tokenizer, limit))
        else:
            held.append(held_fill(Task(task.name, Lines(file), "fill", task.density, task.mean_span), tokenizer, limit, lengths))
    return held


def _config(numbers: dict[str, Any], tokenizer: Tokenizer) -> Config:
    born = {"vocab_size": tokenizer.vocab_size, "num_decoder_layers": numbers.get("num_layers", 1)}
    config: Config = part("model.config", Config, born | numbers)
    return config


def _batches(recipe: Recipe, model: SwitchTransformer) -> Batches:
    tasks, data = recipe.tasks, recipe.data
    weighted = [task.weight for task in tasks if task.weight is not None]
    if weighted and len(weighted) < len(tasks):
        raise ConfigError(f"{len(weighted)} of {len(tasks)} tasks have a weight, expected all or none")
    mixture = Mixture(
        [_task(recipe, task) for task in tasks],
        _tokenizer(model),
        recipe.seed,
        data.temperature,
        weighted or None,
        data.limit,
        data.max_inputs,
        data.max_targets,
    )
    return Batches(mixture, data.tokens, data.examples, data.bucket)


def _task(recipe: Recipe, task: TaskPart) -> Task:
    file = _there(recipe, task.file)
    return Task(task.name, Pairs(file) if task.kind == "pairs" else Lines(file), task.kind, task.density, task.mean_span)  # type: ignore[arg-type]


def _there(recipe: Recipe, name: str) -> Path:
    file = recipe.path(name)
    with readable(file):
        there = file.exists()
    if not there:
        raise ConfigError(f"there is no file {shown(file)} (recipes/README.md says how those of this project are made)")
    return file


def _tokenizer(model: SwitchTransformer) -> Tokenizer:
    if model.tokenizer is None:
        raise ConfigError("the model has no tokenizer, expected one to read texts")
    return model.tokenizer


def _words(model: SwitchTransformer) -> bytes:
    return model.tokenizer.model_bytes if model.tokenizer is not None else b""


def _inherit(params: Tree, teacher: Tree) -> None:
    """The teacher's weights that are no expert's and no router's, where both have one of the same shape."""
    theirs = {path.replace("/switch/norm_d", "/dense/norm_d"): leaf for path, leaf in teacher.leaves()}
    for path, leaf in params.leaves():
        found = theirs.get(path.replace("/switch/norm_d", "/dense/norm_d"))
        if found is not None and found.shape == leaf.shape:
            leaf[...] = found
