"""Where does the time go? Milliseconds of each compiled program of the fast engine, and of the Python around them.

    .venv/bin/python benchmarks/programs.py [--model FILE] [--dtypes float32,bfloat16,int8] [--threads 2]

On the model of `make bench`, or another file: the encoder on one and on eight sentences, and one word of one and of eight answers
behind a source of 128. Medians of turns.
"""

import argparse
import statistics
import time
from collections import Counter
from pathlib import Path

import numpy as np

import switchnp
from switchnp.engine import pool

ROOT = Path(__file__).resolve().parent.parent
TURNS, WORDS = 7, 16
ENCODED = ((1, 128), (1, 512), (8, 128))


class Clock:
    """Milliseconds by program, of all that the pool runs while it is started."""

    def __init__(self):
        self.spent, run = Counter(), pool.Pool.run

        def timed(crew, threads, program, *arguments):
            start = time.perf_counter()
            run(crew, threads, program, *arguments)
            self.spent[program.__name__] += 1e3 * (time.perf_counter() - start)

        pool.Pool.run = timed

    def turn(self, call, count=1):
        """One call, per `count` things that it does."""
        self.spent.clear()
        start = time.perf_counter()
        call()
        whole = 1e3 * (time.perf_counter() - start)
        return dict(self.spent, all=whole, python=whole - sum(self.spent.values())), count


def medians(turns):
    """The median of each program over turns, per thing done."""
    return {name: statistics.median(turn.get(name, 0) / count for turn, count in turns) for name in turns[0][0]}


def measured(model, clock):
    """What is asked, and the milliseconds by program."""
    rng = np.random.default_rng(0)
    for sentences, length in ENCODED:
        ids = rng.integers(3, model.config.vocab_size, (sentences, length))
        yield f"encode {sentences}x{length}", medians([clock.turn(lambda ids=ids: model.encode(ids)) for _ in range(TURNS)][1:])
    for answers in (1, 8):
        ids = rng.integers(3, model.config.vocab_size, (answers, 128))
        turns = [
            [clock.turn(lambda n=n, ids=ids: model.generate(ids, max_new_tokens=n, min_new_tokens=n))[0] for n in (1, 1 + WORDS)]
            for _ in range(TURNS)
        ]
        words = [({name: many[name] - one.get(name, 0) for name in many}, WORDS) for one, many in turns[1:]]
        yield f"a word of {answers}", {name: ms for name, ms in medians(words).items() if name in ("all", "spoken", "python")}


def main():
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=ROOT / ".bench/base8.h5")
    parser.add_argument("--dtypes", default="float32,bfloat16,int8")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    clock, columns = Clock(), ("all", "asked", "home", "dense", "mixture", "spoken", "python")
    print("| dtype | ms of | " + " | ".join(columns) + " |\n|---|---|" + "---|" * len(columns))
    for dtype in options.dtypes.split(","):
        model = switchnp.load(options.model, dtype=dtype, threads=options.threads, verify=False)
        for name, spent in measured(model, clock):
            cells = [f"{spent[column]:.1f}" if spent.get(column) else "" for column in columns]
            print(f"| {dtype} | {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
