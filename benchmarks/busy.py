"""What does a neighbour who keeps a core busy cost, with one BLAS thread and with two?

    .venv/bin/python benchmarks/busy.py

Makes base8.py's model first. Each figure is the median of five answers in a process of its own.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import base8

ANSWER = """
import statistics, sys, time
import numpy as np
import switchnp

model = switchnp.load(sys.argv[1])
ids = np.random.default_rng(0).integers(3, 32000, (1, 128))
model.generate(ids, max_new_tokens=1)
times = []
for _ in range(5):
    start = time.perf_counter()
    model.generate(ids, max_new_tokens=8)
    times.append(time.perf_counter() - start)
print(f"{statistics.median(times):.2f}")
"""


def seconds(path, threads, busy):
    """The median time of an answer, with or without a program that never rests beside it."""
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
    try:
        environment = os.environ | {"OPENBLAS_NUM_THREADS": str(threads)}
        command = [sys.executable, "-c", ANSWER, str(path)]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()
    finally:
        if neighbour:
            neighbour.kill()
            neighbour.wait()


def main():
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        base8.write(Path(folder))
        base8.convert(Path(folder), "bfloat16")
        print("| BLAS threads | nobody else, s | a busy neighbour, s |\n|---|---|---|")
        for threads in (2, 1):
            quiet, busy = (seconds(Path(folder) / "base8.h5", threads, busy) for busy in (False, True))
            print(f"| {threads} | {quiet} | {busy} |", flush=True)


if __name__ == "__main__":
    main()
