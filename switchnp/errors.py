"""Every error raised on purpose.

    SwitchError
    ├── ConfigError      a number of the model or a choice of its routing is impossible     ValueError
    ├── InputError       ids, masks, labels or prompts are not what the model takes         ValueError
    ├── ShapeError       an array has another shape than the Config makes it                ValueError
    ├── TokenizerError   a text cannot be encoded, or there is no tokenizer                 ValueError
    ├── WeightsError     a weights file or checkpoint is damaged, incomplete or hostile     ValueError
    ├── TrainingError    a run cannot go on: its loss is no number, or has left all sense   ValueError
    ├── MissingExtra     an optional library is not installed                               ImportError
    └── FileError        a path cannot be read or written                                   OSError

Each is one sentence: what is wrong, where, what was expected.
"""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "FileError",
    "InputError",
    "MissingExtra",
    "ShapeError",
    "SwitchError",
    "SwitchWarning",
    "TokenizerError",
    "TrainingError",
    "WeightsError",
]


class SwitchError(Exception):
    """Anything this library refuses on purpose."""


class ConfigError(SwitchError, ValueError):
    """A number of the model or a choice of its routing is impossible."""


class InputError(SwitchError, ValueError):
    """Ids, masks, labels or prompts are not what the model takes."""


class ShapeError(SwitchError, ValueError):
    """An array has another shape than the Config makes it."""


class TokenizerError(SwitchError, ValueError):
    """A text cannot be encoded, or there is no tokenizer to do it."""


class WeightsError(SwitchError, ValueError):
    """A weights file or checkpoint is damaged, incomplete or hostile."""


class TrainingError(SwitchError, ValueError):
    """A run cannot go on: its loss or a gradient is no number, or has left all sense."""


class MissingExtra(SwitchError, ImportError):
    """An optional library is not installed."""


class FileError(SwitchError, OSError):
    """A path cannot be read or written."""


class SwitchWarning(UserWarning):
    """Something was put right on the way, and the user should know."""
