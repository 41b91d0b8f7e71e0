"""The command `switchnp evaluate`; nothing heavy is imported before it runs."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .files import shown

if TYPE_CHECKING:
    from .evaluation import Pair, Score

__all__ = ["evaluate"]


def evaluate(options: argparse.Namespace) -> str:
    """How good a model's answers are: exact match, token accuracy and loss, for each task of a file of prompts and answers."""
    import numpy as np
    from tqdm import tqdm

    from .evaluation import evaluate as measured
    from .evaluation import read_pairs
    from .loading import load

    pairs = _limited(read_pairs(options.pairs), options.limit)
    model = load(options.file, options.routing, options.engine, options.dtype, threads=options.threads)
    with tqdm(total=len(pairs), unit="pair", file=sys.stderr, disable=None if len(pairs) > 1 else True) as bar:
        scores = measured(model, pairs, options.batch_size, np.random.default_rng(options.seed), bar.update)
    if options.json:
        return json.dumps({task: score._asdict() for task, score in scores.items()}, indent=1)
    return "\n".join(_lines(scores))


def _limited(pairs: list[Pair], limit: int | None) -> list[Pair]:
    """The first so many pairs of each task."""
    seen: Counter[str] = Counter()
    kept = []
    for pair in pairs:
        seen[pair.task] += 1
        if limit is None or seen[pair.task] <= limit:
            kept.append(pair)
    return kept


def _lines(scores: Mapping[str, Score]) -> list[str]:
    width = max(len(shown(task)) for task in scores)
    lines = [f"{'task':<{width}}  {'items':>8}  {'exact match':>11}  {'token accuracy':>14}  {'loss':>8}"]
    for task, (items, exact, accuracy, loss) in scores.items():
        lines.append(f"{shown(task):<{width}}  {items:>8,}  {exact:>11.2%}  {accuracy:>14.2%}  {loss:>8.4f}")
    return lines
