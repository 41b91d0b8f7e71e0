"""A simulator of bfloat16: float32 arrays that are rounded, to nearest even, after every operation.

The equations run on them as they are. Sums inside one operation run in float32, as the units of accelerators do. Where an
einsum asks for float32, as the router's does (`equations.router_logits`), a `Selective` array lets it have that: the paper's
selective precision is that one line. A `Bfloat16` array does not. Elementwise, either does: a norm's squares are in float32, as
T5 has them, and the router's jitter is drawn in float32.

Source: Switch, §2.4 and table 2.
"""

import ml_dtypes
import numpy as np

__all__ = ["Bfloat16", "Selective", "rounded", "simulated"]

_LARGEST = np.float32(ml_dtypes.finfo(ml_dtypes.bfloat16).max)


class Bfloat16(np.ndarray):
    """float32 storage whose numbers are all bfloat16's; a plain array that meets one is rounded first."""

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        """One operation, and its rounding."""
        if out is not None:
            options["out"] = tuple(_plain(array) for array in out)
        wants_float32 = options.get("dtype") == np.float32
        inputs = [_plain(it if wants_float32 else rounded(it)) for it in inputs]
        result = getattr(ufunc, method)(*inputs, **options)
        if out is not None:
            out[0][...] = rounded(out[0])
            return out[0]
        return result if wants_float32 else _like(type(self), result)

    def __array_function__(self, function, types, arguments, options):
        """One operation, and its rounding; with `dtype=float32` a Selective one is not rounded."""
        if self.escapes and options.get("dtype") == np.float32:
            return function(*_mapped(_plain, arguments), **options)
        result = function(*_mapped(lambda it: _plain(rounded(it)), arguments), **_mapped(_plain, options))
        return _like(type(self), result)

    escapes = False


class Selective(Bfloat16):
    """The same, but what asks for float32 gets it."""

    escapes = True


def rounded(values):
    """Floats to the nearest bfloat16, ties to even, in float32; what is finite stays finite. Anything else as it is."""
    if isinstance(values, float) or getattr(values, "dtype", None) in (np.float32, np.float64):
        with np.errstate(over="ignore"):
            near = np.asarray(values).astype(ml_dtypes.bfloat16).astype(np.float32)
        overflown = np.isinf(near) & np.isfinite(np.asarray(values))
        return np.where(overflown, np.copysign(_LARGEST, near), near)
    return values


def simulated(params, precision):
    """Weights for a pass in "bfloat16" or "selective" precision; the latter keeps the router's in float32."""
    kind = {"bfloat16": Bfloat16, "selective": Selective}[precision]
    leaves = dict(params.leaves())
    router = [path for path in leaves if path.endswith(("/wr_de", "/br_e")) and precision == "selective"]
    return type(params).of({path: leaf if path in router else rounded(leaf).view(kind) for path, leaf in leaves.items()})


def _plain(values):
    return values.view(np.ndarray) if isinstance(values, Bfloat16) else values


def _like(kind, result):
    floating = isinstance(result, (np.ndarray, np.floating)) and np.asarray(result).dtype in (np.float32, np.float64)
    return np.asarray(rounded(result)).view(kind) if floating else _plain(result)


def _mapped(function, values):
    if isinstance(values, dict):
        return {name: function(value) for name, value in values.items()}
    nested = (tuple, list)
    return tuple(type(value)(map(function, value)) if isinstance(value, nested) else function(value) for value in values)
