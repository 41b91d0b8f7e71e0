"""What a decoder remembers: keys and values of the words of every voice, and of the encoder's memory.

A word's keys stay where they were written. A voice is a line of rows, one a word, so voices that part, die or trade places
move numbers of rows, and no keys.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["Words"]


class Words:
    """The words of B voices in L blocks, and the memory that they look at.

    line_bt         in which row of its moment each word of each voice lies
    keys, values    (L, moments, rows, N)
    """

    def __init__(self, voices: int, heard: list[tuple[Any, Any]]) -> None:
        self.line_bt = np.empty((voices, 0), np.int64)
        self.keys, self.values = (
            np.empty((len(heard), 0, 0, heard[0][0].shape[1] if heard else 0), np.float32) for _ in range(2)
        )
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
        """See that so many more words of every voice have a place."""
        _, moments, rows, N = self.keys.shape
        needed = len(self) + words
        if needed <= moments and self.voices <= rows:
            return
        moments, rows = max(needed, 2 * moments if needed > moments else moments, 16), max(self.voices, rows)
        self.keys, self.values = (_larger(old, (len(self._heard), moments, rows, N)) for old in (self.keys, self.values))

    def said(self, words: int = 1) -> None:
        """The newest words are in the rows of their voices' numbers."""
        newest = np.broadcast_to(np.arange(self.voices)[:, None], (self.voices, words))
        self.line_bt = np.concatenate([self.line_bt, newest], axis=1)

    def newest(self, block: int) -> Any:
        """A function that writes the keys and values of the newest words, voice after voice, and gives those of all words."""

        def extend(k_td: Any, v_td: Any) -> tuple[Any, Any]:
            B, seen, N = self.voices, len(self), k_td.shape[1]
            T = len(k_td) // B if B else 0
            self.room(T)
            both = []
            for cache, new_td in ((self.keys, k_td), (self.values, v_td)):
                new_btn = new_td.reshape(B, T, N)
                cache[block, seen : seen + T, :B] = new_btn.transpose(1, 0, 2)
                old_btn = cache[block, np.arange(seen)[None, :], self.line_bt]
                both.append(np.concatenate([old_btn, new_btn], axis=1).reshape(B * (seen + T), N))
            return both[0], both[1]

        return extend

    def memory_of(self, block: int) -> tuple[Any, Any]:
        """Keys and values of the encoder's memory, (S, N)."""
        return self._heard[block]


def _larger(old: Any, shape: tuple[int, ...]) -> Any:
    new = np.empty(shape, np.float32)
    _, moments, rows, _ = old.shape
    new[:, :moments, :rows] = old
    return new
