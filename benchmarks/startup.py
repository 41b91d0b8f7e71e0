"""How long until the first answer? Import, a cold Numba cache, a warm one: medians of whole processes.

.venv/bin/python benchmarks/startup.py
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GENERATE = [sys.executable, "-m", "switchnp", "generate", str(ROOT / "weights/switch-numbers.h5"), "say in French: 1984"]
IMPORT = [sys.executable, "-c", "import switchnp"]
NAMES = [sys.executable, "-c", "import sys; from switchnp import *; assert 'numba' not in sys.modules"]


def seconds(command, **environment):
    """How long one process takes."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT, env=os.environ | environment)
    return time.perf_counter() - start


def main():
    """Print the medians."""
    seconds(NAMES), seconds(GENERATE)
    commands = ([sys.executable, "-c", ""], IMPORT, NAMES, GENERATE)
    rounds = [[seconds(command) for command in commands] for _ in range(7)]
    colds = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as cache:
            colds.append(seconds(GENERATE, NUMBA_CACHE_DIR=cache))
    python, imported, named, warm = (statistics.median(column) for column in zip(*rounds, strict=True))
    print("| what | seconds | limit |\n|---|---|---|")
    print(f"| python alone | {python:.2f} | |")
    print(f"| import switchnp | {imported:.2f} | 0.7 |")
    print(f"| from switchnp import * (all but Numba; nothing is compiled) | {named:.2f} | 0.7 |")
    print(f"| switchnp generate, cold Numba cache | {statistics.median(colds):.2f} | 15 |")
    print(f"| switchnp generate, warm Numba cache | {warm:.2f} | 2 |")


if __name__ == "__main__":
    main()
