"""The peers alone, on base8.py's model: a first look. peers_now.py PYTHON FOLDER DENSE THREADS ROUNDS [NAME ...]"""

import statistics
import sys
import time
from pathlib import Path

from switchnp.benchmark.contender import Contender, Running

METRICS = {
    "decode 1, tok/s": ("decode", 1, 128, 16),
    "decode 8, tok/s": ("decode", 8, 128, 16),
    "encode 1x128, ms": ("encode", 1, 128),
    "encode 1x512, ms": ("encode", 1, 512),
    "encode 8x128, ms": ("encode", 8, 128),
}


def main():
    """Print medians."""
    python, folder, dense, threads, rounds, *names = sys.argv[1:]
    own = {"python": python, "vocabulary": 32100}
    contenders = [
        Contender(name="HF-float32", library="transformers", path=Path(folder), dtype="float32", **own),
        Contender(name="HF-bfloat16", library="transformers", path=Path(folder), dtype="bfloat16", **own),
        Contender(name="CT2-float32", library="ctranslate2", path=Path(dense), dtype="float32", **own),
        Contender(name="CT2-int8", library="ctranslate2", path=Path(dense), dtype="int8", **own),
    ]
    running, values = {}, {}
    for c in contenders:
        if not names or c.name in names:
            begin = time.perf_counter()
            running[c.name] = r = Running(c, int(threads))
            first = r.ask("first", 1, 128)["value"]
            print(
                c.name, "start", f"{time.perf_counter() - begin:.2f}", r.hello, f"first {first:.2f}", r.ask("memory"), flush=True
            )
    for n in range(int(rounds) + 1):
        for metric, request in METRICS.items():
            for name, r in running.items():
                value = r.ask(*request)["value"]
                if not r.rest():
                    print(name, "does not rest")
                if n or rounds == "0":
                    values.setdefault((metric, name), []).append(request[1] * 16 / value if "tok" in metric else 1000 * value)
        print(f"threads {threads}, round {n}, load {Path('/proc/loadavg').read_text().split()[:2]}")
        for (metric, name), found in values.items():
            print(f"{metric:<18} {name:<12} {statistics.median(found):8.1f}   {min(found):8.1f} .. {max(found):.1f}", flush=True)
    for r in running.values():
        r.stop()


if __name__ == "__main__":
    main()
