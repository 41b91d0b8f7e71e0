"""A checkpoint of the small model as the file that is shipped: fewer bits, and where it came from.

    .venv/bin/python recipes/export.py runs/tiny/step-00020000/model.h5 weights/switch-tiny.h5 --dtype bfloat16

Only a checkpoint that is as the run wrote it is taken, and only with --force is a file overwritten.
"""

import argparse
import sys
from pathlib import Path

import packages

import switchnp
from switchnp.errors import SwitchError
from switchnp.search import GenerationConfig
from switchnp.training.checkpoints import Checkpoint

WORDS = 64
LICENCE = "Apache-2.0; notices of the data: recipes/NOTICE"


def provenance(state):
    """What the header says besides the recipe's name, from the state that lies beside a checkpoint's model."""
    data = {}
    for package in packages.PACKAGES:
        data.setdefault(f"data ({package.kind})", []).append(f"{package.name} {package.version}")
    made = {"seed": str(state["recipe"]["seed"]), "steps": str(state["step"]), "trained with": f"switchnp {switchnp.__version__}"}
    return made | {kind: ", ".join(names) for kind, names in data.items()} | {"licence": LICENCE}


def main(argv=None):
    """Write the file, whole or not at all."""
    parser = argparse.ArgumentParser(description="Export a checkpoint of the small model.")
    parser.add_argument("checkpoint", type=Path, help="the model.h5 in a run's folder of a step")
    parser.add_argument("target", type=Path, help="the file to write")
    parser.add_argument("--dtype", default="bfloat16", help="float32, bfloat16 or int8 (bfloat16)")
    parser.add_argument("--force", action="store_true", help="overwrite the target")
    given = parser.parse_args(argv)
    try:
        state = Checkpoint(given.checkpoint.parent, 0).state()
        model = switchnp.load(given.checkpoint, engine="kernels")
        model.provenance |= provenance(state)
        model.generation = GenerationConfig(max_new_tokens=WORDS)
        given.target.parent.mkdir(parents=True, exist_ok=True)
        model.save(given.target, given.dtype, given.force)
    except (SwitchError, OSError) as error:
        sys.exit(f"export: {error}")


if __name__ == "__main__":
    main()
