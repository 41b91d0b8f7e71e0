"""An argument's name is enough to draw it: `x_td` is a random (T, D). Hypothesis draws sizes and a seed, never floats."""

import inspect

import numpy as np
from hypothesis import strategies as st

from switchnp import equations as eq
from switchnp.equations.capacity import CAPACITIES

sizes = st.integers(1, 9)
seeds = st.integers(0, 2**32 - 1)


def arguments(function, size, seed, dtype=np.float64):
    """A value for every parameter of an equation, in order; axes of one letter have one length, at most `size`."""
    rng = np.random.default_rng(seed)
    lengths = {axis: int(rng.integers(1, size + 1)) for axis in "tsdhkfecvrn"} | {"1": 1}
    known = {
        "E": lengths["e"],
        "C": lengths["c"],
        "T": lengths["t"],
        "R": int(rng.choice([4, 8, 20, 32])),
        "max_distance": int(rng.integers(17, 200)),
        "bidirectional": bool(rng.integers(2)),
        "causal": bool(rng.integers(2)),
        "eps": 1e-6,
        "factor": float(rng.choice([0.5, 1.0, 1.25, 2.0])),
        "rule": str(rng.choice(list(CAPACITIES))),
        "minimum": int(rng.integers(0, 5)),
        "activation": [eq.relu, eq.gelu, eq.gelu_tanh, eq.silu][rng.integers(4)],
        "dtype": dtype,
    }
    drawn = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if name in known:
            drawn[name] = known[name]
        elif parameter.default is None and rng.integers(2):
            drawn[name] = None
        else:
            drawn[name] = array(name, lengths, rng, dtype, drawn)
    return drawn


def array(name, lengths, rng, dtype=np.float64, drawn=None):
    """The array that a name promises, with axes of these lengths."""
    stem, axes = name.rsplit("_", 1)
    shape = tuple(lengths[axis] for axis in axes)
    if stem in WHOLE:
        return WHOLE[stem](rng, shape, lengths, drawn or {})
    values = rng.normal(size=shape)
    if stem in ("p", "look"):
        values = eq.softmax(values)
    if stem == "gate":
        values = rng.uniform(size=shape)
    return values.astype(dtype)


def slope(scalar, at, step=1e-5):
    """Central differences of a scalar function, one entry at a time."""
    difference = np.empty_like(at)
    for entry in np.ndindex(at.shape):
        nudge = np.zeros_like(at)
        nudge[entry] = step
        difference[entry] = (scalar(at + nudge) - scalar(at - nudge)) / (2 * step)
    return difference


def _slots(rng, shape, lengths, drawn):
    if "expert_t" not in drawn:
        return rng.integers(-1, lengths["c"], size=shape)
    return eq.slots(drawn["expert_t"], lengths["e"], lengths["c"])


WHOLE = {
    "expert": lambda rng, shape, lengths, drawn: rng.integers(lengths["e"], size=shape),
    "slot": _slots,
    "asks": lambda rng, shape, lengths, drawn: rng.integers(4, size=shape) > 0,
    "order": lambda rng, shape, lengths, drawn: rng.permutation(shape[0]),
    "ids": lambda rng, shape, lengths, drawn: rng.integers(lengths["v"], size=shape),
    "target": lambda rng, shape, lengths, drawn: rng.integers(lengths["v"], size=shape),
    "bucket": lambda rng, shape, lengths, drawn: rng.integers(lengths["r"], size=shape),
    "distance": lambda rng, shape, lengths, drawn: rng.integers(-300, 300, size=shape),
    "position": lambda rng, shape, lengths, drawn: np.sort(rng.integers(300, size=shape)),
    "mask": lambda rng, shape, lengths, drawn: rng.integers(2, size=shape).astype(bool),
    "see": lambda rng, shape, lengths, drawn: rng.integers(2, size=shape).astype(bool),
}
