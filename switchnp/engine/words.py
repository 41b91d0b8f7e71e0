"""What a decoder remembers: keys and values of the words of every voice, and of the encoder's memory.

What a word left stays where it was written. A voice is a line of rows, one a word, so voices that part, die or trade places
move numbers of rows, and no keys.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["Words"]

MOMENTS = 32
"""A slab has room for so many words of every voice, or for all that come at once."""


class Words:
    """The words of B voices in L blocks, and the memory that they look at.

    line_bt     in which row of its moment each word of each voice lies
    place_t2    for each moment of the slabs: the address of its first row in the first block, and the bytes to the next block
    _slabs      each with the number of its first moment
    """

    def __init__(self, voices: int, heard: list[tuple[Any, Any]]) -> None:
        self.line_bt = np.empty((voices, 0), np.int64)
        self.place_t2 = np.empty((0, 2), np.int64)
        self._slabs: list[tuple[int, Any]] = []
        self._heard = heard

    def __len__(self) -> int:
        """How many words each voice has said."""
        return self.line_bt.shape[1]

    @property
    def voices(self) -> int:
        """How many there are."""
        return len(self.line_bt)

    def keep(self, voices: Any) -> None:
        """Go on with these voices, in this order."""
        self.line_bt = self.line_bt[voices]

    def room(self, words: int) -> None:
        """See that so many more words of every voice have a place, all in the last slab: (blocks, moments, rows, 2, N)."""
        seen, slab = len(self), self._slabs[-1][1] if self._slabs else None
        if slab is not None and seen + words <= len(self.place_t2) and self.voices <= slab.shape[2]:
            return
        slab = np.empty((len(self._heard), max(words, MOMENTS), self.voices, 2, self._heard[0][0].shape[1]), np.float32)
        block, moment = slab.strides[:2]
        places = slab.ctypes.data + moment * np.arange(slab.shape[1])
        self.place_t2 = np.concatenate([self.place_t2[:seen], np.column_stack([places, np.full(len(places), block)])])
        self._slabs.append((seen, slab))

    def said(self, words: int = 1) -> None:
        """The newest words are in the rows of their voices' numbers."""
        newest = np.broadcast_to(np.arange(self.voices)[:, None], (self.voices, words))
        self.line_bt = np.concatenate([self.line_bt, newest], axis=1)

    def newest(self, block: int) -> Any:
        """A function that writes the keys and values of the newest words, voice after voice, and gives those of all words."""

        def extend(k_td: Any, v_td: Any) -> tuple[Any, Any]:
            B, N = self.voices, k_td.shape[1]
            T = len(k_td) // B if B else 0
            self.room(T)
            first, slab = self._slabs[-1]
            new_bt2n = np.stack([k_td.reshape(B, T, N), v_td.reshape(B, T, N)], axis=2)
            slab[block, len(self) - first : len(self) - first + T, :B] = new_bt2n.transpose(1, 0, 2, 3)
            all_bt2n = np.concatenate([*self._old(block), new_bt2n], axis=1)
            keys, values = (np.ascontiguousarray(all_bt2n[:, :, i]).reshape(-1, N) for i in range(2))
            return keys, values

        return extend

    def _old(self, block: int) -> list[Any]:
        """What every voice has said, (B, words, 2, N) for each slab."""
        ends = [first for first, _ in self._slabs[1:]] + [len(self)]
        pairs = zip(self._slabs, ends, strict=True)
        return [slab[block, np.arange(end - first), self.line_bt[:, first:end]] for (first, slab), end in pairs]

    def memory_of(self, block: int) -> tuple[Any, Any]:
        """Keys and values of the encoder's memory, (S, N)."""
        return self._heard[block]
