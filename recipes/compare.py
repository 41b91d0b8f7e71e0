"""Is a sparse model better than a dense one of the same operations a token? The same batches, several seeds, the honest answer.

    .venv/bin/python recipes/compare.py [--seeds 1,2,3] [--peaks 1e-3,2e-3,4e-3]    # writes recipes/compare.json

Decided before the first run: the measure is the mean loss over the ten domains' held-out gaps, in nats a word, at the last
step. YES if the dense model's loss less the sparse one's, paired by seed, is above 0 with a 95 % interval (t) that leaves 0
out; NO if it is below with such an interval; otherwise UNDECIDED. The dense model gets the best of the learning rates
--peaks, tried with the first seed; the sparse one takes the recipe's. Runs that are done already are read, not repeated.
"""

import argparse
import json
import math
import statistics
from dataclasses import replace
from pathlib import Path

from switchnp.training.recipe import read_recipe
from switchnp.training.run import carry_out

HERE = Path(__file__).resolve().parent
T_975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""Student's t at 97.5 % by degrees of freedom."""


def loss_of(kind, seed, peak=None):
    """{domain: loss at the last step} of a run, which is carried out if it was not."""
    recipe = read_recipe(HERE / f"fill-{kind}.toml")
    peak = peak or recipe.schedule.peak
    run = recipe.run.parent / f"fill-{kind}-{seed}-{peak:g}"
    recipe = recipe._replace(seed=seed, run=run, schedule=replace(recipe.schedule, peak=peak))
    metrics = run / "metrics.jsonl"
    if not metrics.exists() or last(metrics)["step"] < recipe.steps or "evaluation" not in last(metrics):
        carry_out(recipe, resume=True)
    return {domain: score["loss"] for domain, score in last(metrics)["evaluation"].items()}


def last(metrics):
    """The last line of a run."""
    return json.loads(metrics.read_text().splitlines()[-1])


def interval(differences):
    """The mean, and half the width of its 95 % interval."""
    count = len(differences)
    return statistics.mean(differences), T_975[count - 1] * statistics.stdev(differences) / math.sqrt(count)


def main():
    """Run what is missing, decide, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--peaks", default="1e-3,2e-3,4e-3")
    parser.add_argument("--json", type=Path, default=HERE / "compare.json")
    options = parser.parse_args()
    seeds, peaks = [int(seed) for seed in options.seeds.split(",")], [float(peak) for peak in options.peaks.split(",")]
    tried = {peak: statistics.mean(loss_of("dense", seeds[0], peak).values()) for peak in peaks}
    best = min(tried, key=tried.get)
    runs = {seed: {"dense": loss_of("dense", seed, best), "sparse": loss_of("sparse", seed)} for seed in seeds}
    means = {seed: {kind: statistics.mean(losses.values()) for kind, losses in both.items()} for seed, both in runs.items()}
    mean, half = interval([each["dense"] - each["sparse"] for each in means.values()])
    answer = "YES" if mean - half > 0 else "NO" if mean + half < 0 else "UNDECIDED"
    facts = {"dense_peaks": tried, "dense_peak": best, "means": means, "difference": mean, "half_width": half, "answer": answer}
    options.json.write_text(json.dumps(facts | {"domains": runs}, indent=1) + "\n", encoding="utf-8")
    print(f"{answer}: dense less sparse {mean:.4f} ± {half:.4f} nats a word over {len(seeds)} seeds; dense at a peak of {best:g}")


if __name__ == "__main__":
    main()
