"""The card of the small model: every figure that weights/README.md gives of it, measured anew.

    .venv/bin/python recipes/card.py weights/switch-tiny.h5 --run runs/tiny --data .data

Writes recipes/tiny.json (all figures), docs/images/specialisation.svg, and the part of weights/README.md between its two marks.
"""

import argparse
import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import page

import switchnp
from switchnp import SwitchTransformer
from switchnp.errors import SwitchError
from switchnp.evaluation import ALL
from switchnp.files import replacing
from switchnp.history import metrics_of, read_metrics
from switchnp.plots import draw, write
from switchnp.training.examination import examined
from switchnp.training.kitchen import born, examination
from switchnp.training.recipe import EvaluationPart, read_recipe
from switchnp.weights import read_header

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "recipes/tiny.toml"
PAIRS, WORDS, LARGEST = 2000, 64, 1 << 20


def distance(said, meant):
    """How many phonemes are to be put in, left out or changed, at least.

    Source: Levenshtein 1966.
    """
    row = list(range(len(meant) + 1))
    for i, heard in enumerate(said, 1):
        above, row = row, [i]
        for j, wanted in enumerate(meant, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (heard != wanted)))
    return row[-1]


def nearest(said, forms):
    """(errors, phonemes) of the listed form that an answer is nearest to, the first of several."""
    measured = [(distance(said.split(), form.split()), len(form.split())) for form in forms]
    return min(measured, key=lambda pair: pair[0])


def pronounced(answers, forms):
    """How well words are pronounced where any listed form is right.

    answers     {word: what was said}
    forms       {word: all its forms}
    """
    measured = [nearest(said, forms[word]) for word, said in answers.items()]
    errors, phonemes = map(sum, zip(*measured, strict=True))
    right = sum(said in forms[word] for word, said in answers.items())
    return {
        "items": len(answers),
        "any_form": right / len(answers),
        "phonemes": phonemes,
        "phoneme_error_rate": errors / phonemes,
    }


def said(model, pairs):
    """{prompt: greedy answer}."""
    prompts = [pair.prompt for pair in pairs]
    return dict(zip(prompts, model.generate(prompts, max_new_tokens=WORDS), strict=True))


def hashed(model):
    """The same model with a router that goes by the word alone (`equations.hashed_expert`): the null of specialisation."""
    return SwitchTransformer(model.config, model.params, replace(model.routing, router="hash"), model.tokenizer)


def unasked(held):
    """The same examples, to be heard and not answered."""
    return [task._replace(pairs=None) for task in held]


def settled(recipe, data):
    """The recipe with the held-out files and the tokenizer of a data folder."""
    data = data.resolve()
    tasks = [replace(task, held=str(data / "held" / Path(task.held).name)) for task in recipe.tasks]
    return recipe._replace(tasks=tasks, model=replace(recipe.model, tokenizer=str(data / "spiece.model")))


def held_out(recipe, model):
    """All pairs, and as many gapped texts as training was examined with."""
    pairs = examination(recipe._replace(evaluation=EvaluationPart(limit=PAIRS)), model)
    fewer = examination(recipe, model)
    return [more if more.pairs is not None else few for more, few in zip(pairs, fewer, strict=True)]


def rise_and_fall(recipe, run):
    """{step: {layer: nats}}: what the run wrote down, and what its first model and the checkpoints that it kept say now."""
    steps = {}
    for layer, series in read_metrics(run).specialisation.items():
        for step, nats in zip(*series, strict=True):
            steps.setdefault(step, {})[layer] = nats
    first = born(recipe)
    held = unasked(examination(recipe, first))
    kept = {int(path.parent.name[5:]): path for path in run.glob("step-*/model.h5")}
    for step in sorted({0, *kept} - steps.keys()):
        model = switchnp.load(kept[step], engine="kernels") if step else first
        steps[step] = examined(model, held).specialisation
    return dict(sorted(steps.items()))


def trained(recipe, run):
    """How long the run was."""
    metrics = read_metrics(run)
    seconds = [tokens / rate for tokens, rate in zip(metrics.tokens.values, metrics.tokens_per_second.values, strict=True)]
    return {
        "seed": recipe.seed,
        "examined": recipe.evaluation.limit,
        "steps": metrics.last_step,
        "tokens": sum(metrics.tokens.values),
        "hours": sum(seconds) / 3600,
    }


def described(path):
    """What the file says of itself."""
    header, _ = read_header(path)
    raw = path.read_bytes()
    return {
        "name": path.name,
        "bytes": len(raw),
        "sha256": hashlib.sha256(raw).hexdigest(),
        "stored": header.dtype,
        "parameters": header.config.num_parameters,
        "config": json.loads(header.config.to_json()),
        "routing": header.routing.name,
        "provenance": header.provenance,
    }


def figures(path, recipe, run, data):
    """Everything that the card says, for JSON."""
    model = switchnp.load(path)
    held = held_out(recipe, model)
    asked = {task.name: task.pairs for task in held if task.pairs is not None}
    words = {prompt.removeprefix("pronounce: "): answer for prompt, answer in said(model, asked["pronunciation"]).items()}
    forms = json.loads((data / "held/pronunciation.json").read_text(encoding="utf-8"))
    report, null = examined(model, held), examined(hashed(model), unasked(held))
    return {
        "model": described(path),
        "training": trained(recipe, run),
        "examples": said(model, [pairs[0] for pairs in asked.values()]),
        "tasks": {task: score for task, score in report.scores.items() if task != ALL},
        "pronunciation": pronounced(words, forms),
        "load": report.load,
        "specialisation": report.specialisation,
        "hash": null.specialisation,
        "rise_and_fall": rise_and_fall(recipe, run),
    }


def rounded(value):
    """The same with six digits behind the point."""
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return round(value, 6) if isinstance(value, float) else value


def picture(found):
    """Specialisation over the run, and a hash router's beside it, as a Figure."""
    lines = [{"step": step, "evaluation": {}, "specialisation": nats} for step, nats in found["rise_and_fall"].items()]
    figure = draw(metrics_of(lines))
    [axes] = figure.axes
    key = axes.get_legend()
    names = [text.get_text() for text in key.get_texts()]
    handles = list(key.legend_handles)
    for stack, style in (("encoder", "-"), ("decoder", "--")):
        level = next(nats for layer, nats in found["hash"].items() if layer.startswith(stack))
        handles.append(axes.axhline(level, color="#767676", linestyle=style, linewidth=0.8))
        names.append(f"hash router, {stack}")
    axes.legend(handles, names, loc="upper left", bbox_to_anchor=(1.02, 1.05), fontsize=8, frameon=False)
    figure.set_figwidth(5.4)
    return figure


def put(root, found):
    """Write the figures, the picture and the card below a folder, each whole or not at all."""
    card = root / "weights/README.md"
    texts = {
        root / "recipes/tiny.json": json.dumps(found, indent=1) + "\n",
        card: page.between(card.read_text(encoding="utf-8"), page.section(found)),
    }
    for path, text in texts.items():
        with replacing(path, LARGEST, force=True) as temporary:
            temporary.write_text(text, encoding="utf-8")
    write(picture(found), root / "docs/images/specialisation.svg")


def main(argv=None):
    """Measure everything, and write it down."""
    parser = argparse.ArgumentParser(description="Make the card of the small model.")
    parser.add_argument("model", type=Path, help="the weights file")
    parser.add_argument("--run", type=Path, default=ROOT / "runs/tiny", help="folder of the run that made it (runs/tiny)")
    parser.add_argument("--data", type=Path, default=ROOT / ".data", help="folder of recipes/make_data.py (.data)")
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="what it was trained by (recipes/tiny.toml)")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder to write recipes/, docs/images/ and weights/ in")
    given = parser.parse_args(argv)
    try:
        recipe = settled(read_recipe(given.recipe), given.data)
        put(given.root, rounded(figures(given.model, recipe, given.run, given.data)))
    except (SwitchError, OSError) as error:
        sys.exit(f"card: {error}")


if __name__ == "__main__":
    main()
