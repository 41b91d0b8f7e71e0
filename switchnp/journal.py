"""A long job's answers as they come, so that a job that was killed can go on: one line of JSON each, synced to the disk."""

from __future__ import annotations

import json
import os
import stat
from types import TracebackType
from typing import Any, Self

from .errors import FileError
from .files import as_path, locked, readable, shown, writable

__all__ = ["Journal", "Memory"]


class Memory:
    """A journal that nobody will read again."""

    def __init__(self) -> None:
        self.entries: list[Any] = []

    def append(self, entry: Any) -> None:
        """Add what was done next."""
        self.entries.append(entry)

    def remove(self) -> None:
        """The job is done."""


class Journal:
    """What was done of one job; `entries` has what earlier runs did. One run at a time: another gets a FileError.

    A line that was cut off when its writer was killed is dropped. Raises FileError where the file is of another job.

    job     says which job it is, the same text for the same job
    """

    def __init__(self, path: str | os.PathLike[str], job: str) -> None:
        self._path = as_path(path)
        with writable(self._path):
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        try:
            self.entries: list[Any] = self._begun(job)
            if os.fstat(self._descriptor).st_size == 0:
                self.append(json.loads(_header(job)))
                self.entries.clear()
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._descriptor)

    def append(self, entry: Any) -> None:
        """Add what was done next; once this returns it is on the disk."""
        line = json.dumps(entry).encode() + b"\n"
        with writable(self._path):
            while line:
                line = line[os.write(self._descriptor, line) :]
            os.fsync(self._descriptor)
        self.entries.append(entry)

    def remove(self) -> None:
        """The job is done."""
        with writable(self._path):
            os.unlink(self._path)

    def _begun(self, job: str) -> list[Any]:
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            raise FileError(f"{shown(self._path)} is not a regular file")
        with writable(self._path):
            mine = locked(self._descriptor) and os.path.samestat(os.stat(self._path), os.fstat(self._descriptor))
        if not mine:
            raise FileError(f"{shown(self._path)} is in use by another run")
        with readable(self._path), os.fdopen(os.dup(self._descriptor), "rb") as file:
            raw = file.read()
        whole = raw[: raw.rfind(b"\n") + 1]
        lines = self._parsed(whole)
        cut = not whole and _header(job).startswith(raw)
        if raw and not cut and (not lines or lines[0] != {"switchnp job": job}):
            raise FileError(f"{shown(self._path)} is of another job: other prompts, settings or weights")
        with writable(self._path):
            os.ftruncate(self._descriptor, len(whole))
            os.lseek(self._descriptor, len(whole), os.SEEK_SET)
        return lines[1:]

    def _parsed(self, whole: bytes) -> list[Any]:
        try:
            return [json.loads(line) for line in whole.splitlines()]
        except (ValueError, RecursionError):
            raise FileError(f"{shown(self._path)} is not the journal of a job") from None


def _header(job: str) -> bytes:
    return json.dumps({"switchnp job": job}).encode()
