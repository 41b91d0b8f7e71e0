"""A model from its file."""

from __future__ import annotations

import os
from dataclasses import replace

from . import weights
from .errors import InputError
from .files import readable
from .model import SwitchTransformer
from .routing import Routing
from .setups import check_choices, compiling
from .tokenizer import Tokenizer

__all__ = ["load"]

LARGE = 1 << 28


def load(
    path: str | os.PathLike[str],
    routing: Routing | None = None,
    engine: str | None = None,
    dtype: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    verify: bool | None = None,
) -> SwitchTransformer:
    """The model in a switchnp HDF5 file.

    routing     instead of the one that the file names
    engine      "fast", "kernels" or "equations"; None: "fast", but for float64 and for a simulated precision
    dtype       for the fast engine "float32", "bfloat16" or "int8": what it multiplies in; None: int8 where the file has int8,
                else float32. For the readable ones "float32", or "float64" for checking; what is stored in fewer bits is widened
    precision   instead of the routing's: "bfloat16" and "selective" simulate it (Switch, §2.4), with engine="equations"
    threads     of the fast engine; None: as many as this process may use
    verify      see that every weight is what was written (sha256) and finite before any is used; False only for the fast engine,
                which maps the file, so that loading takes no time and processes share it. None: but for files of more than 256 MB

    Raises FileError where the path cannot be read and WeightsError where the file is not a sound model.
    """
    check_choices(routing, engine or "fast")
    if verify not in (None, True, False):
        raise InputError(f"verify is {verify!a:.80}, expected True, False or None")
    header, _ = weights.read_header(path)
    if engine is None:
        engine = _engine(_routing(routing, header, precision), dtype)
    if engine == "fast":
        if dtype == "float64":
            raise InputError("dtype is 'float64', expected engine='kernels' or engine='equations' for that")
        with readable(path):
            small = os.path.getsize(path) <= LARGE
        params, header = weights.mapped(path, small if verify is None else verify)
    elif verify is False:
        raise InputError(f"verify is False with engine={engine!r}, expected that only with engine='fast'")
    else:
        params, header = weights.read(path, dtype or "float32")
    tokenizer = Tokenizer(header.tokenizer) if header.tokenizer is not None else None
    arithmetic = dtype if engine == "fast" else None
    more = header.provenance, header.generation, arithmetic, threads
    return SwitchTransformer(header.config, params, _routing(routing, header, precision), tokenizer, engine, *more)


def _routing(routing: Routing | None, header: weights.Header, precision: str | None) -> Routing:
    found = routing or header.routing
    return found if precision is None else replace(found, precision=precision)


def _engine(routing: Routing, dtype: str | None) -> str:
    readable = dtype == "float64" or routing.precision != "float32" or not compiling()
    return "fast" if not readable else "kernels" if routing.precision == "float32" else "equations"
