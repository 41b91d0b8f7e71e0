"""Switch Transformers in NumPy, Numba and HDF5.

    model = switchnp.load("weights/switch-numbers.h5")
    model.generate("say in French: 1984")

The paper's equations are in `switchnp.equations`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import equations
    from .config import Config
    from .conversion import convert
    from .errors import SwitchError
    from .loading import load
    from .model import SwitchTransformer
    from .routing import Routing
    from .search import GenerationConfig
    from .training.notebook import train
    from .tree import Tree

__version__ = "0.1.0"
__all__ = [
    "Config",
    "GenerationConfig",
    "Routing",
    "SwitchError",
    "SwitchTransformer",
    "Tree",
    "convert",
    "equations",
    "load",
    "train",
]

_HOMES = {
    "Config": "config",
    "GenerationConfig": "search",
    "Routing": "routing",
    "SwitchError": "errors",
    "SwitchTransformer": "model",
    "Tree": "tree",
    "convert": "conversion",
    "load": "loading",
    "train": "training.notebook",
}
_ROOMS = {
    *("arguments", "bfloat16", "catalogue", "comparison", "config", "conformance", "conversion", "cost", "engine", "equations"),
    *("errors", "evaluation", "fidelity", "files", "generation", "hdf5", "infilling", "journal", "kernels", "layers", "loading"),
    *("memory", "model", "narrowing", "network", "objective", "optimizers", "padding", "params", "pieces", "quantization"),
    *("records", "routers", "routing", "schedules", "search", "setups", "speech", "strictjson", "tokenizer", "tree", "voices"),
    "weights",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first asked for, so that the command line answers at once."""
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    if name in _ROOMS:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
