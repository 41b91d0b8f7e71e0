"""Files as people name them: paths checked, names shown safely, and files written whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import FileError, SwitchError

__all__ = ["as_path", "check_regular", "check_room", "check_target", "locked", "readable", "replacing", "shown", "writable"]

NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


def shown(name: Any) -> str:
    """A text from outside as a message may print it: on one line, without escapes, not too long."""
    text = os.fsdecode(name) if isinstance(name, (bytes, os.PathLike)) else str(name)
    text = text if text.isprintable() and text else ascii(text)
    return text if len(text) <= 200 else f"{text[:197]}..."


def as_path(path: Any) -> Path:
    """A path from outside; raises FileError where it is none."""
    try:
        return Path(os.fsdecode(path))
    except TypeError:
        raise FileError(f"a path is of type {type(path).__name__}, expected a text") from None


def check_regular(path: Path) -> None:
    """Raise FileError unless there is a regular file: a pipe or a device might never end."""
    with readable(path):
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise FileError(f"{shown(path)} is not a regular file")


@contextmanager
def readable(path: Any) -> Iterator[None]:
    """Turn what the system says of a path that cannot be read into a FileError."""
    try:
        yield
    except SwitchError:
        raise
    except (OSError, ValueError) as error:
        raise FileError(f"{shown(path)} cannot be read: {_reason(error)}") from None


@contextmanager
def writable(path: Any) -> Iterator[None]:
    """Turn what the system says of a path that cannot be written into a FileError."""
    try:
        yield
    except SwitchError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        raise FileError(f"{shown(path)} cannot be written: {_reason(error)}") from None


@contextmanager
def replacing(path: Path, needed: int, force: bool) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when all went well, and is gone when not.

    needed  bytes that must be free before any work begins
    force   replace an existing file (a link is replaced, not what it leads to)
    """
    with writable(path):
        check_target(path, force)
        _remove_stale(path)
        check_room(path, needed)
        temporary, descriptor = _temporary(path)
    try:
        yield temporary
        with writable(path):
            os.fsync(descriptor)
            _publish(temporary, descriptor, path, force)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    finally:
        os.close(descriptor)
    with suppress(OSError):  # the file is whole by now, and some file systems cannot sync a folder
        _sync(path.parent)


def check_target(path: Path, force: bool) -> None:
    """Raise FileError where a file may not be written, or only with `force`."""
    if not path.name or path.is_dir() or (path.exists() and not path.is_file()):
        raise FileError(f"{shown(path)} cannot be written: it is not a regular file")
    if not path.parent.is_dir():
        raise FileError(f"{shown(path)} cannot be written: there is no folder {shown(path.parent)}")
    if os.path.lexists(path) and not force:
        raise _exists(path)
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise FileError(f"{shown(path)} cannot be written: the folder {shown(path.parent)} is not writable")


def _exists(path: Path) -> FileError:
    return FileError(f"{shown(path)} exists already; --force (force=True) overwrites it")


def check_room(path: Path, needed: int) -> None:
    """Raise FileError with both figures where a file of so many bytes has no room in its folder."""
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise FileError(f"{shown(path)} needs {needed} bytes, but {free} are free in its folder")


def _temporary(path: Path) -> tuple[Path, int]:
    """A new file of ours alone; the lock on it says that it is still being written."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        try:
            ours = locked(descriptor)
        except OSError:  # a file system without locks, where nobody will take it for stale either
            ours = True
        if ours and _is_ours(temporary, descriptor):
            return temporary, descriptor
        os.close(descriptor)


def locked(descriptor: int) -> bool:
    """Whether the lock is ours now, or another's; raises OSError where there are no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_ours(temporary: Path, descriptor: int) -> bool:
    with suppress(OSError):
        return os.path.samestat(os.stat(temporary, follow_symlinks=False), os.fstat(descriptor))
    return False


def _publish(temporary: Path, descriptor: int, path: Path, force: bool) -> None:
    if not _is_ours(temporary, descriptor):
        raise FileError(f"{shown(path)} cannot be written: another program took its temporary file")
    if not force:
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise _exists(path) from None
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
        else:
            temporary.unlink()
            return
        if os.path.lexists(path):
            raise _exists(path)
    os.replace(temporary, path)


def _remove_stale(path: Path) -> None:
    """Remove what earlier writers of this very file left behind when they were killed."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}\.tmp")
    for name in filter(pattern.fullmatch, os.listdir(path.parent)):
        with suppress(OSError):
            stale = path.with_name(name)
            descriptor = os.open(stale, os.O_RDWR | os.O_NOFOLLOW)
            try:
                if locked(descriptor):
                    stale.unlink()
            finally:
                os.close(descriptor)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    return shown(os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error))
