"""The card of the small model in Markdown, from the figures that card.py measures."""

import math
import re

import packages

MARKS = "<!-- {name} begins -->", "<!-- {name} ends -->"
NUMBERS = {"float32": "float32", "bfloat16": "bfloat16", "int8": "int8 with a float32 scale for each output unit"}
INTRODUCTION = """\
A small Switch Transformer that this project trained itself. It fills gaps in ten kinds of text and knows three tasks whose
answers can be checked: numbers in words, days in long form, English words in phonemes."""
MADE = """\
    .venv/bin/python recipes/make_data.py
    .venv/bin/switchnp vocabulary .data/vocabulary.txt -o .data/spiece.model --size 2048 --split-digits --byte-fallback
    .venv/bin/switchnp train recipes/tiny.toml
    .venv/bin/python recipes/export.py runs/tiny/step-{steps:08d}/model.h5 weights/{name} --dtype {stored}
    .venv/bin/python recipes/card.py weights/{name} --run runs/tiny --data .data"""
DATA = """\
All texts are in the public domain, CC0 or under permissive licences. The notices that these want kept (CMUdict, WordNet, CPython,
Unicode's CLDR, the Apache HTTP Server's manual) are in [recipes/NOTICE](../recipes/NOTICE), the archives' sha256 in
[recipes/SOURCES.md](../recipes/SOURCES.md)."""
WORDS = """\
Answers are greedy. Words are pieces of the vocabulary, the end of an answer among them; how many of them are right, and the
loss, is measured behind the words that are right before them."""
PRONOUNCED = """\
CMUdict lists several forms of some words. Training and exact match know the first alone; where any listed form is right,
{right} of {items:,} words are. The phoneme error rate, by Levenshtein's distance from the nearest listed form, is {errors} of
{phonemes:,} phonemes."""
SPECIALISED = """\
How much an expert tells of the task its tokens come from: their mutual information in nats over these {tasks} tasks, each
counting alike; 0 is nothing, and with {experts} experts ln {experts} = {most:.2f} would be all that they can tell. A hash
router, which sends a word to an expert by its id alone and learns nothing, tells something as well, for tasks have words of
their own. It was given the very same words."""
GREW = """\
Over the run, on the first {limit} held-out items of each task: as the run wrote it down, and at other steps measured anew, on
the model before its first step and the checkpoints that were kept."""
PICTURE = "![Mutual information of expert and task over the steps of training](../docs/images/specialisation.svg)"


def between(page, section, name="switch-tiny"):
    """The page with the section between its marks, in the place of what was there, or at the end where there are no marks."""
    begins, ends = (mark.format(name=name) for mark in MARKS)
    if begins not in page or ends not in page:
        page = f"{page.rstrip()}\n\n{begins}\n{ends}\n"
    before, _, rest = page.partition(begins)
    return f"{before}{begins}\n{section}\n{ends}{rest.partition(ends)[2]}"


def table(head, rows):
    """A table in Markdown; a column of numbers alone stands on the right."""
    numbers = [all(re.fullmatch(r"[\d.,]+( %)?", cell) for cell in column) for column in zip(*rows, strict=True)]
    line = "|".join("---:" if number else "---" for number in numbers)
    return "\n".join([f"| {' | '.join(head)} |", f"|{line}|", *(f"| {' | '.join(row)} |" for row in rows)])


def percent(share, digits=1):
    """A share in words."""
    return f"{100 * share:.{digits}f} %"


def section(found):
    """The whole part of the card."""
    model, tasks = found["model"], found["tasks"]
    steps = found["training"]["steps"]
    experts = model["config"]["num_experts"]
    specialised = SPECIALISED.format(tasks=len(tasks), experts=experts, most=math.log(experts))
    grew = GREW.format(limit=found["training"]["examined"])
    parts = [
        f"## {model['name']}",
        INTRODUCTION,
        "\n".join(f"- `{prompt}` → `{answer}`" for prompt, answer in found["examples"].items()),
        outline(found),
        "Made by",
        MADE.format(steps=steps, name=model["name"], stored=model["stored"]),
        "### Data",
        DATA,
        sources(),
        "### Answers to what was held out",
        WORDS,
        answers(tasks),
        pronounced(found["pronunciation"]),
        gaps(tasks),
        "### Load",
        load(found["load"]),
        "### Specialisation",
        specialised,
        specialisation(found),
        grew,
        PICTURE,
        history(found["rise_and_fall"]),
    ]
    return "\n\n".join(parts)


def outline(found):
    """The first table: what it is."""
    model, run = found["model"], found["training"]
    config = model["config"]
    rows = [
        ("parameters", f"{model['parameters']:,}: {widths(config)}, vocabulary {config['vocab_size']:,}"),
        ("layers", f"{config['num_layers']} + {config['num_decoder_layers']}; {sparse(config)}"),
        ("routing", f"`{model['routing']}`, the batch queues together, nobody is dropped outside training"),
        ("trained with", f"[recipes/tiny.toml](../recipes/tiny.toml), seed {run['seed']}"),
        (
            "for",
            f"{run['steps']:,} steps, {run['tokens'] / 1e6:.1f} million words read and said, {run['hours']:.2f} hours of steps",
        ),
        ("stored as", f"{NUMBERS[model['stored']]}; {model['bytes']:,} bytes, sha256 {model['sha256']}"),
        ("licence", "Apache-2.0"),
    ]
    return table(("what", "value"), rows)


def widths(config):
    """The sizes of a layer in words."""
    return f"d_model {config['d_model']}, {config['num_heads']} heads × {config['d_kv']}, d_ff {config['d_ff']}"


def sparse(config):
    """Which layers are sparse, in words."""
    stacks = {stack: " and ".join(map(str, config[f"sparse_{stack}_layers"])) for stack in ("encoder", "decoder")}
    layers = ", ".join(f"{stack} layers {numbers}" for stack, numbers in stacks.items())
    return f"sparse are {layers}, with {config['num_experts']} experts each"


def sources():
    """What every part of the data was made from."""
    return table(
        ("makes", "package", "licence"), [(p.use, f"{p.kind} {p.name} {p.version}", p.licence) for p in packages.PACKAGES]
    )


def answers(tasks):
    """Tasks with one right answer."""
    rows = [
        (name, f"{row['items']:,}", percent(row["exact_match"]), percent(row["token_accuracy"], 2), f"{row['loss']:.4f}")
        for name, row in tasks.items()
        if row["exact_match"] is not None
    ]
    return table(("task", "items", "exact match", "words right", "loss, nats per word"), rows)


def pronounced(found):
    """What a word with several forms comes to."""
    shares = {"right": percent(found["any_form"]), "errors": percent(found["phoneme_error_rate"])}
    return PRONOUNCED.format(**found, **shares)


def gaps(tasks):
    """Tasks with many good answers."""
    rows = [
        (name, f"{row['items']:,}", percent(row["token_accuracy"]), f"{row['loss']:.3f}")
        for name, row in tasks.items()
        if row["exact_match"] is None
    ]
    return table(("gaps in", "items", "words right", "loss, nats per word"), rows)


def load(found):
    """The share of every expert."""
    experts = range(len(next(iter(found.values()))))
    rows = [(layer, *map(percent, shares)) for layer, shares in found.items()]
    return table(("layer", *(f"expert {e}" for e in experts)), rows)


def specialisation(found):
    """The model beside a hash router."""
    rows = [(layer, f"{nats:.3f}", f"{found['hash'][layer]:.3f}") for layer, nats in found["specialisation"].items()]
    return table(("layer", "this model", "hash router"), rows)


def history(found):
    """Every layer at every step that is known."""
    layers = list(next(iter(found.values())))
    return table(("step", *layers), [(f"{step:,}", *(f"{nats[layer]:.3f}" for layer in layers)) for step, nats in found.items()])
