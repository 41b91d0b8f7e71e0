"""Room for what is on the way through a layer: taken once and used again, for untouched memory costs more than a product."""

import threading
from contextlib import contextmanager
from math import prod

import numpy as np

from .operands import room_for

__all__ = ["operand_room", "own_rooms", "room"]

_THREAD = threading.local()


@contextmanager
def own_rooms():
    """Rooms for what runs inside, a part of a pass, and for nothing else: not for what a signal's handler asks meanwhile."""
    mine = vars(_THREAD)
    spare = mine.setdefault("spare", [])
    outer, mine["rooms"] = mine.get("rooms"), spare.pop() if spare else {}
    try:
        yield
    finally:
        spare.append(mine["rooms"])
        mine["rooms"] = outer


def room(name, *shape):
    """An array of float32 with whatever numbers; the next of this name in these rooms takes its place."""
    return _bytes(name, 4 * prod(shape)).view(np.float32)[: prod(shape)].reshape(shape)


def operand_room(T, K):
    """The address of bytes enough for an Operand of T inputs of up to K numbers."""
    return _bytes("operand", room_for(T, K)).ctypes.data


def _bytes(name, count):
    rooms = _THREAD.rooms
    if name not in rooms or len(rooms[name]) < count:
        rooms[name] = np.empty((count + 63) // 64 * 64, np.uint8)
    return rooms[name]
