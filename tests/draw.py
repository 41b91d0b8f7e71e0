"""An argument's name is enough to draw it: `x_td` is a random (T, D). Hypothesis draws sizes and a seed, never floats."""

import inspect

import numpy as np
from hypothesis import strategies as st

from switchnp import equations as eq
from switchnp.equations.capacity import CAPACITIES

sizes = st.integers(1, 9)
seeds = st.integers(0, 2**32 - 1)


def arguments(function, size, seed, dtype=np.float64):
    """A value for every parameter of an equation, in order; axes of one letter have one length, at most `size`.

    Those of a gradient are one of the answer, the answer, and the equation's own.
    """
    if function.__name__.endswith("_vjp"):
        return _arguments_of_a_gradient(function, size, seed, dtype)
    rng = np.random.default_rng(seed)
    lengths = {axis: int(rng.integers(1, size + 1)) for axis in "tsdhkfecvrng"} | {"1": 1}
    lengths["n"], lengths["g"] = min(lengths["n"], lengths["e"]), min(lengths["g"], lengths["t"])
    known = {
        "E": lengths["e"],
        "C": lengths["c"],
        "G": lengths["g"],
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
        "rate": 0.25,
        "temperature": 1.0,
        "threshold": 0.2,
        "smoothing": float(rng.choice([0.0, 0.1])),
        "share": 0.25,
        "rng": np.random.default_rng(seed),
    }
    known |= _sentences(lengths, rng, dtype) if "biases" in inspect.signature(function).parameters else {}
    drawn = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if name in known:
            drawn[name] = known[name]
        elif parameter.default is None and rng.integers(2):
            drawn[name] = None
        else:
            drawn[name] = array(name, lengths, rng, dtype, drawn)
    return drawn


def floats(value):
    """The float arrays among arguments or gradients, in order; dropout's are constants and do not count."""
    named = value.items() if isinstance(value, dict) else enumerate(value)
    for name, each in named:
        if isinstance(each, (list, tuple)) and name != "keeps":
            yield from floats(each)
        elif getattr(each, "dtype", None) in (np.float32, np.float64) and not str(name).startswith("keep"):
            yield each


def flat(answer):
    """Every array of an answer, which may be a tuple with lists in it; what is None is left out."""
    if not isinstance(answer, (list, tuple)):
        return [] if answer is None else [answer]
    return [array for each in answer for array in flat(each)]


def _arguments_of_a_gradient(function, size, seed, dtype):
    equation = getattr(eq, function.__name__.removesuffix("_vjp"))
    drawn = arguments(equation, size, seed, dtype)
    answer = equation(**drawn)
    upstream = np.asarray(np.random.default_rng([seed, 1]).normal(size=np.shape(answer)), dtype)
    upstream = np.where(np.abs(answer) < 1e30, upstream, dtype(0))
    first, second = list(inspect.signature(function).parameters)[:2]
    return {first: upstream if upstream.ndim else dtype(upstream), second: answer, **drawn}


def _sentences(lengths, rng, dtype):
    """Sentences of their own lengths, as attention within them takes them."""
    t, (H, K) = [int(n) for n in rng.integers(1, 6, size=3)], (lengths["h"], lengths["k"])
    s = t if rng.integers(2) else [int(n) for n in rng.integers(1, 6, size=3)]
    heads = H if rng.integers(2) else 1
    keeps = [rng.choice([0, 1.25], size=(H, T, S)).astype(dtype) for T, S in zip(t, s, strict=True)]
    return {
        "q_thk": rng.normal(size=(sum(t), H, K)).astype(dtype),
        "k_shk": rng.normal(size=(sum(s), H, K)).astype(dtype),
        "v_shk": rng.normal(size=(sum(s), H, K)).astype(dtype),
        "biases": [rng.normal(size=(heads, T, S)).astype(dtype) for T, S in zip(t, s, strict=True)],
        "keeps": keeps if rng.integers(2) else None,
    }


def array(name, lengths, rng, dtype=np.float64, drawn=None):
    """The array that a name promises, with axes of these lengths."""
    stem, axes = name.rsplit("_", 1)
    shape = tuple(lengths[axis] for axis in axes)
    if stem in WHOLE and name != "target_tv":
        return WHOLE[stem](rng, shape, lengths, drawn or {})
    values = rng.normal(size=shape)
    if stem in ("p", "look"):
        values = eq.softmax(values)
    if stem == "gate":
        values = rng.uniform(size=shape)
    if stem == "keep":
        values = rng.choice([0, 1.25], size=shape)
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


def _targets(rng, shape, lengths, drawn):
    """Words, some of which are not to be predicted, but the first is."""
    target_t = np.where(rng.integers(5, size=shape) > 0, rng.integers(lengths["v"], size=shape), -100)
    target_t[0] = rng.integers(lengths["v"])
    return target_t


def _groups(rng, shape, lengths, drawn):
    """Every group has a token; some tokens are of none."""
    group_t = rng.integers(-1, lengths["g"], size=shape)
    group_t[: lengths["g"]] = np.arange(lengths["g"])
    return rng.permutation(group_t)


def _experts(rng, shape, lengths, drawn):
    """Any expert for each token, and no expert twice where a token has several."""
    if len(shape) == 1:
        return rng.integers(lengths["e"], size=shape)
    return np.argsort(rng.uniform(size=(shape[0], lengths["e"])), axis=1)[:, : shape[1]]


WHOLE = {
    "group": _groups,
    "expert": _experts,
    "slot": _slots,
    "asks": lambda rng, shape, lengths, drawn: rng.integers(4, size=shape) > 0,
    "order": lambda rng, shape, lengths, drawn: rng.permutation(shape[0]),
    "ids": lambda rng, shape, lengths, drawn: rng.integers(lengths["v"], size=shape),
    "target": _targets,
    "bucket": lambda rng, shape, lengths, drawn: rng.integers(lengths["r"], size=shape),
    "distance": lambda rng, shape, lengths, drawn: rng.integers(-300, 300, size=shape),
    "position": lambda rng, shape, lengths, drawn: np.sort(rng.integers(300, size=shape)),
    "mask": lambda rng, shape, lengths, drawn: rng.integers(2, size=shape).astype(bool),
    "see": lambda rng, shape, lengths, drawn: rng.integers(2, size=shape).astype(bool),
}
