"""Where values that other programs computed are found: small ones in tests/parity, the larger ones in ../shared."""

import json
import pathlib

import numpy as np
import pytest

from switchnp import Routing, SwitchTransformer, Tree
from switchnp.conversion import huggingface

TESTS = pathlib.Path(__file__).resolve().parent
ROOT = TESTS.parent
SHARED = ROOT.parent / "shared"
HUGGINGFACE = [
    "p01_basic",
    "p02_overflow",
    "p03_allsparse_untied",
    "p04_long",
    "p05_bias_masks",
    "p06_asymmetric",
    "p07_gradients",
    "p08_formats",
]
LEGACY = ["p02_overflow", "p04_long", "p05_bias_masks", "p06_asymmetric", "p07_gradients"]


def shared(path):
    """A path in ../shared, or a skip that says it is missing."""
    if not (SHARED / path).exists():
        pytest.skip(f"../shared/{path} is not there (developers and CI have it)")
    return SHARED / path


def huggingface_case(name):
    """The folder of one reference case."""
    here = TESTS / "parity/huggingface" / name
    return here if here.exists() else shared(f"fixtures/huggingface/{name}")


def reference(name, file="reference.npz"):
    """A case's arrays by name, and its meta.json."""
    folder = huggingface_case(name)
    return dict(np.load(folder / file)), json.loads((folder / "meta.json").read_text())


def converted(folder, routing=None, engine="kernels", dtype="float32"):
    """The model in a Hugging Face folder, without the way over a file."""
    plan = huggingface.plan(folder)
    pieces = {path: list(parts) for path, parts in huggingface.arrays(plan)}
    params = Tree.of({path: np.ascontiguousarray(np.concatenate(parts).astype(dtype)) for path, parts in pieces.items()})
    return SwitchTransformer(plan.config, params, routing or Routing.huggingface(), engine=engine)


def inputs(arrays):
    """The keyword arguments of a reference's forward pass."""
    return {key.removeprefix("inputs/"): value for key, value in arrays.items() if key.startswith("inputs/")}
