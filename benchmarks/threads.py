"""When is a second thread worth its waking? Times of one thread and of two, for work that grows.

    .venv/bin/python benchmarks/threads.py [--rule] [--busy]

One model a line, with random weights: microseconds of a decoder's step, and of the encoder on 16 and on 128 words; the lower
quartile of turns that the two take. The engine's own rule for small work (`engine.matrices.ENOUGH`) is off, so that two are two,
unless --rule keeps it. With --busy a program that never rests keeps one core.
"""

import statistics
import subprocess
import sys
import time

import numpy as np

from switchnp import Config, SwitchTransformer, Tree
from switchnp.engine import matrices, voices
from switchnp.params import blueprint

WIDTHS = (32, 64, 96, 128, 192, 256, 384, 512)
LAYERS = 2
TURNS = 40


def model(width, dtype):
    """The weights of one width, for one thread and for two."""
    shape = {"d_model": width, "d_ff": 4 * width, "d_kv": 32, "num_heads": width // 32, "vocab_size": 32 * width}
    layers = {"num_layers": LAYERS, "num_decoder_layers": LAYERS, "sparse_encoder_layers": (1,), "sparse_decoder_layers": (1,)}
    config, rng = Config(**shape, **layers, num_experts=4), np.random.default_rng(width)
    weights = {path: (0.1 * rng.standard_normal(size)).astype(np.float32) for path, size in blueprint(config).items()}
    params = Tree.of(weights)
    return [SwitchTransformer(config, params, dtype=dtype, threads=threads) for threads in (1, 2)]


def step_seconds(model):
    """A word of the decoder."""
    ids = np.full((1, 4), 5)
    times = []
    for words in (1, 33):
        start = time.perf_counter()
        model.generate(ids, max_new_tokens=words, min_new_tokens=words)
        times.append(time.perf_counter() - start)
    return (times[1] - times[0]) / 32


def encoding_seconds(model, words):
    """The encoder, on so many words."""
    ids = np.arange(words)[None] % 30 + 3
    start = time.perf_counter()
    model.encode(ids)
    return time.perf_counter() - start


def quartiles(models, seconds):
    """Microseconds of each model."""
    times = [[seconds(each) for each in models] for _ in range(TURNS)]
    return [1e6 * statistics.quantiles(column, n=4)[0] for column in zip(*times[5:], strict=True)]


def main(rule, busy):
    """Print the table."""
    if not rule:
        matrices.ENOUGH = voices.ENOUGH = 0
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
    try:
        print("| dtype | d_model | step 1 | 2 | ratio | encode 16: 1 | 2 | ratio | encode 128: 1 | 2 | ratio |")
        print("|---|---|---|---|---|---|---|---|---|---|---|")
        for dtype in ("float32", "int8"):
            for width in WIDTHS:
                both, cells = model(width, dtype), []
                for seconds in (step_seconds, lambda m: encoding_seconds(m, 16), lambda m: encoding_seconds(m, 128)):
                    one, two = quartiles(both, seconds)
                    cells += [f"{one:.0f}", f"{two:.0f}", f"{two / one:.2f}"]
                print(f"| {dtype} | {width} | {' | '.join(cells)} |", flush=True)
    finally:
        if neighbour:
            neighbour.kill()
            neighbour.wait()


if __name__ == "__main__":
    main("--rule" in sys.argv[1:], "--busy" in sys.argv[1:])
