"""The command `switchnp vocabulary`; nothing heavy is imported before it runs."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

__all__ = ["vocabulary"]


def vocabulary(options: argparse.Namespace) -> str:
    """A SentencePiece vocabulary in T5's manner out of texts and tables; the same files make the same bytes."""
    from .vocabulary import train_vocabulary

    learnt = train_vocabulary(
        options.files,
        options.output,
        options.size,
        byte_fallback=options.byte_fallback,
        split_digits=options.split_digits,
        user_defined_symbols=options.symbol,
        force=options.force,
    )
    return json.dumps(asdict(learnt), indent=1) if options.json else str(learnt)
