"""A recipe small enough for a test, and the files that it needs."""

import json

from references import ROOT

import switchnp

NUMBERS = ROOT / "weights/switch-numbers.h5"
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
RECIPE = """
seed = 3
run = "run"
steps = {steps}

[model]
tokenizer = "spiece.model"
routing = "{routing}"
init_scale = 1.0

[model.config]
d_model = 16
d_ff = 24
d_kv = 8
num_heads = 2
num_layers = 2
num_experts = 4
sparse_encoder_layers = [1]
sparse_decoder_layers = [0]

[data]
examples = 6
bucket = 3
max_inputs = 24
max_targets = 16

[[task]]
name = "numbers"
file = "numbers.tsv"
held = "held.tsv"
weight = 2

[[task]]
name = "text"
kind = "fill"
file = "text.txt"
held = "text.txt"
weight = 1

[optimizer]
kind = "{optimizer}"

[schedule]
kind = "cosine"
peak = {peak}
warmup = 2
steps = 40

[training]
dropout = 0.1
every = {every}
keep = 2
{training}
[evaluation]
every = 4
limit = 5
{evaluation}
{more}
"""
SETTINGS = {"steps": 10, "routing": "paper", "optimizer": "adamw", "peak": 1e-2, "every": 4}
PARTS = {"training": "", "evaluation": "", "more": ""}


def kitchen(folder, **changes):
    """The path of a recipe in a folder that has all it needs."""
    pairs = [(f"say in English: {i * 10 + j}", f"{one}-{two}") for i, one in enumerate(WORDS) for j, two in enumerate(WORDS)]
    (folder / "numbers.tsv").write_text("".join(f"{prompt}\t{answer}\n" for prompt, answer in pairs[:90]))
    (folder / "held.tsv").write_text("".join(f"{prompt}\t{answer}\n" for prompt, answer in pairs[90:]))
    (folder / "text.txt").write_text("\n".join(" ".join(WORDS[i:] + WORDS[:i]) for i in range(10)) + "\n")
    (folder / "spiece.model").write_bytes(switchnp.load(NUMBERS).tokenizer.model_bytes)
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE.format(**SETTINGS | PARTS | changes))
    return recipe


def lines(folder):
    """What was written down."""
    return [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
