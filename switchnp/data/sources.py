"""Texts on disk, line by line or pair by pair, without reading them whole: where each line begins is found out once."""

from __future__ import annotations

import hashlib
import operator
import os
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Generic, SupportsIndex, TypeVar, overload

import numpy as np

from ..errors import FileError
from ..files import as_path, check_regular, readable, shown
from ..tokenizer import MAX_CHARACTERS

__all__ = ["Blocks", "Lines", "Pairs"]

CHUNK = 1 << 20
_NEWLINE, _TAB = b"\n\t"
Item = TypeVar("Item")


class _Source(Sequence[Item], Generic[Item]):
    """A sequence of which the items are asked for one at a time."""

    def _item(self, position: int) -> Item:
        raise NotImplementedError

    @overload
    def __getitem__(self, position: SupportsIndex) -> Item: ...
    @overload
    def __getitem__(self, position: slice) -> Sequence[Item]: ...
    def __getitem__(self, position: Any) -> Any:
        if isinstance(position, slice):
            return [self._item(n) for n in range(*position.indices(len(self)))]
        n = operator.index(position)
        if not -len(self) <= n < len(self):
            raise IndexError(f"there is no item {n}, expected one of {len(self)}")
        return self._item(n % len(self))


class Lines(_Source[str]):
    """The lines of a text file, without their ends; only where they begin is kept, 8 bytes a line.

    The file is read once, to the end, when this is made: raises FileError where it cannot be read, is empty, is not UTF-8
    or has a line of more than 4,000,000 bytes, and says which; and later, where it is no longer the file that it was.

    columns    how many columns, with tabs in between, each line must have; None for any
    offset_n   where each line begins in the file, and where the last one ends
    digest     sha256 of the whole file
    """

    def __init__(self, path: str | os.PathLike[str], columns: int | None = None) -> None:
        self.path = as_path(path)
        check_regular(self.path)
        with readable(self.path), open(self.path, "rb") as file:
            self._stamp = _stamp(file)
            self.offset_n, self.digest = self._index(file, columns)
        if len(self) == 0:
            raise FileError(f"{shown(self.path)} is empty, expected lines of text")

    def __len__(self) -> int:
        return len(self.offset_n) - 1

    def __iter__(self) -> Iterator[str]:
        with readable(self.path), self._opened() as file:
            for piece in _pieces(file):
                for line in piece.removesuffix(b"\n").split(b"\n"):
                    yield line.decode().removesuffix("\r")

    def text(self, first: int, last: int) -> str:
        """The lines from `first` to before `last`, as they stand, with \\n in between."""
        start, end = self.offset_n[[first, last]].tolist()
        with readable(self.path), self._opened() as file:
            file.seek(start)
            return file.read(end - start).removesuffix(b"\n").replace(b"\r\n", b"\n").removesuffix(b"\r").decode()

    def _item(self, position: int) -> str:
        return self.text(position, position + 1)

    def _opened(self) -> BinaryIO:
        file = open(self.path, "rb")  # noqa: SIM115  whoever asks closes it
        if _stamp(file) != self._stamp:
            file.close()
            raise FileError(f"{shown(self.path)} has changed since its lines were counted, expected the same file")
        return file

    def _index(self, file: BinaryIO, columns: int | None) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], str]:
        offsets, digest = array("q", [0]), hashlib.sha256()
        for piece in _pieces(file):
            byte_n = np.frombuffer(piece, np.uint8)
            end_n = np.flatnonzero(byte_n == _NEWLINE) + 1
            if not piece.endswith(b"\n"):
                end_n = np.append(end_n, len(piece))
            self._check(piece, byte_n, end_n, columns, len(offsets))
            offsets.frombytes((end_n + offsets[-1]).tobytes())
            digest.update(piece)
        return np.frombuffer(offsets, np.int64), digest.hexdigest()

    def _check(self, piece: bytes, byte_n: Any, end_n: Any, columns: int | None, line: int) -> None:
        """Raise FileError unless the lines of a piece, the first of which has this number, are what they should be."""
        long_n = np.flatnonzero(np.diff(end_n, prepend=0) > MAX_CHARACTERS)
        if len(long_n):
            raise FileError(
                f"{shown(self.path)} has more than {MAX_CHARACTERS} bytes in line {line + long_n[0]}, expected shorter lines"
            )
        try:
            piece.decode()
        except UnicodeDecodeError as error:
            number = line + piece.count(b"\n", 0, error.start)
            raise FileError(f"{shown(self.path)} has bytes in line {number} that are not UTF-8, expected text") from None
        if columns is None:
            return
        column_n = 1 + np.bincount(np.searchsorted(end_n, np.flatnonzero(byte_n == _TAB), "right"), minlength=len(end_n))
        wrong_n = np.flatnonzero(column_n != columns)
        if len(wrong_n):
            found = f"line {line + wrong_n[0]} with {column_n[wrong_n[0]]}"
            raise FileError(f"{shown(self.path)} has {found} columns, expected {columns} with a tab between them")


class Pairs(_Source[tuple[str, str]]):
    """The prompts and answers of a file whose lines are `prompt<TAB>answer`.

    Raises FileError as `Lines` does, and where a line has another number of columns.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._lines = Lines(path, columns=2)
        self.digest = self._lines.digest

    def __len__(self) -> int:
        return len(self._lines)

    def _item(self, position: int) -> tuple[str, str]:
        prompt, answer = self._lines[position].split("\t")
        return prompt, answer


class Blocks(_Source[str]):
    """Consecutive lines put together to texts of at most `size` bytes; a line that is longer is a text by itself."""

    def __init__(self, lines: Lines, size: int) -> None:
        self._lines = lines
        firsts = array("q", [0])
        while firsts[-1] < len(lines):
            end = int(np.searchsorted(lines.offset_n, lines.offset_n[firsts[-1]] + size, "right")) - 1
            firsts.append(max(end, firsts[-1] + 1))
        self._first_n = np.frombuffer(firsts, np.int64)

    def __len__(self) -> int:
        return len(self._first_n) - 1

    def _item(self, position: int) -> str:
        return self._lines.text(*self._first_n[[position, position + 1]].tolist())


def _stamp(file: BinaryIO) -> tuple[int, ...]:
    """What tells a file from another, and from itself once it is written to."""
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    """A file in pieces of whole lines; a line that is far too long comes in parts."""
    rest = b""
    while chunk := file.read(CHUNK):
        lines, newline, rest = (rest + chunk).rpartition(b"\n")
        if newline or len(rest) > MAX_CHARACTERS:
            yield lines + newline or rest
            rest = rest if newline else b""
    if rest:
        yield rest
