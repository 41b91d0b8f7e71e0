"""A recipe: a TOML file that says what is trained, on what, how, and where it is kept."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ConfigError
from ..evaluation import ALL
from ..files import as_path, check_regular, readable, shown
from ..optimizers import OPTIMIZERS
from ..records import Record, frozen, require, shortened, whole
from ..schedules import Schedule

__all__ = [
    "DataPart",
    "EvaluationPart",
    "ModelPart",
    "Recipe",
    "TaskPart",
    "TeacherPart",
    "TrainingPart",
    "check_names",
    "part",
    "read_recipe",
]


@dataclass(frozen=True, kw_only=True)
class ModelPart(Record):
    """[model]: a weights file to go on from, or a tokenizer and the numbers of [model.config] for one that is born here.

    routing     a preset, and changes as ",field=value"; None: the file's own, or the paper's
    init_scale  the paper's s of first values (E8)
    """

    file: str | None = None
    tokenizer: str | None = None
    routing: str | None = None
    init_scale: float = 0.1

    def __post_init__(self) -> None:
        self.check_types()
        require(self.init_scale > 0, f"init_scale is {self.init_scale}, expected above 0")


@dataclass(frozen=True, kw_only=True)
class DataPart(Record):
    """[data]: how batches are filled (`data.Batches`) and tasks mixed (`data.Mixture`)."""

    tokens: int | None = None
    examples: int | None = None
    bucket: int = 16
    temperature: float = 1.0
    limit: int | None = None
    max_inputs: int = 512
    max_targets: int = 114

    def __post_init__(self) -> None:
        self.check_types()
        given = (self.tokens is None) + (self.examples is None)
        require(given == 1, f"tokens is {self.tokens} and examples {self.examples}, expected one of them")


@dataclass(frozen=True, kw_only=True)
class TaskPart(Record):
    """[[task]]: one thing to learn.

    kind    "pairs": a TSV of prompt and answer; "fill": a text whose gaps are to be filled
    weight  how often, in place of the temperature; all tasks have one or none
    held    a file of the same kind that is evaluated and never trained on
    """

    name: str
    file: str
    kind: str = "pairs"
    held: str | None = None
    weight: float | None = None
    density: float = 0.15
    mean_span: float = 3.0

    def __post_init__(self) -> None:
        self.check_types()
        require(self.name not in ("", ALL), f"name is {self.name!r}, expected one of its own, and {ALL!r} is that of all tasks")
        require(self.kind in ("pairs", "fill"), f"kind is {shortened(self.kind)}, expected 'pairs' or 'fill'")


@dataclass(frozen=True, kw_only=True)
class OptimizerPart(Record):
    """[optimizer]: "adamw" or "adafactor", and what is set of their arguments (`optimizers`)."""

    kind: str = "adamw"
    beta1: float | None = None
    beta2: float | None = None
    eps: float | None = None
    weight_decay: float | None = None
    rest: bool | None = None
    decay: float | None = None
    clip: float | None = None

    def __post_init__(self) -> None:
        self.check_types()
        require(self.kind in OPTIMIZERS, f"kind is {shortened(self.kind)}, expected one of {', '.join(OPTIMIZERS)}")

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that are set."""
        return {name: value for name, value in asdict(self).items() if name != "kind" and value is not None}


@dataclass(frozen=True, kw_only=True)
class TrainingPart(Record):
    """[training]: what is done to a loss and its gradient.

    clip            the norm that all gradients together may have; 0: any
    dropout, expert_dropout    at transformers' sites; inside experts another rate (the paper fine-tunes with 0.1 and 0.4)
    smoothing       the share of each target that is spread over all words
    accumulate      batches whose gradients are added up to one step
    worse           how many nats the mean loss of 50 steps may rise above its best before the run is ended; 0: any
    every, keep     steps between checkpoints, and how many of the last are kept; those of the steps in `keep_at` stay
    """

    clip: float = 1.0
    dropout: float = 0.0
    expert_dropout: float | None = None
    smoothing: float = 0.0
    accumulate: int = 1
    worse: float = 2.0
    every: int = 500
    keep: int = 3
    keep_at: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.check_types()
        for name in ("dropout", "expert_dropout", "smoothing"):
            value = getattr(self, name)
            require(value is None or 0 <= value < 1, f"{name} is {value}, expected 0 or more and below 1")
        for name in ("accumulate", "every", "keep"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}, expected 1 or more")
        for name in ("clip", "worse"):
            require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}, expected 0 or more")


@dataclass(frozen=True, kw_only=True)
class EvaluationPart(Record):
    """[evaluation]: of every task's held file, while training.

    every       steps between evaluations; None: only at the end
    limit       examples of each task
    patience    evaluations without a lower loss before the run stops; None: it never does
    """

    every: int | None = None
    limit: int = 200
    patience: int | None = None

    def __post_init__(self) -> None:
        self.check_types()
        for name in ("every", "limit", "patience"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{name} is {value}, expected 1 or more")
        require(self.patience is None or self.every is not None, "patience is given without every, expected both")


@dataclass(frozen=True, kw_only=True)
class TeacherPart(Record):
    """[teacher]: a model whose opinion is part of the target (Switch, §4.2).

    share       how much of the target is the teacher's, the paper's 0.25
    inherit     begin with the teacher's weights wherever student and teacher have one of the same name and shape
    """

    file: str
    share: float = 0.25
    inherit: bool = True

    def __post_init__(self) -> None:
        self.check_types()
        require(0 <= self.share <= 1, f"share is {self.share}, expected 0 to 1")


class Recipe(NamedTuple):
    """All parts of a recipe; `config` is the table [model.config], and paths are as from where the recipe lies."""

    seed: int
    run: Path
    steps: int
    model: ModelPart
    config: dict[str, Any]
    data: DataPart
    tasks: list[TaskPart]
    optimizer: OptimizerPart
    schedule: Schedule
    training: TrainingPart
    evaluation: EvaluationPart
    teacher: TeacherPart | None
    folder: Path

    def path(self, name: str) -> Path:
        """A file that the recipe names."""
        return self.folder / name

    def facts(self) -> dict[str, Any]:
        """What makes the same run the same, for JSON: all but where it lies, how long it goes on, and what is kept of it."""
        parts = self._asdict() | {"tasks": [asdict(task) for task in self.tasks]}
        parts |= {name: asdict(part) for name, part in parts.items() if isinstance(part, Record)}
        for name in ("worse", "every", "keep", "keep_at"):
            del parts["training"][name]
        return {name: part for name, part in parts.items() if name not in ("run", "folder", "steps", "evaluation")}


def read_recipe(path: str | os.PathLike[str]) -> Recipe:
    """The recipe in a TOML file.

    Raises FileError where it cannot be read, and ConfigError that says in which part what is wrong.
    """
    file = as_path(path)
    check_regular(file)
    with readable(file):
        text = file.read_bytes()
    try:
        table = tomllib.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{shown(file)} is not good TOML: {shortened(error)}") from None
    try:
        return _recipe(table, file)
    except ConfigError as error:
        raise ConfigError(f"{shown(file)}: {error}") from None


def _recipe(table: dict[str, Any], file: Path) -> Recipe:
    known = {"seed", "run", "steps", "model", "data", "task", "optimizer", "schedule", "training", "evaluation", "teacher"}
    check_names("the recipe", table, known)
    for name in ("run", "steps"):
        require(name in table, f"{name} is missing, expected it at the top of the recipe")
    seed, steps, tasks = table.get("seed", 0), table["steps"], table.get("task", [])
    for name, number, least in (("seed", seed, 0), ("steps", steps, 1)):
        good = whole(number) and least <= number
        require(good, f"{name} is {shortened(number)}, expected a whole number of {least} or more and below 10^15")
    require(isinstance(table["run"], str), f"run is {shortened(table['run'])}, expected a folder's name")
    require(isinstance(tasks, list) and bool(tasks), "there is no [[task]], expected one or more")
    model = dict(_table("model", table.get("model", {})))
    config = _table("model.config", model.pop("config", {}))
    schedule = _table("schedule", table.get("schedule", {}))
    ends = schedule.get("kind") in ("linear", "cosine")
    parts = (
        part("model", ModelPart, model),
        config,
        part("data", DataPart, table.get("data", {})),
        [part("task", TaskPart, task) for task in tasks],
        part("optimizer", OptimizerPart, table.get("optimizer", {})),
        part("schedule", Schedule, ({"steps": steps} if ends else {}) | schedule),
        part("training", TrainingPart, table.get("training", {})),
        part("evaluation", EvaluationPart, table.get("evaluation", {})),
        part("teacher", TeacherPart, table["teacher"]) if "teacher" in table else None,
    )
    return Recipe(seed, file.parent / table["run"], steps, *parts, file.parent)


def part(name: str, kind: Any, table: Any) -> Any:
    """A table as what it should be; raises ConfigError with the table's name and what is wrong in it."""
    check_names(f"[{name}]", _table(name, table), {field.name for field in fields(kind)})
    lacking = [field.name for field in fields(kind) if field.default is MISSING and field.name not in table]
    require(not lacking, f"[{name}] lacks {' and '.join(lacking)}")
    try:
        return kind(**{key: frozen(value) for key, value in table.items()})
    except ConfigError as error:
        raise ConfigError(f"in [{name}] {error}") from None


def _table(name: str, table: Any) -> dict[str, Any]:
    require(isinstance(table, dict), f"[{name}] is {shortened(table)}, expected names and values")
    return table


def check_names(where: str, table: Mapping[str, Any], known: set[str]) -> None:
    """Raise ConfigError for a name that is not known, with the one that was meant where that can be guessed."""
    for name in table:
        near = difflib.get_close_matches(name, known, 1)
        hint = f", did you mean {near[0]}?" if near else f", expected some of {', '.join(sorted(known))}"
        require(name in known, f"{where} has no {shortened(name)}{hint}")
