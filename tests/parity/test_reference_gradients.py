"""Gradients that transformers and flaxformer computed of whole models, every one of them.

Tolerances, of the largest gradient of each array: 1e-5 for transformers in float32, 1e-7 for its float64 (where its router losses
are in float32, and the expected values are stored so here), 1e-4 for flaxformer, as the fixtures' README has it.
"""

import numpy as np
import pytest
from references import converted, huggingface_case, inputs, reference, shared
from safetensors.numpy import save_file
from test_flaxformer import KINDS, flaxformer, from_t5x, given, loaded, sparse_blocks

from switchnp import Routing


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("engine", ["equations", "kernels"])
def test_every_gradient_is_that_of_transformers(engine, dtype, tmp_path):
    folder, (arrays, _) = huggingface_case("p07_gradients"), reference("p07_gradients")
    prefix = "f64/" if dtype == "float64" else ""
    model = converted(folder, engine=engine, dtype=dtype)
    expected = as_our_tree(folder, arrays, f"{prefix}grad/", tmp_path)

    loss, grads = model.loss_and_grads(**inputs(arrays), rng=np.random.default_rng(0))

    assert loss == pytest.approx(float(arrays[f"{prefix}train_loss_total"]), abs=1e-5 if dtype == "float32" else 1e-7)
    assert_same_gradients(grads, expected, 1e-5 if dtype == "float32" else 1e-7)


@pytest.mark.parametrize("engine", ["equations", "kernels"])
@pytest.mark.parametrize("name", [*KINDS])
def test_every_gradient_is_that_of_flaxformer(name, engine):
    arrays, (_, settings) = dict(np.load(shared(f"fixtures/flaxformer/model_{name}.npz"))), flaxformer(name)
    model, _ = loaded(name, engine=engine)
    named = {key.replace("grad/", "param/", 1): array for key, array in arrays.items() if key.startswith("grad/target/")}
    _, expected = from_t5x(named, settings, sparse_blocks(arrays), **KINDS[name])

    loss, grads = model.loss_and_grads(**given(arrays), rng=np.random.default_rng(0))

    assert loss == pytest.approx(float(arrays["loss_train"]), abs=1e-5)
    assert_same_gradients(grads, expected, 1e-4)


def as_our_tree(folder, arrays, prefix, tmp_path):
    """Gradients by transformers' names as a checkpoint that is converted like any other."""
    named = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    save_file({name: np.ascontiguousarray(array, np.float32) for name, array in named.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    return converted(tmp_path, Routing.huggingface()).params


def assert_same_gradients(grads, expected, tolerance):
    ours, theirs = dict(grads.leaves()), dict(expected.leaves())
    assert [*ours] == [*theirs]
    for path, gradient in theirs.items():
        largest = np.abs(gradient).max()
        np.testing.assert_allclose(ours[path], gradient, rtol=0, atol=tolerance * largest + 1e-9, err_msg=path)
