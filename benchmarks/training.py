"""A whole training step (forward, backward, clipping, AdamW) beside transformers and torch: the same model, the same batches.

    .venv/bin/python benchmarks/training.py --python PYTHON_WITH_TORCH     # writes benchmarks/training.json, prints ratios

The model is that of recipes/tiny.toml, or of another recipe, with first values. Contenders are processes that take turns, batch
after batch, each on all threads; times are medians over rounds, ratios are of one run. transformers pads each batch to a
rectangle, as it must, and so does switchnp under the routing "huggingface", which routes padding; under the recipe's own
routing a row has none. switchnp learns the two halves of a batch side by side and adds their gradients up (`accumulate = 2`);
its process keeps what a step freed for the next, as that of `switchnp train` does. Memory is a process's peak less what its
libraries take: weights, gradients, moments, and what is on the way.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
RATE, CLIP = 1e-3, 1.0
SORTED = 64
"""So many batches are sorted by length together, which is kind to who pads."""
PINS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
"""Where a machine has set these, NumPy would multiply as on an older processor than there is."""


def main():
    """Race, print, write."""
    options = arguments()
    if options.worker:
        return work(options)
    with tempfile.TemporaryDirectory() as room:
        prepare(Path(room), options)
        lineup = {"transformers": options.python, "switchnp": sys.executable, "switchnp huggingface": sys.executable}
        contenders = {name: started(name, python, room, options) for name, python in lineup.items()}
        times = {name: [] for name in contenders}
        for number in range(options.warmup + options.rounds):
            for name in list(contenders)[number % 3 :] + list(contenders)[: number % 3]:
                seconds = asked(contenders[name], number % options.batches)
                if number >= options.warmup:
                    times[name].append(seconds)
        memory = {name: asked(process, -1) for name, process in contenders.items()}
    report(times, memory, options)
    return 0


def prepare(room, options):
    """The model as our file and as theirs, and the batches."""
    from switchnp import SwitchTransformer
    from switchnp.benchmark.export import write_folder
    from switchnp.routing import Routing
    from switchnp.training.kitchen import born, trainer_of
    from switchnp.training.recipe import read_recipe

    recipe = read_recipe(options.recipe)
    recipe = recipe._replace(data=replace(recipe.data, tokens=options.tokens, bucket=SORTED))
    model = born(recipe)
    trainer = trainer_of(recipe, model)
    model.save(room / "switchnp.h5")
    theirs = SwitchTransformer(model.config, model.params, Routing.huggingface(), model.tokenizer, engine="kernels")
    theirs.save(room / "switchnp huggingface.h5")
    write_folder(room / "transformers", model.config, model.params, "float32")
    batches = [next(trainer.batches) for _ in range(options.batches)]
    (room / "batches.json").write_text(json.dumps([[batch.inputs, batch.targets] for batch in batches]))


def started(name, python, room, options):
    """A contender that waits for its turn."""
    command = [python, str(Path(__file__)), "--worker", name, "--room", str(room)]
    environment = {key: value for key, value in os.environ.items() if key not in PINS}
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)


def asked(process, number):
    """What a contender says to a number: the seconds of a step, or with -1 its memory."""
    process.stdin.write(f"{number}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def work(options):
    """Be a contender."""
    batches = json.loads(Path(options.room, "batches.json").read_text())
    step, before = (theirs if options.worker == "transformers" else ours)(options)
    for line in sys.stdin:
        if int(line) < 0:
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6 - before, flush=True)
            return 0
        began = time.perf_counter()
        step(*batches[int(line)])
        print(time.perf_counter() - began, flush=True)
    return 0


def ours(options):
    """One step of switchnp."""
    import switchnp
    from switchnp.optimizers import AdamW
    from switchnp.schedules import Schedule
    from switchnp.training.heap import keep_what_is_freed
    from switchnp.training.recipe import TrainingPart
    from switchnp.training.trainer import Trainer, learner

    keep_what_is_freed()
    before = resident()
    model = learner(switchnp.load(Path(options.room, f"{options.worker}.h5"), engine="kernels"))
    waiting = []
    part = TrainingPart(clip=CLIP, accumulate=2)
    trainer = Trainer(model, iter(waiting.pop, None), AdamW(model.params), Schedule(peak=RATE), part)

    def step(inputs, targets):
        for half in (0, 1):
            waiting.append(argparse.Namespace(inputs=inputs[half::2], targets=targets[half::2]))
        trainer.take()

    return step, before


def theirs(options):
    """One step of transformers and torch."""
    import torch
    from transformers import SwitchTransformersForConditionalGeneration

    before = resident()
    folder = Path(options.room, "transformers")
    model = SwitchTransformersForConditionalGeneration.from_pretrained(folder, dropout_rate=0.0)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)

    def step(inputs, targets):
        ids, mask = padded(torch, inputs, 0)
        labels, _ = padded(torch, targets, -100)
        optimizer.zero_grad()
        out = model(input_ids=ids, attention_mask=mask, labels=labels, output_router_logits=True)
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()

    return step, before


def resident():
    """The megabytes that this process has in memory, with its libraries and nothing else."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def padded(torch, rows, filler):
    """A rectangle and its mask."""
    width = max(map(len, rows))
    array = torch.tensor([row + [filler] * (width - len(row)) for row in rows])
    return array, torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])


def report(times, memory, options):
    """Medians, quartiles and ratios, on the screen and in a file."""
    rows = {}
    for name, seconds in times.items():
        low, middle, high = statistics.quantiles(seconds, n=4)
        rows[name] = {"ms": 1e3 * middle, "quartiles": [1e3 * low, 1e3 * high], "memory_mb": memory[name]}
    for name, row in rows.items():
        row["ratio"] = row["ms"] / rows["transformers"]["ms"]
        span = "{:.0f} to {:.0f}".format(*row["quartiles"])
        print(f"{name:<22} {row['ms']:7.1f} ms ({span})   {row['ratio']:.2f} of transformers   {row['memory_mb']:6.0f} MB")
    recipe = os.path.relpath(options.recipe, HERE.parent)
    facts = {
        "recipe": recipe,
        "tokens": options.tokens,
        "processors": os.cpu_count(),
        "rounds": options.rounds,
        "contenders": rows,
    }
    Path(options.json).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def arguments():
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--recipe", default=str(HERE.parent / "recipes/tiny.toml"))
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has torch and transformers")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--warmup", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=3000, help="ids a batch, inputs and targets")
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--json", default=str(HERE / "training.json"))
    parser.add_argument("--worker")
    parser.add_argument("--room")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
