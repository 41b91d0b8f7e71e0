"""A model of switch-base-8's true shape, with random weights, from a Hugging Face folder to eight tokens.

    .venv/bin/python benchmarks/base8.py [--folder DIR] [--dtype bfloat16]

Writes the folder (bfloat16, 1.2 GB), converts it, loads the file and generates, each in a process of its own, and
prints the time and the peak of memory of each.
"""

import argparse
import json
import resource
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ml_dtypes
import numpy as np

from switchnp import Config
from switchnp.conversion.renames import tensor_shapes

CONFIG = Config.preset("switch-base-8")


def write(folder):
    """A Hugging Face folder of random weights, written tensor by tensor."""
    shapes = tensor_shapes(CONFIG)
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    rng = np.random.default_rng(8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        for name, shape in shapes.items():
            scale = 1.0 if "norm" in name else 0.05
            file.write((scale * rng.standard_normal(shape, np.float32)).astype(ml_dtypes.bfloat16).tobytes())
    settings = {"d_ff": 3072, "num_experts": 8, "num_sparse_encoder_layers": 6, "num_sparse_decoder_layers": 6}
    (folder / "config.json").write_text(json.dumps(settings | {"decoder_start_token_id": 0}))


def convert(folder, dtype):
    """The folder becomes one HDF5 file."""
    import switchnp

    switchnp.convert(folder, folder / "base8.h5", dtype=dtype, force=True)


def generate(folder):
    """Load the file and say eight tokens."""
    import switchnp

    start = time.perf_counter()
    model = switchnp.load(folder / "base8.h5")
    loaded = time.perf_counter()
    ids = np.random.default_rng(0).integers(3, 32000, (1, 128))
    answer = model.generate(ids, max_new_tokens=8)
    done = time.perf_counter()
    print(f"load {loaded - start:.1f} s, then 128 tokens in and {answer.shape[1] - 1} out in {done - loaded:.1f} s", end="; ")


def step(name, options):
    """Run one step in a process of its own; its time and its peak of memory are printed there."""
    command = [sys.executable, __file__, "--step", name, "--folder", str(options.folder), "--dtype", options.dtype]
    subprocess.run(command, check=True)


def main():
    """All steps, or the one that this process is for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--step", choices=("write", "convert", "generate"))
    options = parser.parse_args()
    if options.step is None:
        with tempfile.TemporaryDirectory() as temporary:
            options.folder = options.folder or Path(temporary)
            for name in ("write", "convert", "generate"):
                step(name, options)
        return
    start = time.perf_counter()
    arguments = {"write": (), "convert": (options.dtype,), "generate": ()}[options.step]
    {"write": write, "convert": convert, "generate": generate}[options.step](options.folder, *arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(f"{options.step}: {time.perf_counter() - start:.1f} s, peak {peak:.2f} GB", flush=True)


if __name__ == "__main__":
    main()
