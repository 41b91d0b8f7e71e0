"""Inference alone, fused: the same answers as the equations, as fast as the processor and its memory allow.

This package has the names of `equations` that a Switch layer asks for, on matrices that lie packed (`matrices`); attention and
dense layers are `passes`, one word after another is `step`.
"""

from ..kernels import *
from ..kernels import __all__ as _names
from .mixing import *

__all__ = list(_names)
