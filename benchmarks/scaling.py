"""How the encoder's time grows with experts, length and batch: ours and transformers, drawn into docs/images/.

    .venv/bin/python benchmarks/scaling.py [--python FILE] [--experts 8,16,32,64,128,256] [--rounds 5]

Two encoder layers of switch-base's widths, the second sparse, no expert ever full. Beside the experts' figures stands a formula:
compute + bytes of weights / bandwidth of a plain read, where compute is what the fewest experts leave over.
"""

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import matplotlib
from matplotlib import pyplot
from random_model import write_random
from table import ROOT, put

from switchnp import Config
from switchnp.benchmark import machine
from switchnp.benchmark.bandwidth import BYTES, Reader
from switchnp.benchmark.lineup import line_up
from switchnp.benchmark.measurement import PLAIN, READ
from switchnp.benchmark.metrics import encode
from switchnp.benchmark.turns import race

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "switchnp"
TOKENS = 512
LENGTHS, BATCHES = (64, 128, 256, 512, 1024), (1, 2, 4, 8, 16)
LAYERS = {"num_layers": 2, "num_decoder_layers": 1, "sparse_encoder_layers": (1,), "sparse_decoder_layers": ()}
CONFIG = replace(Config.preset("switch-base-8"), **LAYERS, expert_capacity=4096)


def sweep(config, metrics, options):
    """The median seconds of these metrics by contender, and a plain read's bytes a second."""
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        write_random(folder / "model.h5", config)
        contenders, notes = line_up(folder / "model.h5", options.against, options.python, folder)
        contenders = [contender for contender in contenders if contender.dtype in options.dtypes]
        reader = Reader(1 << 29, options.threads)
        alone = {PLAIN: (READ, metrics[0], lambda: reader.seconds() / reader.size)}
        figures = race(contenders, metrics, options.threads, options.rounds, alone)
    for note in [*notes, *figures.notes]:
        print(note, file=sys.stderr)
    found = {name: {who: statistics.median(v) for who, v in by.items()} for name, by in figures.values.items()}
    return found, 1 / found[READ.name][PLAIN]


def weight_bytes(config, dtype, tokens):
    """Bytes of the experts that have a token, where each token takes any expert alike: E (1 - (1 - 1/E)^T) of them."""
    E = config.num_experts
    return E * (1 - (1 - 1 / E) ** tokens) * 2 * config.d_model * config.d_ff * BYTES[dtype]


def by_experts(options):
    """Milliseconds by contender and number of experts, and the formula's."""
    times, formula = {}, {}
    for experts in options.experts:
        config = replace(CONFIG, num_experts=experts)
        found, bandwidth = sweep(config, [encode(1, TOKENS)], options)
        for who, seconds in found[encode(1, TOKENS).name].items():
            reading = 1e3 * weight_bytes(config, who.split()[-1], TOKENS) / bandwidth
            times.setdefault(who, {})[experts] = 1e3 * seconds
            formula.setdefault(who, {})[experts] = reading
    for who, readings in formula.items():
        fewest = min(readings)
        compute = max(times[who][fewest] - readings[fewest], 0.0)
        formula[who] = {experts: compute + reading for experts, reading in readings.items()}
    return {"times": times, "formula": formula}


def by_metric(metrics, options):
    """Milliseconds by contender and by what grows."""
    found, _ = sweep(CONFIG, list(metrics.values()), options)
    times = {}
    for size, metric in metrics.items():
        for who, seconds in found.get(metric.name, {}).items():
            times.setdefault(who, {})[size] = metric.figure(seconds)
    return {"times": times}


def draw(name, label, measured):
    """One picture: a line a contender, dashed where it is the formula's."""
    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for who, times in measured["times"].items():
        line = axes.plot(list(times), list(times.values()), marker="o", label=who)[0]
        if formula := measured.get("formula", {}).get(who):
            axes.plot(list(formula), list(formula.values()), "--", color=line.get_color(), label=f"{who}, formula")
    axes.set(xscale="log", yscale="log", xlabel=label, ylabel="encoder, ms")
    sizes = list(next(iter(measured["times"].values())))
    axes.set_xticks(sizes, [str(size) for size in sizes], minor=False)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize="small")
    (ROOT / "docs/images").mkdir(exist_ok=True)
    figure.savefig(ROOT / f"docs/images/{name}.svg", metadata={"Date": None})


def main():
    """Measure, draw, and write benchmarks/scaling.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has transformers")
    parser.add_argument("--experts", default="8,16,32,64,128,256")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtypes", default="float32")
    parser.add_argument("--against", default="transformers")
    parser.add_argument("--only", default="experts,length,batch")
    parser.add_argument("--folder", type=Path, default=ROOT / ".bench")
    options = parser.parse_args()
    options.experts = [int(number) for number in options.experts.split(",")]
    options.dtypes, options.against = options.dtypes.split(","), list(filter(None, options.against.split(",")))
    options.folder.mkdir(exist_ok=True)
    parts = {
        "experts": (f"experts ({TOKENS} tokens)", lambda: by_experts(options)),
        "length": ("tokens of one sentence", lambda: by_metric({n: encode(1, n) for n in LENGTHS}, options)),
        "batch": ("sentences of 128 tokens", lambda: by_metric({n: encode(n, 128) for n in BATCHES}, options)),
    }
    results = {"machine": machine.described(), "rounds": options.rounds, "threads": options.threads}
    for name in options.only.split(","):
        results[name] = parts[name][1]()
        draw(name, parts[name][0], results[name])
    put(ROOT / "benchmarks/scaling.json", json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
