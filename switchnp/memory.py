"""How much memory a pass needs, and how much there is: what cannot fit is refused before it starts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .config import Config
from .errors import InputError
from .network import Row

__all__ = ["check", "check_training", "free", "needed"]

_CGROUP = Path("/sys/fs/cgroup")


def check(config: Config, row: Row, words: int, voices: int, itemsize: int, engine: str) -> None:
    """Raise InputError with both figures where a pass over these prompts, or answers of so many words, cannot fit."""
    wanted, there = needed(config, row, words, voices, itemsize, engine), free()
    if there is not None and wanted > there:
        longest = max((span.stop - span.start for span in row.spans), default=0)
        what = f"{row.sentences} sentences of up to {longest} tokens"
        what += f" and {voices} answers of up to {words}" if voices else ""
        raise InputError(f"{what} need about {_gigabytes(wanted)} of memory, but {_gigabytes(there)} are free")


def check_training(parameters: int, wanted: int) -> None:
    """Raise InputError where so many bytes, the least that it takes to train so many parameters, cannot be had."""
    there = free()
    if there is not None and wanted > there:
        least = f"training {parameters:,} parameters needs {_gigabytes(wanted)} of memory at least"
        raise InputError(f"{least}, but {_gigabytes(there)} are free")


def needed(config: Config, row: Row, words: int, voices: int, itemsize: int, engine: str = "kernels") -> int:
    """About how many bytes the largest moment of a pass takes beyond the weights; within a factor of two.

    Attention over a sentence of T tokens holds its bias (H, T, T), which sentences of one length share, and its scores: one
    more with the kernels, three with the equations; the fast engine holds neither. Answers are counted with all the words that
    they may have.

    words       of an answer
    voices      answers at a time
    itemsize    bytes of a number
    """
    lengths = [span.stop - span.start for span in row.spans]
    longest, H, HK = max(lengths, default=0), config.num_heads, config.num_heads * config.d_kv
    squares = sum(T * T for T in set(lengths)) if engine != "fast" else 0
    biases = squares * (H * itemsize + 8)
    scores = (longest * longest if squares else 0) * max(H * itemsize * (3 if engine == "equations" else 1), 32)
    stream = sum(lengths) * itemsize * (8 * config.d_model + 4 * HK + 2 * config.d_ff)
    caches = voices * config.num_decoder_layers * 2 * (2 * words + longest) * HK * itemsize
    head = voices * config.vocab_size * itemsize * 6
    return int(max(biases + scores + stream, caches + head + stream))


def free() -> int | None:
    """Bytes that this process may still take: what the system has and its container allows; None where nobody says."""
    known = [amount for amount in (_system(), _container()) if amount is not None]
    return min(known, default=None)


def _system() -> int | None:
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def _container() -> int | None:
    limits: Any = [_lines(_CGROUP / name) for name in ("memory.max", "memory.current")]
    if all(lines and lines[0].strip().isdecimal() for lines in limits):
        most, used = (int(lines[0]) for lines in limits)
        return max(most - used + _files_kept(), 0)
    return None


def _files_kept() -> int:
    """Bytes of files that the container counts as used, and lets go of for whoever needs them."""
    named = (line.split() for line in _lines(_CGROUP / "memory.stat"))
    return sum(int(amount) for name, amount in named if name == "inactive_file")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return []


def _gigabytes(amount: int) -> str:
    return f"{amount / 1e9:.1f} GB"
