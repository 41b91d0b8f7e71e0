"""Who is measured, and the process in which each of them waits for its turn."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SwitchError
from ..files import shown

__all__ = ["Contender", "ContenderFailed", "Running"]

WORKER = Path(__file__).with_name("worker.py")
PATIENCE = 600.0
QUIET = 0.05


class ContenderFailed(SwitchError):
    """A contender cannot go on."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One engine with one model in one dtype.

    library   "switchnp", "transformers" or "ctranslate2", each of which has a class in worker.py
    python    the interpreter that has it
    command   what that is given, with the spec behind it
    """

    name: str
    library: str
    path: Path
    dtype: str
    vocabulary: int
    engine: str = ""
    python: str = sys.executable
    command: tuple[str, ...] = (str(WORKER),)

    def spec(self, threads: int) -> str:
        """What its process is told."""
        fields = {"library": self.library, "path": str(self.path), "dtype": self.dtype, "engine": self.engine}
        return json.dumps(fields | {"vocabulary": self.vocabulary, "threads": threads})


class Running:
    """A contender's process: asked, it answers; else it sleeps. Raises ContenderFailed with one sentence."""

    def __init__(self, contender: Contender, threads: int, patience: float = PATIENCE) -> None:
        self.contender, self.patience = contender, patience
        self._talk = tempfile.TemporaryFile()  # noqa: SIM115
        command = [contender.python, *contender.command, contender.spec(threads)]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._talk,
                env=_environment(contender, threads),
            )
        except OSError as error:
            self._talk.close()
            raise ContenderFailed(f"{contender.name}: {shown(contender.python)} cannot be run: {error.strerror}") from None
        self._heard = b""
        try:
            self.hello = self._answer()
        except BaseException:
            self.stop()
            raise

    def ask(self, request: str, *numbers: int) -> dict[str, Any]:
        """The answer to one request of worker.py."""
        try:
            self._process.stdin.write(json.dumps({request: numbers}).encode() + b"\n")  # type: ignore[union-attr]
            self._process.stdin.flush()  # type: ignore[union-attr]
        except OSError:
            raise self._dead() from None
        answer = self._answer()
        if "error" in answer:
            raise ContenderFailed(f"{self.contender.name}: {shown(answer['error'])}")
        return answer

    def rest(self, most: float = 2.0) -> bool:
        """Wait till its threads have stopped spinning, and say whether they did."""
        end, before = time.perf_counter() + most, -1
        while (spent := _ticks(self._process.pid)) != before and time.perf_counter() < end:
            before = spent
            time.sleep(QUIET)
        return spent == before

    def stop(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._talk):
            with suppress(OSError):
                pipe.close()  # type: ignore[union-attr]

    def _answer(self) -> dict[str, Any]:
        end, stdout = time.monotonic() + self.patience, self._process.stdout.fileno()  # type: ignore[union-attr]
        while b"\n" not in self._heard:
            if not select.select([stdout], [], [], max(end - time.monotonic(), 0))[0]:
                raise ContenderFailed(f"{self.contender.name} has not answered for {self.patience:g} seconds")
            piece = os.read(stdout, 1 << 16)
            if not piece:
                raise self._dead()
            self._heard += piece
        line, self._heard = self._heard.split(b"\n", 1)
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise ContenderFailed(f"{self.contender.name} said {shown(line)}, expected JSON")
        return answer

    def _dead(self) -> ContenderFailed:
        status = self._process.wait()
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        self._talk.seek(0)
        lines = self._talk.read().decode(errors="replace").strip().splitlines()
        return ContenderFailed(f"{self.contender.name} {how}" + (f": {shown(lines[-1])}" if lines else ""))


def _environment(contender: Contender, threads: int) -> dict[str, str]:
    """Every pool of threads as large as it is allowed to be; ours finds this very switchnp."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    changed = {name: str(threads) for name in names} | {"HF_HUB_OFFLINE": "1"}
    if contender.library == "switchnp":
        places = [str(WORKER.parent.parent.parent), os.environ.get("PYTHONPATH", "")]
        changed["PYTHONPATH"] = os.pathsep.join(filter(None, places))
    return os.environ | changed


def _ticks(pid: int) -> int:
    """Processor time of all threads of a process; 0 where Linux does not say."""
    with suppress(OSError, ValueError, IndexError):
        after_name = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(after_name[11]) + int(after_name[12])
    return 0
