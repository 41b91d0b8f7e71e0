"""A run's folder: checkpoints written whole or not at all, the last few kept, and one trainer at a time."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import hdf5
from ..errors import FileError, WeightsError
from ..files import as_path, check_room, locked, readable, shown, writable
from ..strictjson import json_object

__all__ = ["Checkpoint", "Folder"]

MODEL, MOMENTS, STATE, FOREVER = "model.h5", "moments.h5", "state.json", "forever"


_WITHOUT = "expected a whole checkpoint: without that folder, --resume goes on from the one before"


class Checkpoint(NamedTuple):
    """One step's folder: the model as any other weights file, the optimizer's moments, and where everything was."""

    path: Path
    step: int

    @property
    def model(self) -> Path:
        """A weights file that `switchnp generate` and all others take."""
        return self.path / MODEL

    def state(self) -> dict[str, Any]:
        """What was neither a weight nor a moment; raises WeightsError unless all files are as they were written."""
        with readable(self.path / STATE):
            text = (self.path / STATE).read_text(encoding="utf-8")
        try:
            state = json_object(text)
            digests = dict(state.pop("sha256"))
        except (ValueError, KeyError, TypeError):
            raise WeightsError(f"{shown(self.path / STATE)} is damaged; {_WITHOUT}") from None
        found = {name: _digest(self.path / name) for name in (MODEL, MOMENTS)} | {STATE: _digest_of(state)}
        for name, digest in found.items():
            if digests.get(name) != digest:
                raise WeightsError(f"{shown(self.path / name)} is not what this run wrote; {_WITHOUT}")
        return state

    def moments(self) -> dict[str, Any]:
        """The optimizer's arrays by path."""
        with hdf5.LIBRARY, readable(self.path / MOMENTS):
            import h5py

            with h5py.File(self.path / MOMENTS, "r") as file:
                return {path: file[path][()] for path in json.loads(file.attrs["paths"])}


class Folder:
    """The folder of one run, locked while it is open: a second trainer gets a FileError. Raises FileError."""

    def __init__(self, path: str | os.PathLike[str], keep: int) -> None:
        self.path, self._keep = as_path(path), keep
        with writable(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            try:
                if not locked(self._lock):
                    raise FileError(f"{shown(self.path)} is in use by another trainer")
            except BaseException:
                os.close(self._lock)
                raise
        for aside in self.path.glob(".step-*.old"):
            with suppress(OSError):  # its successor is in place
                aside.rename(self.path / aside.stem.removeprefix("."))
        for stale in self.path.glob(".step-*"):
            shutil.rmtree(stale, ignore_errors=True)

    def close(self) -> None:
        """Let others in."""
        os.close(self._lock)

    @property
    def best(self) -> Path:
        """The weights of the lowest held-out loss."""
        return self.path / "best.h5"

    @property
    def metrics(self) -> Path:
        """What was written down on the way, one line of JSON each."""
        return self.path / "metrics.jsonl"

    def saved(self) -> list[Checkpoint]:
        """Those that are there, the newest last."""
        found = [path for path in self.path.glob("step-*") if path.name[5:].isdigit() and (path / STATE).is_file()]
        return sorted((Checkpoint(path, int(path.name[5:])) for path in found), key=lambda checkpoint: checkpoint.step)

    def last_good(self, step: int) -> Checkpoint | None:
        """The newest checkpoint up to a step."""
        return next((checkpoint for checkpoint in reversed(self.saved()) if checkpoint.step <= step), None)

    def save(
        self,
        step: int,
        model: Callable[[Path], None],
        moments: dict[str, Any],
        state: dict[str, Any],
        forever: bool = False,
        good: int = 0,
    ) -> Checkpoint:
        """Write a checkpoint whole or not at all, then let go of the oldest.

        model       writes the weights file to the path that it is given
        forever     this one is never let go of
        good        nor is the newest one up to this step
        """
        target = self.path / f"step-{step:08d}"
        temporary = self.path / f".step-{step:08d}"
        with writable(target), self._whole(temporary, target):
            model(temporary / MODEL)
            _write_moments(temporary / MOMENTS, moments)
            digests = {name: _digest(temporary / name) for name in (MODEL, MOMENTS)} | {STATE: _digest_of(state)}
            _write(temporary / STATE, json.dumps(state | {"sha256": digests}).encode())
            if forever:
                _write(temporary / FOREVER, b"")
        spared = self.last_good(good)
        passing = [checkpoint for checkpoint in self.saved() if not (checkpoint.path / FOREVER).exists()]
        for old in passing[: -self._keep]:
            if old != spared:
                shutil.rmtree(old.path, ignore_errors=True)
        return Checkpoint(target, step)

    @contextmanager
    def _whole(self, temporary: Path, target: Path) -> Iterator[None]:
        old = temporary.with_suffix(".old")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            yield
            _sync(temporary)
            with suppress(FileNotFoundError):
                target.rename(old)
            temporary.rename(target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        shutil.rmtree(old, ignore_errors=True)
        _sync(self.path)

    def note(self, line: dict[str, Any]) -> None:
        """Add a line to the metrics."""
        with writable(self.metrics), open(self.metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def forget(self, step: int, best: bool) -> None:
        """Take back what was written down of steps behind this one, which are to be taken again.

        best    is there a lowest held-out loss up to this step? Its weights stay
        """
        if not best:
            with writable(self.best):
                self.best.unlink(missing_ok=True)
        if not self.metrics.exists():
            return
        with readable(self.metrics):
            lines = self.metrics.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if (number := _step(line)) is not None and number <= step]
        with writable(self.metrics):
            _write(self.path / ".metrics", "".join(f"{line}\n" for line in kept).encode())
            (self.path / ".metrics").replace(self.metrics)


def _step(line: str) -> int | None:
    """A line's step; None for one that was cut off."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return None


def _write_moments(path: Path, moments: dict[str, Any]) -> None:
    check_room(path, sum(array.nbytes for array in moments.values()) + 2048 * (len(moments) + 32))
    with hdf5.LIBRARY:
        import h5py

        with h5py.File(path, "w") as file:
            file.attrs["paths"] = json.dumps(sorted(moments))
            for name, array in moments.items():
                file.create_dataset(name, data=np.asarray(array))
    _sync(path)


def _write(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _digest(path: Path) -> str:
    with readable(path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems cannot sync a folder
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
