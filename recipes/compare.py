"""Is a sparse model better than a dense one of the same operations a token? The same batches, several seeds, the honest answer.

    .venv/bin/python recipes/compare.py [--seeds 1,2,3] [--peaks 5e-4,1e-3,2e-3]

writes recipes/compare.json and a part of weights/README.md.

Decided before the first run: the measure is the mean loss over the ten domains' held-out gaps, in nats a word, at the last
step. YES if the dense model's loss less the sparse one's, paired by seed, is above 0 with a 95 % interval (t) that leaves 0
out; NO if it is below with such an interval; otherwise UNDECIDED. The dense model gets the best of the learning rates
--peaks, tried with the first seed.

Changed after the first run of either: the sparse model gets the best of the same rates. With the recipe's alone, 2e-3, it
had lost by 0.15 nats to the dense one's 1e-3, and a rate that one kind chooses and the other does not is no comparison.
And since both did better the lower it was, 5e-4 came in the place of 4e-3 (4.207 nats for the dense model).

Runs that are done already are read, not repeated.
"""

import argparse
import json
import math
import statistics
from dataclasses import replace
from pathlib import Path

import page

from switchnp import cost
from switchnp.errors import SwitchError
from switchnp.evaluation import ALL
from switchnp.files import replacing
from switchnp.history import read_metrics
from switchnp.training.kitchen import born
from switchnp.training.recipe import read_recipe
from switchnp.training.run import carry_out

HERE = Path(__file__).resolve().parent
KINDS = "dense", "sparse"
T_975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""Student's t at 97.5 % by degrees of freedom."""
LARGEST = 1 << 20
TOLD = """\
## Do experts help to fill gaps?

**{answer}**. After {steps:,} steps alike, the dense model's held-out loss less the sparse one's is {apart} nats a word:
the mean over {seeds} seeds of the mean over ten domains, with its 95 % interval by Student's t. The rule, and what of it
is older than the first run, stands in [recipes/compare.py](../recipes/compare.py).

The sparse model has the shape of switch-tiny.h5, {sparse:,} parameters; the dense one has a layer of the same
width in the place of each layer of experts, {dense:,} parameters, so that a token costs both the same operations but
for the router's (at most {router} more). Both saw the same batches, of gaps alone, and each has the best of the learning
rates that were tried with the first seed: {tried}.

    .venv/bin/python recipes/compare.py"""


def recipe_of(kind):
    """recipes/fill.toml for a "sparse" model, or for a "dense" one: as it stands, or without its experts."""
    recipe = read_recipe(HERE / "fill.toml")
    without = {"sparse_encoder_layers": [], "sparse_decoder_layers": []}
    return recipe._replace(config=recipe.config | without) if kind == "dense" else recipe


def loss_of(kind, seed, peak):
    """{domain: loss at the last step} of a run, which is carried out if it was not."""
    recipe = recipe_of(kind)
    run = recipe.run.parent / f"fill-{kind}-{seed}-{peak:g}"
    recipe = recipe._replace(seed=seed, run=run, schedule=replace(recipe.schedule, peak=peak))
    if not losses(run, recipe.steps):
        carry_out(recipe, resume=True)
    return losses(run, recipe.steps)


def losses(run, step):
    """{domain: held-out loss after a step} of a run; nothing where it did not come so far."""
    try:
        found = read_metrics(run).evaluation_loss
    except SwitchError:
        return {}
    return {domain: series.values[-1] for domain, series in found.items() if domain != ALL and series.steps[-1] == step}


def shape(recipe):
    """How large a model is, and the operations that a token of the source and one of the target bring."""
    model = born(recipe)
    size = sum(leaf.size for _, leaf in model.params.leaves())
    return {"parameters": size} | {kind: int(flops) for kind, flops in cost.per_token(model.config).items()}


def interval(differences):
    """The mean, and half the width of its 95 % interval."""
    count = len(differences)
    return statistics.mean(differences), T_975[count - 1] * statistics.stdev(differences) / math.sqrt(count)


def best(tried):
    """The learning rate of the lowest loss."""
    return min(tried, key=tried.get)


def rates(tried):
    """Learning rates and what they came to, in words."""
    return ", ".join(f"{loss:.3f} at {peak:g}" for peak, loss in tried.items())


def decided(runs):
    """How far the two kinds are apart over seeds, and what that says by the rule above."""
    means = {seed: {kind: statistics.mean(losses.values()) for kind, losses in both.items()} for seed, both in runs.items()}
    mean, half = interval([each["dense"] - each["sparse"] for each in means.values()])
    answer = "YES" if mean - half > 0 else "NO" if mean + half < 0 else "UNDECIDED"
    return {"means": means, "difference": mean, "half_width": half, "answer": answer, "domains": runs}


def section(found):
    """What came of it, for weights/README.md."""
    rows = [
        (f"seed {seed}", *(f"{each[kind]:.3f}" for kind in KINDS), f"{each['dense'] - each['sparse']:+.3f}")
        for seed, each in found["means"].items()
    ]
    for domain in next(iter(found["domains"].values()))["dense"]:
        dense, sparse = (statistics.mean(both[kind][domain] for both in found["domains"].values()) for kind in KINDS)
        rows.append((domain, f"{dense:.3f}", f"{sparse:.3f}", f"{dense - sparse:+.3f}"))
    sparse, dense = (found["shapes"][kind] for kind in ("sparse", "dense"))
    more = max(sparse[kind] / dense[kind] - 1 for kind in ("source", "target"))
    told = TOLD.format(
        answer=found["answer"],
        steps=found["steps"],
        apart=f"{found['difference']:+.3f} ± {found['half_width']:.3f}",
        seeds=len(found["means"]),
        sparse=sparse["parameters"],
        dense=dense["parameters"],
        router=page.percent(more),
        tried=";\n".join(f"{kind} {rates(losses)}" for kind, losses in found["peaks"].items()),
    )
    return f"{told}\n\n{page.table(('mean over', 'dense', 'sparse', 'dense less sparse'), rows)}"


def main():
    """Run what is missing, decide, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--peaks", default="5e-4,1e-3,2e-3")
    options = parser.parse_args()
    seeds, peaks = [int(seed) for seed in options.seeds.split(",")], [float(peak) for peak in options.peaks.split(",")]
    if len(seeds) - 1 not in T_975:
        parser.error(f"expected 2 to {len(T_975) + 1} seeds, for an interval")
    tried = {kind: {peak: statistics.mean(loss_of(kind, seeds[0], peak).values()) for peak in peaks} for kind in KINDS}
    runs = {seed: {kind: loss_of(kind, seed, best(tried[kind])) for kind in KINDS} for seed in seeds}
    shapes = {kind: shape(recipe_of(kind)) for kind in KINDS}
    found = {"steps": recipe_of("sparse").steps, "peaks": tried, "shapes": shapes} | decided(runs)
    card = HERE.parent / "weights/README.md"
    text = page.between(card.read_text(encoding="utf-8"), section(found), "sparse beside dense")
    for path, content in {HERE / "compare.json": json.dumps(found, indent=1) + "\n", card: text}.items():
        with replacing(path, LARGEST, force=True) as temporary:
            temporary.write_text(content, encoding="utf-8")
    print(f"{found['answer']}: dense less sparse {found['difference']:.4f} ± {found['half_width']:.4f} nats a word")


if __name__ == "__main__":
    main()
