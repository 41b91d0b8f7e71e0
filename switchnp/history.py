"""What a training run wrote down, step by step: `metrics.jsonl`, or the list of the same objects that `train` returns."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from numbers import Real
from typing import Any, NamedTuple

from .errors import InputError
from .files import as_path, check_regular, readable, shown
from .strictjson import json_object

__all__ = ["Metrics", "Series", "metrics_of", "read_metrics"]


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(map(_is_number, value))


_NUMBER, _LIST = ("finite number", _is_number), ("list of finite numbers", _is_list)
_CURVES = dict.fromkeys(("loss", "task_loss", "rate", "gradient_norm", "tokens", "tokens_per_second"), _NUMBER)
_LAYER = {"balance": _NUMBER, "dropped": _NUMBER, "entropy": _NUMBER, "load": _LIST}
_TASK = dict.fromkeys(("exact_match", "token_accuracy", "loss"), _NUMBER)
_ANY = "*"
_LINE = _CURVES | {"layers": {_ANY: _LAYER}, "evaluation": {_ANY: _TASK}, "specialisation": {_ANY: _NUMBER}}


class Series(NamedTuple):
    """Values, and the step of each."""

    steps: list[int]
    values: list[Any]


class Metrics(NamedTuple):
    """A run's numbers over its steps.

    loss, task_loss     what is made small, and the part of it that is cross-entropy, in nats per word
    balance             of each layer: the load-balancing loss before its coefficient, 1 where experts are used alike
    dropped             of each layer: the share of tokens whose expert had no room
    entropy             of each layer: of the router's probabilities, in nats; ln(E) where it does not prefer any expert
    load                of each layer: the share of tokens of every expert
    specialisation      of each layer: the mutual information of expert and task, in nats
    exact_match, token_accuracy, evaluation_loss    of each task
    """

    loss: Series
    task_loss: Series
    rate: Series
    gradient_norm: Series
    tokens: Series
    tokens_per_second: Series
    balance: dict[str, Series]
    dropped: dict[str, Series]
    entropy: dict[str, Series]
    load: dict[str, Series]
    specialisation: dict[str, Series]
    exact_match: dict[str, Series]
    token_accuracy: dict[str, Series]
    evaluation_loss: dict[str, Series]

    @property
    def last_step(self) -> int:
        """The last step of which anything is known."""
        series = [it for field in self for it in (field.values() if isinstance(field, dict) else [field])]
        return max((step for it in series for step in it.steps), default=0)


def read_metrics(folder: str | os.PathLike[str]) -> Metrics:
    """The Metrics of a run's folder; a last line that a kill cut off is passed over.

    Raises FileError where there is no metrics.jsonl, InputError with the number of a line that is damaged.
    """
    file = as_path(folder) / "metrics.jsonl"
    check_regular(file)
    with readable(file):
        *whole, last = file.read_bytes().split(b"\n")
    lines = [(f"{shown(file)}, line {n},", line) for n, line in enumerate(whole, 1) if line.strip()]
    parsed: list[tuple[str, Mapping[str, Any]]] = [(where, _object(where, line)) for where, line in lines]
    with suppress(InputError):
        parsed.append((f"{shown(file)}, line {len(whole) + 1},", _object("the last line", last)))
    if not parsed:
        raise InputError(f"{shown(file)} has no lines, expected the metrics of at least one step")
    return _gathered(parsed)


def metrics_of(lines: Iterable[Mapping[str, Any]]) -> Metrics:
    """The Metrics that a run returned, line by line; of a step that comes twice, as after a resumption, the last word holds.

    Raises InputError where there are no lines, or with the number of one that is damaged.
    """
    numbered = [(f"item {n} of the history", line) for n, line in enumerate(lines, 1)]
    if not numbered:
        raise InputError("the history is empty, expected the metrics of at least one step")
    return _gathered(numbered)


def _object(where: str, line: bytes) -> dict[str, Any]:
    try:
        return json_object(line)
    except ValueError as error:
        raise InputError(f"{where} is damaged: {shown(error)}") from None


def _gathered(lines: list[tuple[str, Mapping[str, Any]]]) -> Metrics:
    trained: dict[int, Mapping[str, Any]] = {}
    evaluated: dict[int, Mapping[str, Any]] = {}
    for where, line in lines:
        _check(where, line)
        for lines_of_kind, name in ((trained, "loss"), (evaluated, "evaluation")):
            if line.get(name) is not None:
                lines_of_kind[line["step"]] = line
    curves: Any = {name: _series(trained, name) for name in _CURVES}
    layers: Any = {name: _by_name(trained, "layers", name) for name in _LAYER}
    _check_experts(layers["load"])
    tasks: Any = {name: _by_name(evaluated, "evaluation", name) for name in ("exact_match", "token_accuracy")}
    specialisation = {layer: _series(_below(evaluated, "specialisation"), layer) for layer in _names(evaluated, "specialisation")}
    losses = _by_name(evaluated, "evaluation", "loss")
    return Metrics(**curves, **layers, **tasks, specialisation=specialisation, evaluation_loss=losses)


def _by_name(lines: Mapping[int, Mapping[str, Any]], group: str, number: str) -> dict[str, Series]:
    """One number of every layer or task that a group names; who never has any is left out."""
    found = {name: _series(_below(_below(lines, group), name), number) for name in _names(lines, group)}
    return {name: series for name, series in found.items() if series.steps}


def _names(lines: Mapping[int, Mapping[str, Any]], group: str) -> list[str]:
    return list(dict.fromkeys(name for line in lines.values() for name in line.get(group) or {}))


def _below(lines: Mapping[int, Mapping[str, Any]], name: str) -> dict[int, Mapping[str, Any]]:
    return {step: line.get(name) or {} for step, line in lines.items()}


def _series(lines: Mapping[int, Mapping[str, Any]], name: str) -> Series:
    found = [(step, lines[step][name]) for step in sorted(lines) if lines[step].get(name) is not None]
    return Series([step for step, _ in found], [value for _, value in found])


def _check(where: str, line: Any) -> None:
    """Raise InputError unless this is a line that a trainer writes."""
    for path, expected in _misfits(line, _LINE):
        raise InputError(f"{where} has no {expected} as {shown(path)}, expected one")
    step = line.get("step")
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        raise InputError(f"{where} has the step {shown(step)}, expected a whole number of 0 or more")
    if line.get("loss") is None and line.get("evaluation") is None:
        raise InputError(f"{where} has neither a loss nor an evaluation, expected one of them")


def _misfits(value: Any, form: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Where a value has another form, and what was expected; null has every form, and names that no form has are passed over."""
    if isinstance(form, dict):
        if not isinstance(value, Mapping):
            yield path or "a whole", "object"
            return
        for name in value:
            inner = form.get(name, form.get(_ANY))
            if inner is not None and value[name] is not None:
                yield from _misfits(value[name], inner, f"{path}.{name}".lstrip("."))
    elif not form[1](value):
        yield path, form[0]


def _check_experts(load: dict[str, Series]) -> None:
    """Raise InputError where a layer changes its number of experts on the way."""
    for layer, series in load.items():
        counts = set(map(len, series.values))
        if len(counts) > 1:
            raise InputError(f"the load of {shown(layer)} is of {sorted(counts)} experts, expected one number of them")
