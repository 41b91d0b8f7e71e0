"""Where and when something was measured."""

from __future__ import annotations

import datetime
import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["described", "load_average"]


def described() -> dict[str, Any]:
    """The machine, the day and the versions that all contenders share."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "load": load_average(),
    }


def load_average() -> float | None:
    """How many programs wanted a core in the last minute; None where nobody says."""
    with suppress(OSError):
        return round(os.getloadavg()[0], 2)
    return None


def _processor() -> str:
    facts: dict[str, str] = {}
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            facts.setdefault(name.strip(), value.strip())
    flags = set(facts.get("flags", "").split())
    known = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16") if flag in flags]
    family = f" family {facts['cpu family']} model {facts['model']}" if {"cpu family", "model"} <= facts.keys() else ""
    name = facts.get("model name") or platform.processor() or platform.machine()
    return f"{name}{family} ({' '.join(known) or 'no AVX2'})"
