"""A SentencePiece vocabulary in T5's manner, learnt from files: the same texts make the same bytes."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import as_path, readable, replacing, shown, writable
from ..tokenizer import LIBRARY, SENTINELS, SPECIAL, Tokenizer
from .sources import Lines

__all__ = ["Vocabulary", "train_vocabulary"]

_AS_T5: dict[str, Any] = {"model_type": "unigram", "normalization_rule_name": "nmt_nfkc"}
_AS_T5 |= {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
_REPEATABLE: dict[str, Any] = {"num_threads": 1, "shuffle_input_sentence": False, "input_sentence_size": 0}
_SILENT = {"minloglevel": 3}
_ROOM = 1 << 22
_LONGEST = 1 << 30
"""Sentences that are longer, in bytes, are left out by SentencePiece without a word; `Lines` has none of them."""

_PART = re.compile(r".{1,4000}(?!\S)|.{1,4000}", re.DOTALL)
"""A sentence, or what is cut of it before a space: SentencePiece takes four times as long for twice as long a one."""


@dataclass(frozen=True)
class Vocabulary:
    """What was learnt: how many pieces and from how many sentences, and the file that has them.

    vocab_size  pieces and T5's sentinels, which a model needs at least
    """

    file: str
    pieces: int
    vocab_size: int
    sentences: int
    bytes: int
    sha256: str

    def __str__(self) -> str:
        learnt = f"{self.pieces:,} pieces of {self.sentences:,} sentences, {self.bytes:,} bytes"
        return f"{shown(self.file)}: {learnt}; vocab_size {self.vocab_size:,} with the sentinels"


def train_vocabulary(
    files: Sequence[str | os.PathLike[str]],
    target: str | os.PathLike[str],
    size: int,
    byte_fallback: bool = False,
    split_digits: bool = False,
    user_defined_symbols: Sequence[str] = (),
    force: bool = False,
) -> Vocabulary:
    """Learn a vocabulary of `size` pieces and write it, whole or not at all.

    Each column of each line is a sentence, or several where it is very long; special tokens that a text spells
    (`<extra_id_0>`, `</s>`, ...) are no part of it, as they are none when it is encoded. All sentences are in memory at once,
    several times over. Nothing is drawn, and one thread works: the same sentences make the same bytes, in any process.

    Source: T5's vocabulary: unigram, nmt_nfkc, <pad> 0, </s> 1, <unk> 2. Raises FileError where a file cannot be read or the
    target not be written, and InputError where these sentences make no such vocabulary.

    size                  with <pad>, </s> and <unk>, without the sentinels, which `Tokenizer` adds
    byte_fallback         spell rare characters in bytes instead of <unk>; takes 256 pieces
    split_digits          each digit is a piece
    user_defined_symbols  texts that are always pieces, such as "\\n", which is a space otherwise
    force                 replace an existing file
    """
    path, sources = as_path(target), [as_path(file) for file in files]
    with readable(path):
        same = any(path.exists() and source.exists() and path.samefile(source) for source in sources)
    if same or not sources:
        raise InputError(f"{shown(path)} is to be learnt from {_listed(sources)}, expected one or more other files")
    strange = not all(user_defined_symbols) or any(map(SPECIAL.search, user_defined_symbols))
    if strange or len({*user_defined_symbols}) < len(user_defined_symbols):
        raise InputError(f"the symbols are {[*user_defined_symbols]}, expected texts, each of them once, and no special token")
    options = {"byte_fallback": byte_fallback, "split_digits": split_digits, "user_defined_symbols": [*user_defined_symbols]}
    with replacing(path, _ROOM, force) as temporary:
        lines = [Lines(source) for source in sources]
        model = _learnt(lines, _listed(sources), size, options)
        tokenizer = Tokenizer(model)
        with writable(path):
            temporary.write_bytes(model)
    vocab_size, sentences = tokenizer.vocab_size, sum(1 for _ in _sentences(lines))
    return Vocabulary(str(path), vocab_size - SENTINELS, vocab_size, sentences, len(model), hashlib.sha256(model).hexdigest())


def _sentences(lines: Iterable[Lines]) -> Iterator[str]:
    for source in lines:
        for line in source:
            for column in line.split("\t"):
                for text in SPECIAL.split(column)[::2]:
                    yield from filter(str.strip, _PART.findall(text))


def _learnt(lines: Sequence[Lines], name: str, size: int, options: dict[str, Any]) -> bytes:
    # Imported here because the command line knows this command without running it.
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    settings = _AS_T5 | _REPEATABLE | _SILENT | options | {"vocab_size": size, "max_sentence_length": _LONGEST}
    try:
        with LIBRARY:
            SentencePieceTrainer.train(sentence_iterator=_sentences(lines), model_writer=model, **settings)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{name}: {_reason(str(error), size)}") from None
    return model.getvalue()


def _reason(said: str, size: int) -> str:
    """What SentencePiece said, in a sentence."""
    if most := re.search(r"size too high .* <= (\d+)", said):
        return f"a vocabulary of {size} pieces is asked for, but these texts make at most {most[1]}"
    if least := re.search(r"smaller than required_chars\. \d+ vs (\d+)", said):
        return f"a vocabulary of {size} pieces is asked for, but the characters of these texts need at least {least[1]}"
    if "sentences_.empty" in said or "all_chars_count" in said:
        return "there is no text, expected some to make a vocabulary of"
    return f"no vocabulary can be made: {shown(said.splitlines()[0])}"


def _listed(paths: Sequence[Path]) -> str:
    return ", ".join(map(shown, paths)) or "no file"
