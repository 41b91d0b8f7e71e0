"""Which contenders can run, and what they run on: ours the weights file, the others folders that are made of it once."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .. import weights
from ..config import Config
from ..errors import InputError, SwitchError
from ..files import shown, writable
from ..narrowing import narrow
from ..setups import ARITHMETIC
from .contender import Contender, ContenderFailed
from .export import huggingface_settings, write_folder

__all__ = ["PEERS", "line_up"]

PEERS = {
    "transformers": (("transformers", "torch"), ("float32", "bfloat16")),
    "ctranslate2": (("ctranslate2", "transformers", "torch"), ("float32", "int8")),
}
"""The packages that a peer needs, and the dtypes in which it runs."""

DENSE = Path(__file__).with_name("dense.py")


def line_up(path: Path, against: Sequence[str], python: str, folder: Path) -> tuple[list[Contender], list[str]]:
    """Ours first, then the peers; and a sentence for each peer that cannot run.

    python   the interpreter that has the peers
    folder   where their models are kept
    """
    for name in against:
        if name not in PEERS:
            raise InputError(f"there is no contender {shown(name)!r}, expected some of {', '.join(PEERS)}")
    header, arrays = weights.read_header(path)
    identity = hashlib.sha256(json.dumps([header.config.to_json(), [a.sha256 for a in arrays]]).encode()).hexdigest()
    contenders, notes = ours(path, header, folder / identity[:16]), []
    for name in dict.fromkeys(against):
        try:
            _check_installed(name, python)
            made = _MAKERS[name](path, header.config, folder / identity[:16], python)
        except SwitchError as error:
            notes.append(f"{name} is left out: {error}")
            continue
        for dtype, place in made.items():
            shared = {"library": name, "vocabulary": header.config.vocab_size, "python": python}
            contenders.append(Contender(name=f"{name} {dtype}", path=place, dtype=dtype, **shared))  # type: ignore[arg-type]
    return contenders, notes


def ours(path: Path, header: weights.Header, folder: Path) -> list[Contender]:
    """Our fastest engine in all its dtypes that are no wider than the file's, each on a file of its own dtype."""
    contenders = []
    for dtype in ARITHMETIC[ARITHMETIC.index(header.dtype) :]:
        place = path if dtype == header.dtype else folder / f"switchnp-{dtype}.h5"
        if not place.exists():
            with writable(folder):
                folder.mkdir(parents=True, exist_ok=True)
            narrow(path, place, dtype, texts=None)
        shared = {"library": "switchnp", "path": place, "vocabulary": header.config.vocab_size, "engine": "fast"}
        contenders.append(Contender(name=f"switchnp {dtype}", dtype=dtype, **shared))  # type: ignore[arg-type]
    return contenders


def _check_installed(name: str, python: str) -> None:
    """Raise ContenderFailed where an interpreter lacks a package."""
    packages = PEERS[name][0]
    code = f"import importlib.util as u; print(*(p for p in {packages} if u.find_spec(p) is None))"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise ContenderFailed(f"{shown(python)} cannot be run: {error.strerror}") from None
    if done.returncode:
        raise ContenderFailed(f"{shown(python)} is no Python that can look for packages")
    if missing := done.stdout.split():
        raise ContenderFailed(f"{shown(python)} has no {' and no '.join(missing)} (pip install 'switchnp[bench]', or --python)")


def _exported(path: Path, config: Config, folder: Path, python: str) -> dict[str, Path]:
    """A Hugging Face folder in each dtype, made of our weights."""
    huggingface_settings(config)
    places = {dtype: folder / f"transformers-{dtype}" for dtype in PEERS["transformers"][1]}
    if missing := {dtype: place for dtype, place in places.items() if not place.exists()}:
        with writable(folder):
            folder.mkdir(parents=True, exist_ok=True)
        params, _ = weights.read(path)
        for dtype, place in missing.items():
            with tempfile.TemporaryDirectory(dir=folder) as temporary:
                write_folder(Path(temporary) / "made", config, params, dtype)
                (Path(temporary) / "made").rename(place)
    return places


def _densified(path: Path, config: Config, folder: Path, python: str) -> dict[str, Path]:
    """A dense T5 of the same shape in each dtype."""
    if config.is_gated_act or config.dense_act_fn != "relu":
        raise ContenderFailed("its dense T5 is made for models with relu only")
    names = ("d_model", "d_ff", "d_kv", "num_layers", "num_decoder_layers", "num_heads", "vocab_size")
    settings = json.dumps({name: getattr(config, name) for name in names})
    place = folder / "dense"
    if not place.exists():
        with writable(place):
            folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run([python, str(DENSE), settings, str(place)], capture_output=True, stdin=subprocess.DEVNULL)
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise ContenderFailed(f"its dense T5 cannot be made: {shown(said[-1]) if said else done.returncode}")
    return {dtype: place / dtype for dtype in PEERS["ctranslate2"][1]}


_MAKERS = {"transformers": _exported, "ctranslate2": _densified}
