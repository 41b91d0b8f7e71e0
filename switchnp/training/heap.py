"""What a step frees, kept for the next one."""

import ctypes
from contextlib import suppress

__all__ = ["keep_what_is_freed"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names of malloc.h."""
LARGEST = 32 << 20
"""Arrays of more bytes are given back all the same: glibc takes no higher threshold."""


def keep_what_is_freed() -> None:
    """For the rest of this process, memory that was freed is not given back to the system, which would have to clear it again.

    Every step needs the same arrays as the one before. Where the C library is not glibc, nothing happens.

    Source: mallopt(3).
    """
    with suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, LARGEST)
        mallopt(M_TRIM_THRESHOLD, 1 << 30)
