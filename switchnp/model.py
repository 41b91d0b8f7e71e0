"""A whole model: what it is loaded from, and the padded edge where [B, T] arrays become one row and come back."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import generation, network, objective, weights
from .bfloat16 import simulated
from .config import Config
from .errors import InputError, ShapeError, TokenizerError
from .network import Row
from .padding import Batch, given_mask, rectangle
from .params import check_shapes
from .routers import Mode
from .routing import Routing
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
        _check_fit(self.routing, config, engine, params)

    @property
    def _ops(self) -> Any:
        return import_module(f"switchnp.{self.engine}")

    @property
    def _setup(self) -> tuple[Any, Config, Routing, Tree]:
        """Equations, numbers, choices, and the weights in the routing's precision."""
        _check_choices(self.routing, self.engine)
        _check_fit(self.routing, self.config, self.engine, self.params)
        precision = self.routing.precision
        params = self.params if precision == "float32" else simulated(self.params, precision)
        return self._ops, self.config, self.routing, params

    def _mode(self, training: bool, rng: np.random.Generator | None) -> Mode:
        if not isinstance(training, (bool, np.bool_)):
            raise InputError(f"training is {training!a:.80}, expected True or False")
        draws = self.routing.draws(bool(training))
        if rng is not None and not isinstance(rng, np.random.Generator):
            raise InputError(f"rng is {rng!r}, expected a generator such as np.random.default_rng(seed)")
        if draws and rng is None:
            raise InputError(f"Routing {self.routing.name!r} draws at random ({draws}), expected rng=np.random.default_rng(seed)")
        return Mode(bool(training), rng)

    def __call__(
        self,
        input_ids: ArrayLike,
        attention_mask: ArrayLike | None = None,
        decoder_input_ids: ArrayLike | None = None,
        decoder_attention_mask: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        training: bool = False,
        rng: np.random.Generator | None = None,
    ) -> Output:
        """Logits, hidden states and losses of padded [B, T] arrays (a 1-D one is a batch of one).

        Without a mask every token counts. `labels` without `decoder_input_ids` are shifted right. `training` routes as in
        training (its capacity factor, its exploration; there is no dropout); what draws at random needs `rng`. Raises
        InputError.
        """
        mode = self._mode(training, rng)
        prompts = self._batch("input_ids", input_ids, attention_mask)
        words, targets = self._words(prompts, decoder_input_ids, decoder_attention_mask, labels)
        setup = self._setup
        memory_td, encoder = network.encode(*setup, prompts.row, mode=mode)
        last_td, decoder = network.decode(*setup, words.row, memory_td, prompts.row, mode=mode)
        logits_tv = network.logits(self._ops, self.config, setup[-1], last_td)
        losses = self._losses(logits_tv, words, targets, encoder, decoder, prompts.row)
        return Output(words.padded(logits_tv), prompts.padded(memory_td), words.padded(last_td), **losses)

    def encode(
        self,
        input_ids: ArrayLike,
        attention_mask: ArrayLike | None = None,
        training: bool = False,
        rng: np.random.Generator | None = None,
    ) -> NDArray[Any]:
        """The encoder alone: its last hidden state, [B, S, D]."""
        mode = self._mode(training, rng)
        prompts = self._batch("input_ids", input_ids, attention_mask)
        memory_td, _ = network.encode(*self._setup, prompts.row, mode=mode)
        return prompts.padded(memory_td)

    def generate(
        self,
        prompts: str | Sequence[str] | ArrayLike,
        attention_mask: ArrayLike | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
        use_cache: bool = True,
        rng: np.random.Generator | None = None,
    ) -> Any:
        """The greedy answer: text to text, texts to texts, ids [B, S] to ids [B, at most 1 + max_new_tokens].

        Texts keep their sentinels; ids begin with the start id and are padded with the pad id after `</s>`.
        `use_cache=False` runs the whole decoder anew for every word, for study: it may drop tokens that the cached one
        never drops (`generation.greedy` says why).
        """
        mode = self._mode(False, rng)
        if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, (int, np.integer)) or max_new_tokens < 1:
            raise InputError(f"max_new_tokens is {max_new_tokens!r}, expected a whole number of 1 or more")
        texts = _texts(prompts)
        batch = self._prompts(texts, prompts, attention_mask)
        answers = generation.greedy(*self._setup, batch.row, int(max_new_tokens), use_cache, mode)
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
        training: bool = False,
        rng: np.random.Generator | None = None,
    ) -> Tree:
        """Every array of the forward pass by name: `trace.encoder.blocks[1].switch.p_te`, `trace.decoder.logits_tv`.

        Sentences lie end to end in one row (`trace.encoder.segment_t` says whose a token is). A stack's own `x_td` is what
        goes into its first block, a layer's is the stream behind it. Without `decoder_input_ids` the decoder is given the
        greedy answer, word for word, in one pass.
        """
        mode = self._mode(training, rng)
        prompts = self._prompts(_texts(text_or_ids), text_or_ids, attention_mask)
        if decoder_input_ids is None:
            if decoder_attention_mask is not None:
                raise InputError("decoder_attention_mask is given without decoder_input_ids")
            decoder_input_ids, decoder_attention_mask = self._answered(prompts, mode)
        words = self._batch("decoder_input_ids", decoder_input_ids, decoder_attention_mask, like=prompts)
        setup = self._setup
        memory_td, encoder = network.encode(*setup, prompts.row, keep=True, mode=mode)
        last_td, decoder = network.decode(*setup, words.row, memory_td, prompts.row, keep=True, mode=mode)
        decoder.logits_tv = network.logits(self._ops, self.config, setup[-1], last_td)
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

    def _answered(self, prompts: Batch, mode: Mode) -> tuple[Any, Any]:
        answers = generation.greedy(*self._setup, prompts.row, MAX_NEW_TOKENS, mode=mode._replace(training=False))
        words = answers[:, :-1]
        ended = np.cumsum(words == self.config.eos_token_id, axis=1) > 0
        return words, ~ended

    def _losses(
        self, logits_tv: Any, words: Batch, targets: Any, encoder: Tree, decoder: Tree, prompt_row: Row
    ) -> dict[str, Any]:
        spoken = [(encoder, "encoder", prompt_row), (decoder, "decoder", words.row)]
        losses = [self._router_losses(*stack) for stack in spoken]
        cross_entropy = loss = None
        if targets is not None:
            target_t = self._targets(words, targets)
            cross_entropy = float(self._ops.cross_entropy(logits_tv, target_t))
            logit_z = float(self._ops.logit_z(logits_tv, target_t))
            loss = objective.total_loss(self.config, self.routing, cross_entropy, logit_z, *losses)
        return {
            "encoder_balance_loss": objective.stack_loss(self.routing, losses[0].balances),
            "decoder_balance_loss": objective.stack_loss(self.routing, losses[1].balances),
            "encoder_z_loss": objective.stack_loss(self.routing, losses[0].zs),
            "decoder_z_loss": objective.stack_loss(self.routing, losses[1].zs),
            "cross_entropy": cross_entropy,
            "loss": loss,
        }

    def _router_losses(self, stack: Tree, name: str, row: Row) -> objective.RouterLosses:
        routing, switches = self.routing.of(name), network.switches(stack)
        if len(switches) == len(stack.blocks) and not routing.all_sparse_loss:
            return objective.RouterLosses([], [])
        groups = network.groups_of(self._ops, self.config, routing, row)
        return objective.router_losses(self._ops, routing, switches, groups)

    def _targets(self, words: Batch, targets: Any) -> NDArray[np.int64]:
        if targets.shape != words.kept.shape:
            raise InputError(f"labels are {targets.shape}, expected {words.kept.shape} like decoder_input_ids")
        target_t: NDArray[np.int64] = targets[words.kept]
        if not (target_t >= 0).any():
            raise InputError(f"labels have no word to predict, expected one that is not {IGNORED} or masked")
        return target_t

    def _words(
        self, prompts: Batch, ids: ArrayLike | None, mask: ArrayLike | None, labels: ArrayLike | None
    ) -> tuple[Batch, NDArray[np.int64] | None]:
        """What the decoder reads, and what it is to say: given, or the labels shifted right."""
        if labels is None and ids is None:
            raise InputError("decoder_input_ids and labels are both missing, expected one of them")
        if labels is None:
            return self._batch("decoder_input_ids", ids, mask, like=prompts), None
        targets, filled = rectangle("labels", labels, IGNORED)
        self._check_range("labels", np.where(targets == IGNORED, 0, targets))
        if ids is not None:
            return self._batch("decoder_input_ids", ids, mask, like=prompts), targets
        if mask is not None:
            filled &= given_mask("the mask of labels", mask, filled.shape)
        return self._batch("labels", self._shifted(targets), filled, like=prompts), targets

    def _shifted(self, targets: NDArray[np.int64]) -> NDArray[np.int64]:
        start = np.full((len(targets), 1), self.config.decoder_start_token_id)
        shifted = np.concatenate([start, targets[:, :-1]], axis=1)
        return np.where(shifted == IGNORED, self.config.pad_token_id, shifted)

    def _prompts(self, texts: list[str] | None, ids: Any, mask: ArrayLike | None) -> Batch:
        if texts is None:
            return self._batch("input_ids", ids, mask)
        if mask is not None:
            raise InputError("attention_mask is given with text, expected one only with ids")
        return self._batch("input_ids", [self._tokenizer().encode(text) for text in texts], None)

    def _batch(self, name: str, ids: Any, mask: ArrayLike | None, like: Batch | None = None) -> Batch:
        array, filled = rectangle(name, ids, self.config.pad_token_id)
        self._check_range(name, array)
        if like is not None and len(array) != len(like.kept):
            raise InputError(f"{name} has {len(array)} sentences, expected {len(like.kept)} like input_ids")
        visible = filled if mask is None else filled & given_mask(f"the mask of {name}", mask, array.shape)
        kept = visible if self.routing.pads == "removed" else np.ones_like(visible)
        segment, position = np.nonzero(kept)
        return Batch(Row(array[kept], segment, position, visible[kept], len(array)), kept)

    def _check_range(self, name: str, ids: Any) -> None:
        V = self.config.vocab_size
        if ids.min() < 0 or ids.max() >= V:
            worst = ids.min() if ids.min() < 0 else ids.max()
            raise InputError(f"{name} has the id {worst}, expected ids from 0 to {V - 1}")

    def _tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise TokenizerError("this model has no tokenizer, expected ids instead of text (or convert it with --tokenizer)")
        return self.tokenizer


def load(
    path: str | os.PathLike[str],
    routing: Routing | None = None,
    engine: str = "kernels",
    dtype: str = "float32",
    precision: str | None = None,
) -> SwitchTransformer:
    """The model in a switchnp HDF5 file.

    routing     instead of the one that the file names
    engine      "kernels" or "equations"
    dtype       "float32", or "float64" for checking; weights stored in fewer bits are widened
    precision   instead of the routing's: "bfloat16" and "selective" simulate it (Switch, §2.4), with engine="equations"

    Raises FileError where the path cannot be read and WeightsError where the file is not a sound model.
    """
    _check_choices(routing, engine)
    params, header = weights.read(path, dtype)
    tokenizer = Tokenizer(header.tokenizer) if header.tokenizer is not None else None
    routing = routing or header.routing
    if precision is not None:
        routing = replace(routing, precision=precision)
    return SwitchTransformer(header.config, params, routing, tokenizer, engine, header.provenance)


def _check_choices(routing: Any, engine: Any) -> None:
    if engine not in ENGINES:
        raise InputError(f"engine is {engine!r}, expected one of {', '.join(map(repr, ENGINES))}")
    if routing is not None and not isinstance(routing, Routing):
        raise InputError(f"routing is {routing!r}, expected a switchnp.Routing such as Routing.paper()")


def _check_fit(routing: Routing, config: Config, engine: str, params: Tree) -> None:
    """Raise where this routing is not for this model."""
    dtype = next(leaf.dtype for _, leaf in params.leaves())
    if routing.precision != "float32" and (engine != "equations" or dtype != np.float32):
        raise InputError(f"precision is {routing.precision!r}, expected engine='equations' and float32 weights for that")
    if routing.needs_bias and not config.router_bias:
        raise InputError("the router is 'bias', expected a Config with router_bias for that")


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
