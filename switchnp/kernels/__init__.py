"""The same names as `switchnp.equations`, fast. What is not replaced here is the equation itself.

GEMMs are NumPy's, outside compiled code; Numba has the loops. Every kernel's oracle is the equation of its name.
"""

from ..equations import *
from ..equations import __all__ as _names
from .attention import *
from .capacity import *
from .embedding import *
from .experts import *
from .feedforward import *
from .losses import *
from .norm import *
from .position import *
from .queues import *
from .routing import *

__all__ = list(_names)
