"""Text to ids and back: a SentencePiece model and, around it, T5's special tokens."""

from __future__ import annotations

import atexit
import codecs
import operator
import os
import re
import reprlib
import threading
from collections.abc import Iterable
from itertools import groupby
from typing import TYPE_CHECKING

from .errors import TokenizerError
from .files import as_path, check_regular, readable, shown
from .forking import free_after_fork

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

__all__ = ["LIBRARY", "MAX_CHARACTERS", "MAX_MODEL_BYTES", "SENTINELS", "SPECIAL", "Tokenizer"]

SENTINELS = 100
"""How many `<extra_id_i>` T5 adds behind the pieces of a SentencePiece model."""

MAX_CHARACTERS = 4_000_000
"""The longest text that is encoded at once; normalisation can make 18 characters of one."""

MAX_MODEL_BYTES = 64 * 2**20
"""The largest SentencePiece model that is loaded; T5's has 0.8 MB."""

LIBRARY = free_after_fork(threading.RLock())
"""One thread at a time is inside SentencePiece, and nobody when Python ends, which it would not survive."""
atexit.register(LIBRARY.acquire)

_BYTE = re.compile("<0x[0-9A-F]{2}>")
SPECIAL = re.compile("(<extra_id_[1-9]?[0-9]>|</s>|<pad>|<unk>)")
"""The special tokens as texts spell them."""

_BEGINNING = ["<pad>", "</s>", "<unk>"]
_PAD, _EOS, _UNK = range(3)

# A model is a protocol buffer, and what is appended to one overrides what stands before: here, fields of its
# normalizer_spec (field 3) are set to false: 3 add_dummy_prefix, 4 remove_extra_whitespaces, 5 escape_whitespaces.
_NO_PREFIX = bytes.fromhex("1a02 1800")
_SPACES_AS_WRITTEN = bytes.fromhex("1a06 1800 2000 2800")


class Tokenizer:
    """What stands between a text and the ids a Switch Transformer reads and writes.

        ids = the pieces of the SentencePiece model, with <pad> 0, </s> 1, <unk> 2
              <extra_id_99> ... <extra_id_0>, so that <extra_id_i> = number of pieces + 99 - i

    Source: T5's vocabulary; ids as from transformers' T5Tokenizer 4.57.6, texts as from 5.23 without clean-up.

    model             path of a spiece.model, or its bytes
    invented_prefix   T5's habit of taking any text behind a special token for a new word: `<extra_id_0>.` and
                      `<extra_id_0> .` are then the same ids; without it, a word begins only where a space is
    """

    def __init__(self, model: str | os.PathLike[str] | bytes, invented_prefix: bool = True) -> None:
        name = "the tokenizer" if isinstance(model, bytes) else shown(as_path(model))
        self._model = model if isinstance(model, bytes) else _read(model)
        self._invented_prefix = invented_prefix
        self._new_word = _load(self._model, name)
        self._pieces, self._bytes = _vocabulary(self._new_word, name)
        specials = [*range(len(_BEGINNING)), *range(len(self._pieces) - SENTINELS, len(self._pieces))]
        self._specials = {self._pieces[i]: i for i in specials}
        if not invented_prefix:
            self._same_word = _load(self._model + _NO_PREFIX, name)
            self._as_written = _load(self._model + _SPACES_AS_WRITTEN, name)

    def __del__(self) -> None:
        with LIBRARY:
            vars(self).clear()

    @property
    def model_bytes(self) -> bytes:
        """The SentencePiece model itself, to be stored in a weights file."""
        return self._model

    @property
    def vocab_size(self) -> int:
        """Pieces and sentinels; a model's own vocabulary is often padded beyond."""
        return len(self._pieces)

    @property
    def pad_id(self) -> int:
        """The id of `<pad>`."""
        return _PAD

    @property
    def eos_id(self) -> int:
        """The id of `</s>`."""
        return _EOS

    @property
    def unk_id(self) -> int:
        """The id of `<unk>`."""
        return _UNK

    def encode(self, text: str) -> list[int]:
        """The ids of a text, and `</s>` at the end unless the text itself ends in one.

        `<extra_id_0>` to `<extra_id_99>`, `</s>`, `<pad>` and `<unk>` mean the tokens, wherever they stand in the text.
        """
        _check_text(text)
        ids: list[int] = []
        with LIBRARY:
            for n, part in enumerate(SPECIAL.split(text)):
                if n % 2:
                    ids.append(self._specials[part])
                else:
                    ids += self._processor(part, n == 0).encode(part)
        return ids if ids[-1:] == [_EOS] else [*ids, _EOS]

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of some ids; sentinels are special tokens too, and `answer` keeps them."""
        return self._text(ids, frozenset(self._specials.values() if skip_special_tokens else ()))

    def answer(self, ids: Iterable[int]) -> str:
        """What a model wrote: its text with sentinels and `<unk>`, without `<pad>` and `</s>`."""
        return self._text(ids, frozenset((_PAD, _EOS)))

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Each id as the vocabulary spells it, a space as U+2581; "" for an id beyond the vocabulary."""
        return [self._piece(i) for i in _checked(ids)]

    def _processor(self, part: str, first: bool) -> SentencePieceProcessor:
        """The model for a stretch of plain text, which may begin a word or go on with one."""
        if first or self._invented_prefix or self._as_written.normalize(part).startswith(" "):
            return self._new_word
        return self._same_word

    def _piece(self, i: int) -> str:
        return self._pieces[i] if i < len(self._pieces) else ""

    def _text(self, ids: Iterable[int], dropped: frozenset[int]) -> str:
        """Pieces put together, those that spell bytes as the characters that they make; an unfinished last one is left out."""
        kept = [i for i in _checked(ids) if i not in dropped]
        runs = [(bytewise, [*run]) for bytewise, run in groupby(kept, lambda i: i in self._bytes)]
        texts = [
            self._spelled(run, n + 1 == len(runs)) if bytewise else self._joined(run) for n, (bytewise, run) in enumerate(runs)
        ]
        return "".join(texts).removeprefix(" ")

    def _joined(self, ids: list[int]) -> str:
        return "".join(map(self._piece, ids)).replace("\u2581", " ")

    def _spelled(self, ids: list[int], last: bool) -> str:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        return decoder.decode(bytes(self._bytes[i] for i in ids), final=not last)


def _read(path: str | os.PathLike[str]) -> bytes:
    path = as_path(path)
    check_regular(path)
    with readable(path), open(path, "rb") as file:
        return file.read(MAX_MODEL_BYTES + 1)


def _load(model: bytes, name: str) -> SentencePieceProcessor:
    if len(model) > MAX_MODEL_BYTES:
        raise TokenizerError(f"{name} is larger than {MAX_MODEL_BYTES} bytes, expected a SentencePiece model")
    if not model:
        raise TokenizerError(f"{name} is empty, expected a SentencePiece model")
    # Imported here because a model without texts needs no SentencePiece.
    from sentencepiece import SentencePieceProcessor

    try:
        with LIBRARY:
            return SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise TokenizerError(f"{name} is not a SentencePiece model") from error


def _vocabulary(processor: SentencePieceProcessor, name: str) -> tuple[list[str], dict[int, int]]:
    """The piece of every id, and the byte of those that spell one, once T5's special tokens are where T5 has them."""
    try:
        with LIBRARY:
            pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
            bytewise = [i for i in range(len(pieces)) if processor.is_byte(i)]
            ids = [processor.pad_id(), processor.eos_id(), processor.unk_id()]
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{name} has a piece that is not UTF-8, expected a SentencePiece model") from error
    if pieces[:3] != _BEGINNING or ids != [_PAD, _EOS, _UNK]:
        raise TokenizerError(
            f"{name} begins with the pieces {reprlib.repr(pieces[:3])} and has padding, end and unknown at {ids}, "
            f"expected {_BEGINNING} at {[_PAD, _EOS, _UNK]}"
        )
    spelled = {i: int(pieces[i][3:5], 16) for i in bytewise if _BYTE.fullmatch(pieces[i])}
    return pieces + [f"<extra_id_{i}>" for i in reversed(range(SENTINELS))], spelled


def _check_text(text: str) -> None:
    if not isinstance(text, str):
        raise TokenizerError(f"the text is of type {type(text).__name__}, expected str")
    if len(text) > MAX_CHARACTERS:
        raise TokenizerError(f"the text has {len(text)} characters, expected at most {MAX_CHARACTERS} at once")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = f"the lone surrogate U+{ord(text[error.start]):04X} at position {error.start}"
        raise TokenizerError(f"the text has {found}, expected whole characters") from error


def _checked(ids: Iterable[int]) -> list[int]:
    """The ids as Python integers from 0 up, out of any iterable of integers."""
    checked: list[int] = []
    try:
        for i in ids:
            checked.append(operator.index(i))
    except TypeError as error:
        raise TokenizerError(f"the ids have no integer at position {len(checked)}, expected integers only") from error
    if checked and min(checked) < 0:
        position = next(n for n, i in enumerate(checked) if i < 0)
        raise TokenizerError(f"the id at position {position} is negative, expected 0 or more")
    return checked
