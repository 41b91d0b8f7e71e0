"""The table of docs/performance.md: our engines, transformers and CTranslate2 on switch-base-8's shape, in one run.

    make bench        or        .venv/bin/python benchmarks/table.py [--python FILE] [--threads 2,1] [--rounds 7]

The model (619 million random parameters, no expert ever full) and the peers' are kept in .bench/. Writes every single value
to benchmarks/results.json and the medians into docs/performance.md.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from random_model import write_random

from switchnp import Config
from switchnp.benchmark.measurement import PLAIN, measured
from switchnp.files import replacing

ROOT = Path(__file__).resolve().parent.parent
CONFIG = replace(Config.preset("switch-base-8"), expert_capacity=1024)
BEGIN, END = "<!-- measured by benchmarks/table.py -->\n", "<!-- end of what was measured -->\n"
CLAIMS = [
    ("decode 1", "switchnp float32", "transformers float32", 1.9),
    ("decode 1", "switchnp float32", "ctranslate2 float32", 2.3),
    ("decode 1", "switchnp bfloat16", "transformers bfloat16", 3.5),
    ("decode 1", "switchnp int8", "ctranslate2 int8", 4),
    ("decode 1", "switchnp int8", "transformers float32", 6),
    ("decode 8", "switchnp bfloat16", "transformers bfloat16", 2.5),
    ("decode 8", "switchnp int8", "ctranslate2 int8", 2.5),
    ("encode 1x128", "switchnp float32", "ctranslate2 float32", 1),
    ("encode 1x512", "switchnp float32", "ctranslate2 float32", 1.25),
    ("encode 8x128", "switchnp float32", "ctranslate2 float32", 1.25),
    ("encode 1x128", "switchnp int8", "ctranslate2 int8", 1),
    ("encode 1x512", "switchnp int8", "ctranslate2 int8", 1.2),
    ("encode 8x128", "switchnp int8", "ctranslate2 int8", 1.2),
    ("encode 1x128", "switchnp int8", "transformers bfloat16", 2),
    ("encode 1x512", "switchnp int8", "transformers bfloat16", 2),
    ("encode 8x128", "switchnp int8", "transformers bfloat16", 2),
    ("weights read", "switchnp float32", "plain read", 0.9),
    ("weights read", "switchnp bfloat16", "plain read", 0.8),
    ("weights read", "switchnp int8", "plain read", 0.7),
]
"""A metric, who of us, beside whom, and how many times as fast we want to be."""


def page(report):
    """The measured part of docs/performance.md."""
    about, versions = report.machine, {" ".join(pair) for each in report.versions.values() for pair in each.items()}
    lines = [
        f"{about['processor']}, {about['cores']} cores, {about['memory'] / 1e9:.0f} GB, load {about['load']}; {about['date']};",
        f"Python {about['python']}, {', '.join(sorted(versions))}. Medians of {report.rounds} rounds, quartiles in brackets.",
        "",
    ]
    for threads in dict.fromkeys(row.threads for row in report.rows):
        lines += [f"### Threads: {threads}", "", *table([row for row in report.rows if row.threads == threads]), ""]
        lines += [*claims([row for row in report.rows if row.threads == threads]), ""]
    return "\n".join([*lines, *(f"- {note}" for note in report.notes)]).rstrip() + "\n"


def table(rows):
    """One row a metric, one column a contender."""
    names = list(dict.fromkeys(row.contender for row in rows))
    lines = ["| metric | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for metric, unit in dict.fromkeys((row.metric, row.unit) for row in rows):
        found = {row.contender: row for row in rows if row.metric == metric}
        cells = [cell(found[name]) if name in found else "" for name in names]
        lines.append(f"| {metric}, {unit} | " + " | ".join(cells) + " |")
    return lines


def cell(row):
    """A median and its quartiles."""
    low, high = row.quartiles
    return f"{row.median:.3g} ({low:.3g} to {high:.3g})" if row.median < 1000 else f"{row.median:.0f} ({low:.0f} to {high:.0f})"


def claims(rows):
    """How many times as fast as whom, beside what we want."""
    found = {(row.metric, row.contender): row for row in rows}
    lines = ["| metric | who | beside | times as fast | wanted | as a plain read |", "|---|---|---|---|---|---|"]
    for metric, ours, theirs, wanted in CLAIMS:
        if {(metric, ours), (metric, theirs)} <= found.keys():
            ratio = found[metric, ours].median / found[metric, theirs].median
            times = 1 / ratio if metric.startswith("encode") else ratio
            lines.append(f"| {metric} | {ours} | {theirs} | {times:.2f} | {wanted} | {limit(metric, ours, times, found)} |")
    return lines if len(lines) > 2 else []


def limit(metric, ours, times, found):
    """How many times as fast decoding one sentence would be if its weights came as fast as a plain read has them."""
    reading, plain = found.get(("weights read", ours)), found.get(("weights read", PLAIN))
    return f"{times * plain.median / reading.median:.2f}" if metric == "decode 1" and reading and plain else ""


def put(path, text):
    """A whole file or none."""
    with replacing(path, len(text.encode()), force=True) as temporary:
        temporary.write_text(text, encoding="utf-8")


def main():
    """Measure, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has the peers")
    parser.add_argument("--threads", default="2,1")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--metrics", default="decode,encode,start,bandwidth")
    parser.add_argument("--against", default="transformers,ctranslate2")
    parser.add_argument("--cache", type=Path, default=ROOT / ".bench")
    options = parser.parse_args()
    model = options.cache / "base8.h5"
    options.cache.mkdir(exist_ok=True)
    if not model.exists():
        write_random(model, CONFIG)
    report = measured(
        model,
        against=list(filter(None, options.against.split(","))),
        threads=[int(count) for count in options.threads.split(",")],
        rounds=options.rounds,
        metrics=options.metrics.split(","),
        python=options.python,
        cache=options.cache,
    )
    print("\n".join(report.lines()))
    put(ROOT / "benchmarks/results.json", report.json() + "\n")
    document = ROOT / "docs/performance.md"
    before, rest = document.read_text(encoding="utf-8").split(BEGIN)
    put(document, before + BEGIN + "\n" + page(report) + "\n" + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
