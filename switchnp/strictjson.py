"""JSON from strangers: an object in which no name comes twice, no number is out of reason and nothing is NaN."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

__all__ = ["json_object"]

MAX_DIGITS = 18


def json_object(raw: str | bytes) -> dict[str, Any]:
    """The object that `raw` is; raises ValueError with the reason where it is none."""
    try:
        found = json.loads(raw, object_pairs_hook=_unique, parse_int=_reasonable, parse_float=_finite, parse_constant=_refused)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if not isinstance(found, dict):
        raise ValueError(f"it is a {type(found).__name__}, expected a JSON object")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) < len(pairs):
        raise ValueError("a name comes twice")
    return names


def _reasonable(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


def _finite(digits: str) -> float:
    if not math.isfinite(float(digits)):
        raise ValueError(f"{digits} is too large")
    return float(digits)


def _refused(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number")
