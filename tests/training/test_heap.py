"""What a step frees, kept for the next one."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, numpy as np
from switchnp.training.heap import keep_what_is_freed
if sys.argv[1] == "kept":
    keep_what_is_freed()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        arrays = [np.ones(1 << 18) for _ in range(16)]
        del arrays
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_memory_that_was_freed_is_not_asked_of_the_system_again():
    freed, kept = (
        int(subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True).stdout)
        for how in ("freed", "kept")
    )
    assert kept < freed / 10
