"""Switch Transformers in NumPy, Numba and HDF5.

    model = switchnp.load("weights/switch-numbers.h5")
    model.generate("say in French: 1984")

The paper's equations are in `switchnp.equations`.
"""

from .config import Config, Routing
from .conversion import convert
from .errors import SwitchError
from .model import SwitchTransformer, load
from .tree import Tree

__version__ = "0.1.0"
__all__ = ["Config", "Routing", "SwitchError", "SwitchTransformer", "Tree", "convert", "load"]
