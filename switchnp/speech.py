"""Texts around a search in ids: prefixes, stops and bad words in, answers and streams out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import generation
from .config import Config
from .errors import InputError, TokenizerError
from .generation import Task
from .search import GenerationConfig
from .tokenizer import Tokenizer

__all__ = ["Answer", "Speech"]


class Answer(NamedTuple):
    """What a model said.

    text        None where the model has no tokenizer
    ids         the new words, `</s>` among them, without start and prefix
    score       the sum of their log-probabilities; of beams the reference's score, divided by length^length_penalty
    logprobs    of each word, the model's own: before penalties, bans and temperature
    """

    text: str | None
    ids: tuple[int, ...]
    score: float
    logprobs: tuple[float, ...]


class Speech:
    """A GenerationConfig in the ids of a model, and answers in its texts."""

    def __init__(self, config: GenerationConfig, tokenizer: Tokenizer | None, model: Config) -> None:
        self._config, self._tokenizer, self._model = config, tokenizer, model
        self._prefix = self._ids("prefix", config.prefix)
        self._bad_words = tuple(self._ids("bad_words", word) for word in config.bad_words)
        if () in self._bad_words:
            raise InputError("bad_words has a text without words, expected at least one in each")
        if (model.eos_token_id,) in self._bad_words:
            raise InputError("bad_words has the end of an answer alone, expected min_new_tokens where answers are to be longer")
        if config.stop:
            self._need_tokenizer("stop")

    @property
    def start_t(self) -> NDArray[np.int64]:
        """What every answer begins with."""
        return np.array([self._model.decoder_start_token_id, *self._prefix])

    def task(self, stream: Callable[..., Any] | None = None, alone: bool = True) -> Task:
        """What the search is asked; `stream` gets pieces of text, and the answer's number first unless it is alone."""
        has_ended = self._says_a_stop if self._config.stop else None
        heard = None if stream is None else self._streamed(stream, alone)
        return Task(self._config, self.start_t, (self._model.eos_token_id,), self._bad_words, has_ended, heard)

    def answer(self, found: generation.Answer) -> Answer:
        """What was found, with its text."""
        text = None if self._tokenizer is None else self._tokenizer.answer([*self._prefix, *found.ids])
        return Answer(text, found.ids, found.score, found.logprobs)

    def answers(self, found: Sequence[generation.Answer], scored: bool) -> list[Any]:
        """What was found for each prompt: a text or an Answer, or a list of them where several were asked for."""
        each = [self.answer(one) if scored else self.answer(one).text for one in found]
        count = self._config.num_return_sequences
        return each if count == 1 else [each[n : n + count] for n in range(0, len(each), count)]

    def padded(self, found: Sequence[generation.Answer]) -> NDArray[np.int64]:
        """All answers as one array of ids, beginning with the start id and the prefix."""
        filler = self._model.pad_token_id
        if self._config.num_beams > 1:
            filler = filler or self._model.eos_token_id
        begin = self.start_t.tolist()
        padded = np.full((len(found), len(begin) + max(len(each.ids) for each in found)), filler)
        for row, each in zip(padded, found, strict=True):
            row[: len(begin) + len(each.ids)] = [*begin, *each.ids]
        return padded

    def _ids(self, name: str, words: str | tuple[int, ...]) -> tuple[int, ...]:
        if isinstance(words, str):
            if not words:
                return ()
            return tuple(self._need_tokenizer(name).encode(words)[:-1])
        if not all(0 <= word < self._model.vocab_size for word in words):
            raise InputError(f"{name} has the ids {words!r:.60}, expected ids from 0 to {self._model.vocab_size - 1}")
        return words

    def _need_tokenizer(self, name: str) -> Tokenizer:
        if self._tokenizer is None:
            raise TokenizerError(f"{name} goes by texts, but this model has no tokenizer")
        return self._tokenizer

    def _says_a_stop(self, said: list[int]) -> bool:
        """Does a stop text reach into the last word? One that stands in the prefix alone does not count."""
        answer = self._need_tokenizer("stop").answer
        text, before = answer([*self._prefix, *said]), len(answer([*self._prefix, *said[:-1]]))
        return any(text.find(stop, max(0, before - len(stop) + 1)) >= 0 for stop in self._config.stop)

    def _streamed(self, stream: Callable[..., Any], alone: bool) -> Callable[[int, list[int]], None]:
        """Passes on what an answer's text has grown by; texts of more words begin with those of fewer."""
        if not callable(stream) or self._config.num_beams > 1:
            given = "stream is given with num_beams above 1" if callable(stream) else f"stream is {stream!r:.60}"
            raise InputError(f"{given}, expected something to call with each piece, and num_beams=1")
        tokenizer = self._need_tokenizer("stream")
        shown: dict[int, int] = {}

        def heard(number: int, said: list[int]) -> None:
            text = tokenizer.answer([*self._prefix, *said])
            piece, shown[number] = text[shown.get(number, 0) :], len(text)
            if piece:
                stream(piece) if alone else stream(number, piece)

        return heard
