"""The fast engine compiled ahead of the first answer, into Numba's cache on disk."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Warmed", "warm", "warmup"]


def warmup(options: argparse.Namespace) -> str:
    """Compile all that the fast engine needs, now instead of at the first answer, into Numba's cache on disk."""
    warmed = warm()
    return json.dumps(asdict(warmed), indent=1) if options.json else str(warmed)


@dataclass(frozen=True)
class Warmed:
    """Where compiled code lies, how many functions, and how long it took; no folder where nothing can be kept."""

    folder: str | None
    functions: int
    seconds: float

    def __str__(self) -> str:
        where = self.folder or "nowhere: no folder can be written, expected one that can as NUMBA_CACHE_DIR"
        return f"compiled in {self.seconds:.1f} s; {self.functions} functions are kept in {where}"


def warm() -> Warmed:
    """Run small models of every kind through all that the engine does."""
    import numpy as np

    from .engine.pool import POOL
    from .model import SwitchTransformer
    from .params import blueprint
    from .setups import ARITHMETIC
    from .tree import Tree

    start = time.perf_counter()
    for gated in (False, True):
        config = _config(gated)
        arrays = {path: np.zeros(shape, np.float32) for path, shape in blueprint(config).items()}
        for dtype in ARITHMETIC:
            _used(SwitchTransformer(config, Tree.of(arrays), dtype=dtype))
    POOL.run(2, lambda *_: None)
    return Warmed(*_kept(), time.perf_counter() - start)


def _used(model: Any) -> None:
    ids = [[5] * 5] * 2
    for beams in (1, 2):
        model.generate(ids, max_new_tokens=3, num_beams=beams)
    model.score(ids, ids)
    model(ids, decoder_input_ids=ids, labels=ids)


def _config(gated: bool) -> Any:
    from .config import Config

    activation: dict[str, Any] = {"is_gated_act": True, "dense_act_fn": "gelu_new", "tie_word_embeddings": False} if gated else {}
    shape: dict[str, Any] = {"d_model": 8, "d_ff": 8, "d_kv": 4, "num_heads": 2, "num_experts": 2, "vocab_size": 32}
    layers: dict[str, Any] = {"num_layers": 2, "num_decoder_layers": 2}
    return Config(**shape, **layers, **activation, sparse_encoder_layers=(1,), sparse_decoder_layers=(1,))


def _kept() -> tuple[str | None, int]:
    from .engine.step import spoken

    cache = Path(spoken._cache.cache_path) if spoken._cache.cache_path else None
    if cache is None or not any(cache.glob("*.nbi")):
        return None, 0
    folder = cache.parents[1] if cache.name == "__pycache__" else cache.parent  # which every room's cache is in
    return str(folder), sum(1 for _ in folder.rglob("*.nbi"))
