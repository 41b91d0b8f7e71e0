"""The command `switchnp bench`; nothing heavy is imported before it runs."""

from __future__ import annotations

import argparse
from contextlib import nullcontext

from ..errors import InputError
from ..files import as_path, replacing, writable

__all__ = ["bench"]

LARGEST_REPORT = 1 << 22


def bench(options: argparse.Namespace) -> str:
    """How fast a model is, beside other engines that take turns with it; without --against, ours alone."""
    from .measurement import measured

    target = as_path(options.json) if isinstance(options.json, str) else None
    with nullcontext() if target is None else replacing(target, LARGEST_REPORT, options.force) as temporary:
        report = measured(
            options.file,
            against=_listed(options.against),
            threads=_counts(options.threads),
            rounds=options.rounds,
            metrics=_listed(options.metrics),
            python=options.python,
            cache=options.cache,
        )
        if temporary is not None:
            with writable(target):
                temporary.write_text(report.json() + "\n", encoding="utf-8")
    return report.json() if options.json is True else "\n".join(report.lines())


def _listed(words: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in words.split(",")) if words is not None else ()


def _counts(words: str | None) -> tuple[int, ...]:
    counts = _listed(words)
    for count in counts:
        if not (count.isascii() and count.isdecimal() and 1 <= int(count[:6]) <= 1024 and len(count) < 6):
            raise InputError(f"--threads is {words!a:.80}, expected numbers from 1 to 1024 with commas between them")
    return tuple(dict.fromkeys(map(int, counts)))
