"""Frozen dataclasses whose fields have the types that they name, to JSON and back."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from .errors import ConfigError
from .strictjson import json_object

__all__ = ["LARGEST", "Record", "Texts", "Words", "frozen", "require", "shortened", "whole"]

LARGEST = 10**15
Texts = tuple[str, ...]
Words = tuple[str | tuple[int, ...], ...]
"""Texts, or ids where there is no tokenizer."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a frozen dataclass of plain values can do. Its `__post_init__` calls `check_types`."""

    def check_types(self) -> None:
        """Raise ConfigError where a field holds something else than its annotation says."""
        for field in fields(self):
            value, kinds = getattr(self, field.name), str(field.type).split(" | ")
            fits = any(_TYPE_CHECKS[kind](value) for kind in kinds)
            wanted = " or ".join(_TYPE_NAMES[kind] for kind in kinds)
            require(fits, f"{field.name} is {shortened(value)}, expected {wanted}")

    def to_json(self) -> str:
        """One line of JSON; `from_json` reads it back."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The record that `to_json` wrote; raises ConfigError for anything else."""
        try:
            settings = cls.renewed(json_object(text))
        except (ValueError, TypeError) as error:
            raise ConfigError(f"a {cls.__name__} is not good JSON: {shortened(error)}") from None
        unknown = sorted(set(settings) - {field.name for field in fields(cls)})
        require(not unknown, f"a {cls.__name__} has the unknown field {shortened(unknown)}")
        settings = {name: frozen(value) for name, value in settings.items()}
        try:
            return cls(**settings)
        except TypeError as error:
            raise ConfigError(f"a {cls.__name__} lacks a field: {error}") from None

    @classmethod
    def renewed(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """Settings as today's fields say them; a record whose fields have changed translates older ones here."""
        return settings


def frozen(value: Any) -> Any:
    """Lists as tuples, all the way down; NumPy's numbers and arrays as Python's."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return tuple(map(frozen, value)) if isinstance(value, (list, tuple)) else value


def whole(value: Any) -> bool:
    """Is it a whole number, and no larger than anything here needs?"""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST


def shortened(value: Any) -> str:
    """A stranger's value as a message may show it."""
    try:
        text = ascii(value) if not isinstance(value, Exception) else ascii(str(value))
    except RecursionError:
        text = "something nested too deep"
    return text if len(text) <= 80 else text[:77] + "..."


def require(condition: bool, message: str) -> None:
    """Raise ConfigError with this sentence unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def _is_float(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST


def _is_word(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, tuple) and all(map(whole, value)))


_TYPE_CHECKS: dict[str, Any] = {
    "int": whole,
    "float": _is_float,
    "bool": lambda value: isinstance(value, bool),
    "str": lambda value: isinstance(value, str),
    "None": lambda value: value is None,
    "tuple[int, ...]": lambda value: isinstance(value, tuple) and all(map(whole, value)),
    "Texts": lambda value: isinstance(value, tuple) and all(isinstance(text, str) for text in value),
    "Words": lambda value: isinstance(value, tuple) and all(map(_is_word, value)),
}
_TYPE_NAMES = {
    "int": "a whole number below 10^15",
    "float": "a finite number below 10^15",
    "bool": "true or false",
    "str": "a text",
    "None": "nothing",
    "tuple[int, ...]": "a list of whole numbers",
    "Texts": "a list of texts",
    "Words": "a list of texts or of lists of ids",
}
