"""Room for what is on the way through a layer: taken once and used again, for untouched memory costs more than a product."""

import threading
from math import prod

import numpy as np

from .operands import room_for

__all__ = ["operand_room", "room"]

_ROOMS = threading.local()


def room(name, *shape):
    """An array of float32 with whatever numbers; the next of this name in this thread takes its place."""
    return _bytes(name, 4 * prod(shape)).view(np.float32)[: prod(shape)].reshape(shape)


def operand_room(T, K):
    """The address of bytes enough for an Operand of T inputs of up to K numbers."""
    return _bytes("operand", room_for(T, K)).ctypes.data


def _bytes(name, count):
    rooms = vars(_ROOMS)
    if name not in rooms or len(rooms[name]) < count:
        rooms[name] = np.empty((count + 63) // 64 * 64, np.uint8)
    return rooms[name]
