"""Voices that are kept, dropped and doubled remember what their line has said, layer by layer."""

import ctypes

import numpy as np
import pytest

from switchnp.engine.words import MOMENTS, Words

BLOCKS, N = 2, 3


def _at(memory, block, b, t):
    """The key and value behind the address of a voice's word."""
    first, step = memory.place_t2[t]
    numbers = (ctypes.c_float * (2 * N)).from_address(int(first + block * step + 8 * memory.line_bt[b, t] * N))
    return np.frombuffer(numbers, np.float32).reshape(2, N)


@pytest.mark.parametrize("seed", range(40))
def test_every_voice_remembers_its_own_words(seed):
    rng = np.random.default_rng(seed)
    memory = Words(int(rng.integers(1, 5)), [(np.zeros((4, N)), None)] * BLOCKS)
    said = np.zeros((BLOCKS, memory.voices, 0, 2, N), np.float32)
    for _ in range(rng.integers(1, 12)):
        T = int(rng.choice([1, 1, 1, 5, MOMENTS + 8]))
        new = rng.normal(size=(BLOCKS, memory.voices, T, 2, N)).astype(np.float32)
        said = np.concatenate([said, new], axis=2)
        for block in range(BLOCKS):
            found = memory.newest(block)(*(new[block, :, :, i].reshape(-1, N) for i in range(2)))
            for i in range(2):
                np.testing.assert_array_equal(found[i].reshape(memory.voices, -1, N), said[block, :, :, i])
        memory.said(T)
        for block, b, t in np.ndindex(said.shape[:3]):
            np.testing.assert_array_equal(_at(memory, block, b, t), said[block, b, t])

        voices = rng.integers(0, memory.voices, rng.integers(1, 7))
        memory.keep(voices)
        said = said[:, voices]
    assert len(memory) == said.shape[2]
