"""A whole model: what it is loaded from, and the padded edge where [B, T] arrays become one row and come back."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import generation, network, weights
from .config import Config, Routing
from .errors import InputError, ShapeError, TokenizerError
from .network import Row
from .params import check_shapes
from .tokenizer import Tokenizer
from .tree import Tree

__all__ = ["Output", "SwitchTransformer", "load"]

ENGINES = ("kernels", "equations")
MAX_NEW_TOKENS = 64
IGNORED = -100
"""A label where there is nothing to predict."""


@dataclass(frozen=True, eq=False)
class Output:
    """What a forward pass answers. B sentences, T words of the decoder, S of the encoder, V of the vocabulary.

    The router losses are those before their coefficients; `cross_entropy` and `loss` are None without labels.
    `loss` is the cross-entropy plus the router losses times their coefficients.
    """

    logits: NDArray[Any]
    encoder_last_hidden_state: NDArray[Any]
    decoder_last_hidden_state: NDArray[Any]
    encoder_balance_loss: float
    decoder_balance_loss: float
    encoder_z_loss: float
    decoder_z_loss: float
    cross_entropy: float | None
    loss: float | None


class SwitchTransformer:
    """A Switch Transformer: Config, Routing, weights, and a tokenizer where there is one.

    engine  "kernels" (Numba) or "equations" (NumPy, the oracle)

    Raises ShapeError where `params` is not what `config` makes.
    """

    def __init__(
        self,
        config: Config,
        params: Tree,
        routing: Routing | None = None,
        tokenizer: Tokenizer | None = None,
        engine: str = "kernels",
        provenance: dict[str, str] | None = None,
    ) -> None:
        _check_choices(routing, engine)
        check_shapes(params, config)
        _check_dtypes(params)
        if tokenizer is not None:
            weights.check_vocabulary(tokenizer, config)
        self.config = config
        self.params = params
        self.routing = routing or Routing.paper()
        self.tokenizer = tokenizer
        self.engine = engine
        self.provenance = dict(provenance or {})

    @property
    def _ops(self) -> Any:
        _check_choices(self.routing, self.engine)
        return import_module(f"switchnp.{self.engine}")

    @property
    def _setup(self) -> tuple[Any, Config, Routing]:
        return self._ops, self.config, self.routing

    def __call__(
        self,
        input_ids: ArrayLike,
        attention_mask: ArrayLike | None = None,
        decoder_input_ids: ArrayLike | None = None,
        decoder_attention_mask: ArrayLike | None = None,
        labels: ArrayLike | None = None,
    ) -> Output:
        """Logits, hidden states and losses of padded [B, T] arrays (a 1-D one is a batch of one).

        Without a mask every token counts. `labels` without `decoder_input_ids` are shifted right. Raises InputError.
        """
        prompts = self._batch("input_ids", input_ids, attention_mask)
        words, targets = self._words(prompts, decoder_input_ids, decoder_attention_mask, labels)
        memory_td, encoder = network.encode(*self._setup, self.params, prompts.row)
        last_td, decoder = network.decode(*self._setup, self.params, words.row, memory_td, prompts.row)
        logits_tv = network.logits(self._ops, self.config, self.params, last_td)
        losses = self._losses(logits_tv, words, targets, encoder, decoder, prompts.row)
        return Output(words.padded(logits_tv), prompts.padded(memory_td), words.padded(last_td), **losses)

    def encode(self, input_ids: ArrayLike, attention_mask: ArrayLike | None = None) -> NDArray[Any]:
        """The encoder alone: its last hidden state, [B, S, D]."""
        prompts = self._batch("input_ids", input_ids, attention_mask)
        memory_td, _ = network.encode(*self._setup, self.params, prompts.row)
        return prompts.padded(memory_td)

    def generate(
        self,
        prompts: str | Sequence[str] | ArrayLike,
        attention_mask: ArrayLike | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
        use_cache: bool = True,
    ) -> Any:
        """The greedy answer: text to text, texts to texts, ids [B, S] to ids [B, at most 1 + max_new_tokens].

        Texts keep their sentinels; ids begin with the start id and are padded with the pad id after `</s>`.
        `use_cache=False` runs the whole decoder anew for every word, for study: it may drop tokens that the cached one
        never drops (`generation.greedy` says why).
        """
        if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, (int, np.integer)) or max_new_tokens < 1:
            raise InputError(f"max_new_tokens is {max_new_tokens!r}, expected a whole number of 1 or more")
        texts = _texts(prompts)
        batch = self._prompts(texts, prompts, attention_mask)
        answers = generation.greedy(*self._setup, self.params, batch.row, int(max_new_tokens), use_cache)
        if texts is None:
            return answers
        spoken = [self._tokenizer().answer(answer[1:]) for answer in answers.tolist()]
        return spoken[0] if isinstance(prompts, str) else spoken

    def trace(
        self,
        text_or_ids: str | Sequence[str] | ArrayLike,
        attention_mask: ArrayLike | None = None,
        decoder_input_ids: ArrayLike | None = None,
        decoder_attention_mask: ArrayLike | None = None,
    ) -> Tree:
        """Every array of the forward pass by name: `trace.encoder.blocks[1].switch.p_te`, `trace.decoder.logits_tv`.

        Sentences lie end to end in one row (`trace.encoder.segment_t` says whose a token is). A stack's own `x_td` is what
        goes into its first block, a layer's is the stream behind it. Without `decoder_input_ids` the decoder is given the
        greedy answer, word for word, in one pass.
        """
        prompts = self._prompts(_texts(text_or_ids), text_or_ids, attention_mask)
        if decoder_input_ids is None:
            if decoder_attention_mask is not None:
                raise InputError("decoder_attention_mask is given without decoder_input_ids")
            decoder_input_ids, decoder_attention_mask = self._answered(prompts)
        words = self._batch("decoder_input_ids", decoder_input_ids, decoder_attention_mask, like=prompts)
        memory_td, encoder = network.encode(*self._setup, self.params, prompts.row, keep=True)
        last_td, decoder = network.decode(*self._setup, self.params, words.row, memory_td, prompts.row, keep=True)
        decoder.logits_tv = network.logits(self._ops, self.config, self.params, last_td)
        return Tree(encoder=encoder, decoder=decoder)

    def save(self, path: str | os.PathLike[str], dtype: str = "float32", force: bool = False) -> None:
        """Write the model to one HDF5 file, whole or not at all; an existing file only with `force`.

        dtype   on disk: "float32" or "bfloat16", rounded to nearest even
        """
        weights.save(
            path,
            self.params,
            self.config,
            self.routing,
            dtype=dtype,
            tokenizer=self.tokenizer.model_bytes if self.tokenizer else None,
            provenance=self.provenance,
            force=force,
        )

    def _answered(self, prompts: _Batch) -> tuple[Any, Any]:
        answers = generation.greedy(*self._setup, self.params, prompts.row, MAX_NEW_TOKENS)
        words = answers[:, :-1]
        ended = np.cumsum(words == self.config.eos_token_id, axis=1) > 0
        return words, ~ended

    def _losses(
        self, logits_tv: Any, words: _Batch, targets: Any, encoder: Tree, decoder: Tree, prompt_row: Row
    ) -> dict[str, Any]:
        encoder_balance, encoder_z = network.router_losses(self._ops, self.routing, encoder, prompt_row)
        decoder_balance, decoder_z = network.router_losses(self._ops, self.routing, decoder, words.row)
        cross_entropy = loss = None
        if targets is not None:
            cross_entropy = self._cross_entropy(logits_tv, words, targets)
            balances, zs = (encoder_balance, decoder_balance), (encoder_z, decoder_z)
            loss = network.total_loss(self.config, self.routing, cross_entropy, balances, zs)
        return {
            "encoder_balance_loss": encoder_balance,
            "decoder_balance_loss": decoder_balance,
            "encoder_z_loss": encoder_z,
            "decoder_z_loss": decoder_z,
            "cross_entropy": cross_entropy,
            "loss": loss,
        }

    def _cross_entropy(self, logits_tv: Any, words: _Batch, targets: Any) -> float:
        if targets.shape != words.kept.shape:
            raise InputError(f"labels are {targets.shape}, expected {words.kept.shape} like decoder_input_ids")
        target_t = targets[words.kept]
        if not (target_t >= 0).any():
            raise InputError(f"labels have no word to predict, expected one that is not {IGNORED} or masked")
        return float(self._ops.cross_entropy(logits_tv, target_t))

    def _words(
        self, prompts: _Batch, ids: ArrayLike | None, mask: ArrayLike | None, labels: ArrayLike | None
    ) -> tuple[_Batch, NDArray[np.int64] | None]:
        """What the decoder reads, and what it is to say: given, or the labels shifted right."""
        if labels is None and ids is None:
            raise InputError("decoder_input_ids and labels are both missing, expected one of them")
        if labels is None:
            return self._batch("decoder_input_ids", ids, mask, like=prompts), None
        targets, filled = _rectangle("labels", labels, IGNORED)
        self._check_range("labels", np.where(targets == IGNORED, 0, targets))
        if ids is not None:
            return self._batch("decoder_input_ids", ids, mask, like=prompts), targets
        if mask is not None:
            filled &= _mask("the mask of labels", mask, filled.shape)
        return self._batch("labels", self._shifted(targets), filled, like=prompts), targets

    def _shifted(self, targets: NDArray[np.int64]) -> NDArray[np.int64]:
        start = np.full((len(targets), 1), self.config.decoder_start_token_id)
        shifted = np.concatenate([start, targets[:, :-1]], axis=1)
        return np.where(shifted == IGNORED, self.config.pad_token_id, shifted)

    def _prompts(self, texts: list[str] | None, ids: Any, mask: ArrayLike | None) -> _Batch:
        if texts is None:
            return self._batch("input_ids", ids, mask)
        if mask is not None:
            raise InputError("attention_mask is given with text, expected one only with ids")
        return self._batch("input_ids", [self._tokenizer().encode(text) for text in texts], None)

    def _batch(self, name: str, ids: Any, mask: ArrayLike | None, like: _Batch | None = None) -> _Batch:
        array, filled = _rectangle(name, ids, self.config.pad_token_id)
        self._check_range(name, array)
        if like is not None and len(array) != len(like.kept):
            raise InputError(f"{name} has {len(array)} sentences, expected {len(like.kept)} like input_ids")
        visible = filled if mask is None else filled & _mask(f"the mask of {name}", mask, array.shape)
        kept = np.ones_like(visible) if self.routing.pads == "routed" else visible
        segment, position = np.nonzero(kept)
        return _Batch(Row(array[kept], segment, position, visible[kept], len(array)), kept)

    def _check_range(self, name: str, ids: Any) -> None:
        V = self.config.vocab_size
        if ids.min() < 0 or ids.max() >= V:
            worst = ids.min() if ids.min() < 0 else ids.max()
            raise InputError(f"{name} has the id {worst}, expected ids from 0 to {V - 1}")

    def _tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise TokenizerError("this model has no tokenizer, expected ids instead of text (or convert it with --tokenizer)")
        return self.tokenizer


@dataclass(frozen=True, eq=False)
class _Batch:
    """A padded batch as one row; `kept` [B, T] says which of its places are in the row."""

    row: Row
    kept: NDArray[np.bool_]

    def padded(self, x_t: NDArray[Any]) -> NDArray[Any]:
        """The row's values back in their places; zero where a place is not in the row."""
        padded = np.zeros((*self.kept.shape, *x_t.shape[1:]), x_t.dtype)
        padded[self.kept] = x_t
        return padded


def load(
    path: str | os.PathLike[str], routing: Routing | None = None, engine: str = "kernels", dtype: str = "float32"
) -> SwitchTransformer:
    """The model in a switchnp HDF5 file.

    routing     instead of the one that the file names
    engine      "kernels" or "equations"
    dtype       "float32", or "float64" for checking; weights stored in fewer bits are widened

    Raises FileError where the path cannot be read and WeightsError where the file is not a sound model.
    """
    _check_choices(routing, engine)
    params, header = weights.read(path, dtype)
    tokenizer = Tokenizer(header.tokenizer) if header.tokenizer is not None else None
    return SwitchTransformer(header.config, params, routing or header.routing, tokenizer, engine, header.provenance)


def _check_choices(routing: Any, engine: Any) -> None:
    if engine not in ENGINES:
        raise InputError(f"engine is {engine!r}, expected one of {', '.join(map(repr, ENGINES))}")
    if routing is not None and not isinstance(routing, Routing):
        raise InputError(f"routing is {routing!r}, expected a switchnp.Routing such as Routing.paper()")


def _check_dtypes(params: Tree) -> None:
    dtypes = {str(leaf.dtype) for _, leaf in params.leaves()}
    if dtypes not in ({"float32"}, {"float64"}):
        raise ShapeError(f"the weights are {' and '.join(sorted(dtypes))}, expected all float32 or all float64")


def _texts(prompts: Any) -> list[str] | None:
    if isinstance(prompts, str):
        return [prompts]
    if isinstance(prompts, (list, tuple)) and prompts and all(isinstance(prompt, str) for prompt in prompts):
        return list(prompts)
    return None


def _rectangle(name: str, ids: Any, filler: int, kinds: str = "iu") -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Whole numbers as [B, T] and where they were given; unequal lists are filled up."""
    ragged = isinstance(ids, (list, tuple)) and any(isinstance(row, (list, tuple, np.ndarray)) for row in ids)
    rows: Sequence[Any] = ids if ragged else [ids]
    if not ragged and _array(name, ids).ndim == 2:
        rows = list(_array(name, ids))
    arrays = [_whole_numbers(name, row, kinds) for row in rows]
    if not arrays or not all(len(array) for array in arrays):
        raise InputError(f"{name} has {'a sentence without tokens' if arrays else 'no sentences'}, expected at least one")
    width = max(len(array) for array in arrays)
    filled = np.arange(width) < np.array([[len(array)] for array in arrays])
    padded = np.full(filled.shape, filler)
    padded[filled] = np.concatenate(arrays)
    return padded, filled


def _whole_numbers(name: str, row: Any, kinds: str) -> NDArray[np.int64]:
    array = _array(name, row)
    if array.ndim != 1:
        raise InputError(f"{name} has sentences of {array.ndim} axes, expected [B, T] or [T] in all")
    if array.size and array.dtype.kind not in kinds:
        raise InputError(f"{name} has dtype {array.dtype}, expected whole numbers")
    if array.size and array.max() > np.iinfo(np.int64).max:
        raise InputError(f"{name} has the id {array.max()}, expected ids of at most 64 bits with sign")
    return array.astype(np.int64)


def _array(name: str, values: Any) -> NDArray[Any]:
    try:
        return np.asarray(values)
    except Exception:
        raise InputError(f"{name} is no array, expected [B, T] whole numbers or lists of them") from None


def _mask(name: str, mask: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    array, _ = _rectangle(name, mask, 0, kinds="iub")
    if array.shape != shape:
        raise InputError(f"{name} is {array.shape}, expected {shape} like its ids")
    if not np.isin(array, (0, 1)).all():
        raise InputError(f"{name} has other values than 0 and 1, expected 1 where there is a token and 0 where there is none")
    return array.astype(bool)
