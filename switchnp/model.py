"""A whole model: what it is loaded from, and the padded edge where [B, T] arrays become one row and come back."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from types import NoneType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import generation, gradients, memory, network, weights
from .config import Config
from .errors import InputError, TokenizerError
from .infilling import Filled, beams_for, fill
from .network import Row
from .output import Output, losses_of
from .padding import Batch, Edge, targets_of
from .routers import Mode
from .routing import Routing
from .search import GenerationConfig
from .setups import Weights, check_choices, check_fit, dropping, fastest, setup_of
from .speech import Speech
from .tokenizer import Tokenizer
from .tree import Tree
from .voices import Voices

__all__ = ["Output", "SwitchTransformer"]


class SwitchTransformer:
    """A Switch Transformer: Config, Routing, weights, and a tokenizer where there is one.

    params      all float32 or all float64; or as a file stores them, bfloat16 or int8 with scales
    engine      "fast", "kernels" (Numba) or "equations" (NumPy, the oracle); None: "fast", but for float64 and for a simulated
                precision. `trace` and `training` keep to the readable two
    generation  how its answers are searched for, unless told otherwise
    dtype       what the fast engine multiplies in: "float32", "bfloat16" or "int8"; None: as stored, but float32 for bfloat16
    threads     of the fast engine; None: as many as this process may use. Answers are the same bits for any number

    Raises ShapeError where `params` is not what `config` makes.
    """

    def __init__(
        self,
        config: Config,
        params: Tree,
        routing: Routing | None = None,
        tokenizer: Tokenizer | None = None,
        engine: str | None = None,
        provenance: dict[str, str] | None = None,
        generation: GenerationConfig | None = None,
        dtype: str | None = None,
        threads: int | None = None,
    ) -> None:
        if not isinstance(generation, (GenerationConfig, NoneType)):
            raise InputError(f"generation is {generation!a:.80}, expected a switchnp.GenerationConfig")
        check_choices(routing, engine or "fast")
        self.routing = Routing.paper() if routing is None else routing
        self._weights = Weights(config, params, dtype, threads)
        self.engine = engine or fastest(self.routing, self._weights)
        check_fit(self.routing, self._weights, self.engine)
        if tokenizer is not None:
            weights.check_vocabulary(tokenizer, config)
        self.config, self.tokenizer = config, tokenizer
        self._weights.make_ready(self.engine)
        self.provenance = dict(provenance or {})
        self.generation = GenerationConfig() if generation is None else generation

    @property
    def params(self) -> Tree:
        """The weights, all float32 or all float64."""
        return self._weights.readable

    @params.setter
    def params(self, params: Tree) -> None:
        ready = Weights(self.config, params, self._weights.dtype, self._weights.threads)
        ready.make_ready(self.engine)
        self._weights = ready

    @property
    def _setup(self) -> tuple[Any, Config, Routing, Tree]:
        return setup_of(self._weights, self.routing, self.engine)

    @property
    def _readable_setup(self) -> tuple[Any, Config, Routing, Tree]:
        """The same, by an engine that keeps what is on the way."""
        return setup_of(self._weights, self.routing, "kernels" if self.engine == "fast" else self.engine)

    @property
    def _passes(self) -> Any:
        """Encoder and decoder as this engine has them."""
        return _voices_of(self.engine).passes

    def _voices(self, row: Row, use_cache: bool, mode: Mode) -> Voices:
        return _voices_of(self.engine)(*self._setup, row, use_cache, mode)

    @property
    def _edge(self) -> Edge:
        return Edge(self.config, self.routing.pads != "removed")

    def _mode(self, training: bool, rng: np.random.Generator | None) -> Mode:
        _check_switches(training=training)
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
        prompts = self._edge.batch("input_ids", input_ids, attention_mask)
        words, targets = self._edge.words(prompts, decoder_input_ids, decoder_attention_mask, labels)
        self._check_memory(prompts.row)
        self._check_memory(words.row)
        setup, passes = (self._readable_setup, network) if training else (self._setup, self._passes)
        memory_td, encoder = passes.encode(*setup, prompts.row, mode=mode)
        last_td, decoder = passes.decode(*setup, words.row, memory_td, prompts.row, mode=mode)
        logits_tv = network.logits(setup[0], self.config, setup[-1], last_td)
        target_t = None if targets is None else targets_of(words, targets)
        losses = losses_of(*self._readable_setup[:3], logits_tv, target_t, (encoder, prompts.row), (decoder, words.row))
        return Output(words.padded(logits_tv), prompts.padded(memory_td), words.padded(last_td), **losses)

    def loss_and_grads(
        self,
        input_ids: ArrayLike,
        attention_mask: ArrayLike | None = None,
        decoder_input_ids: ArrayLike | None = None,
        decoder_attention_mask: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        training: bool = True,
        rng: np.random.Generator | None = None,
        dropout: float = 0.0,
        expert_dropout: float | None = None,
        smoothing: float = 0.0,
    ) -> tuple[float, Tree]:
        """The loss that training makes small, as `Output.loss` has it, and its gradient: a Tree of the shape of `params`.

        Computed by hand-written mirrors of the equations, on the readable engines. A choice of expert has no gradient
        (2n in docs/equations.md): the router learns by the gates of what was kept, and by its own losses.

        dropout         at every site that transformers has; inside experts `expert_dropout`, where it is another
        smoothing       the share of each target that is spread over all words

        Raises InputError.
        """
        rates = {"dropout": dropout, "expert_dropout": dropout if expert_dropout is None else expert_dropout}
        mode = dropping(self._mode(training, rng), rates, smoothing)
        prompts = self._edge.batch("input_ids", input_ids, attention_mask)
        words, targets = self._edge.words(prompts, decoder_input_ids, decoder_attention_mask, labels)
        if targets is None:
            raise InputError("labels are missing, expected the words that are to be learned")
        for batch in (prompts, words):
            self._check_memory(batch.row, engine="kernels")
        lesson = prompts, words, targets_of(words, targets)
        losses, grads = self.losses_and_grads(*lesson, mode, gradients.CrossEntropy(smoothing))
        return losses.loss, grads

    def losses_and_grads(
        self, prompts: Batch, words: Batch, target_t: NDArray[np.int64], mode: Mode, task: Any, share: float = 1.0
    ) -> tuple[gradients.Losses, Tree]:
        """The same of a lesson that is a row already, with all that went into the loss; the gradient times `share`."""
        return gradients.loss_and_gradients(*self._readable_setup, prompts.row, words.row, target_t, mode, task, share)

    def passed(
        self, prompts: Batch, words: Batch, rng: np.random.Generator | None = None
    ) -> tuple[tuple[Tree, Tree], NDArray[Any]]:
        """What the routers of encoder and decoder did with rows, and the logits of the words; by the readable engines."""
        setup, mode = self._readable_setup, self._mode(False, rng)
        memory_td, encoder = network.encode(*setup, prompts.row, mode=mode)
        last_td, decoder = network.decode(*setup, words.row, memory_td, prompts.row, mode=mode)
        return (encoder, decoder), network.logits(setup[0], self.config, setup[-1], last_td)

    def lesson(self, inputs: Any, targets: Any) -> tuple[Batch, Batch, NDArray[np.int64]]:
        """Prompts, the words before each word, and the words to say, as rows. Raises InputError."""
        prompts = self._edge.batch("inputs", inputs, None)
        words, labels = self._edge.words(prompts, None, None, targets)
        return prompts, words, targets_of(words, labels)

    def encode(
        self,
        input_ids: ArrayLike,
        attention_mask: ArrayLike | None = None,
        training: bool = False,
        rng: np.random.Generator | None = None,
    ) -> NDArray[Any]:
        """The encoder alone: its last hidden state, [B, S, D]."""
        mode = self._mode(training, rng)
        prompts = self._edge.batch("input_ids", input_ids, attention_mask)
        self._check_memory(prompts.row)
        setup, passes = (self._readable_setup, network) if training else (self._setup, self._passes)
        memory_td, _ = passes.encode(*setup, prompts.row, mode=mode)
        return prompts.padded(memory_td)

    def generate(
        self,
        prompts: str | Sequence[str] | ArrayLike,
        attention_mask: ArrayLike | None = None,
        max_new_tokens: int | None = None,
        *,
        use_cache: bool = True,
        return_scores: bool = False,
        stream: Callable[..., Any] | None = None,
        rng: np.random.Generator | None = None,
        **settings: Any,
    ) -> Any:
        """Answers: text to text, texts to texts, ids [B, S] to ids [B, at most 1 + max_new_tokens].

        settings        the fields of `switchnp.GenerationConfig`, instead of the model's own (`model.generation`):
                        min_new_tokens, num_beams, length_penalty, early_stopping, num_return_sequences, do_sample,
                        temperature, top_k, top_p, min_p, typical_p, repetition_penalty, no_repeat_ngram_size, bad_words,
                        prefix, stop, seed
        use_cache       False runs the whole decoder anew for every word, for study: it may drop tokens that the cached one
                        never drops (`generation.Voices` says why)
        return_scores   answers as `Answer`s: text, ids, score and the log-probability of each word
        stream          called with each new piece of text; with (number of the answer, piece) where there are several
        rng             of what the routing draws at random; sampling has its `seed`

        Texts keep their sentinels. Where `num_return_sequences` is above 1 a text gets a list, and ids that many rows each.
        Ids begin with the start id and the prefix; behind `</s>` they are filled with the pad id, or, as in the reference, behind
        the `</s>` of beams with the end id where the pad id is 0.

        Raises InputError or ConfigError for arguments that are none, contradict each other or leave no word to say.
        """
        given = settings if max_new_tokens is None else settings | {"max_new_tokens": max_new_tokens}
        _check_switches(use_cache=use_cache, return_scores=return_scores)
        config = self.generation.changed(given)
        texts = _texts(prompts)
        batch = self._prompts(texts, prompts, attention_mask)
        speech = Speech(config, self._tokenizer() if texts is not None else self.tokenizer, self.config)
        count = config.num_return_sequences
        task = speech.task(stream, alone=batch.row.sentences * count == 1)
        words = config.max_new_tokens + len(speech.start_t)
        self._check_memory(batch.row, words, batch.row.sentences * max(count, config.num_beams))
        found = generation.search(self._voices(batch.row, use_cache, self._mode(False, rng)), task)
        if texts is None and not return_scores:
            return speech.padded(found)
        answers = speech.answers(found, return_scores)
        return answers[0] if isinstance(prompts, str) else answers

    def score(
        self,
        prompts: str | Sequence[str] | ArrayLike,
        answers: str | Sequence[str] | ArrayLike,
        rng: np.random.Generator | None = None,
    ) -> Any:
        """How likely each prompt's answer is: an `Answer` with the log-probability of each word, and their sum as its score.

        A text's answer ends in `</s>`. Words are heard one at a time, as `generate` says them. Raises InputError.
        """
        texts, words = _texts(prompts), _texts(answers)
        batch = self._prompts(texts, prompts, None)
        if words is None:
            said = self._edge.batch("answers", answers, None)
            ids = [said.row.ids_t[span][said.row.mask_t[span]].tolist() for span in said.row.spans]
        else:
            ids = [self._tokenizer().encode(text) for text in words]
        if len(ids) != batch.row.sentences:
            raise InputError(f"there are {len(ids)} answers, expected {batch.row.sentences} like prompts")
        self._check_memory(batch.row, max(map(len, ids)), len(ids))
        voices = self._voices(batch.row, True, self._mode(False, rng))
        speech = Speech(GenerationConfig(), self.tokenizer, self.config)
        told = [speech.answer(each) for each in generation.told(voices, speech.start_t, ids)]
        return told[0] if isinstance(prompts, str) else told

    def fill(self, text: str, candidates: int = 5, max_new_tokens: int = 32, rng: np.random.Generator | None = None) -> Filled:
        """A text whose gaps `<extra_id_0>`, `<extra_id_1>`, ... are filled, and each gap's likeliest candidates.

        Raises InputError where the text has no gap, or one of them twice.
        """
        search, mode = beams_for(candidates, max_new_tokens), self._mode(False, rng)
        batch = self._prompts([text], text, None)
        self._check_memory(batch.row, max_new_tokens, search.num_beams)
        return fill(self._voices(batch.row, True, mode), self.config, self._tokenizer(), text, search, candidates)

    def _check_memory(self, row: Row, words: int = 0, voices: int = 0, engine: str | None = None) -> None:
        memory.check(self.config, row, words, voices, self._weights.itemsize, engine or self.engine)

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
        given = text_or_ids, attention_mask, decoder_input_ids, decoder_attention_mask
        return self._through(*given, self._mode(training, rng), "kernels" if self.engine == "fast" else self.engine)

    def routes(
        self,
        text_or_ids: str | Sequence[str] | ArrayLike,
        decoder_input_ids: ArrayLike | None = None,
        rng: np.random.Generator | None = None,
    ) -> Tree:
        """What every router decided and what came of it, by the model's own engine: a trace with little in it.

        `routes.encoder.blocks[1].switch` has the logits h_te, probabilities p_te, expert_t and slot_t; `routes.decoder.logits_tv`
        how well each word would come next. Without `decoder_input_ids` the decoder is given the greedy answer.
        """
        return self._through(text_or_ids, None, decoder_input_ids, None, self._mode(False, rng), self.engine)

    def _through(self, text_or_ids: Any, mask: Any, words: Any, words_mask: Any, mode: Mode, engine: str) -> Tree:
        prompts = self._prompts(_texts(text_or_ids), text_or_ids, mask)
        setup, voices = setup_of(self._weights, self.routing, engine), _voices_of(engine)
        self._check_memory(prompts.row, engine=engine)
        if words is None:
            if words_mask is not None:
                raise InputError("decoder_attention_mask is given without decoder_input_ids")
            words, words_mask = self._answered(voices(*setup, prompts.row, True, self._mode(False, mode.rng)))
        spoken = self._edge.batch("decoder_input_ids", words, words_mask, like=prompts)
        self._check_memory(spoken.row, engine=engine)
        memory_td, encoder = voices.passes.encode(*setup, prompts.row, keep=True, mode=mode)
        last_td, decoder = voices.passes.decode(*setup, spoken.row, memory_td, prompts.row, keep=True, mode=mode)
        decoder.logits_tv = network.logits(setup[0], self.config, setup[-1], last_td)
        return Tree(encoder=encoder, decoder=decoder)

    def save(self, path: str | os.PathLike[str], dtype: str = "float32", force: bool = False) -> None:
        """Write the model to one HDF5 file, whole or not at all; an existing file only with `force`.

        dtype   on disk: "float32", "bfloat16" or "int8", rounded to nearest even
        """
        weights.save(
            path,
            self.params,
            self.config,
            self.routing,
            dtype=dtype,
            tokenizer=self.tokenizer.model_bytes if self.tokenizer else None,
            provenance=self.provenance,
            generation=self.generation,
            force=force,
        )

    def _answered(self, voices: Voices) -> tuple[Any, Any]:
        speech = Speech(GenerationConfig(), self.tokenizer, self.config)
        found = generation.search(voices, speech.task())
        words = speech.padded(found)[:, :-1]
        ended = np.cumsum(words == self.config.eos_token_id, axis=1) > 0
        return words, ~ended

    def _prompts(self, texts: list[str] | None, ids: Any, mask: ArrayLike | None) -> Batch:
        if texts is None:
            return self._edge.batch("input_ids", ids, mask)
        if mask is not None:
            raise InputError("attention_mask is given with text, expected one only with ids")
        return self._edge.batch("input_ids", [self._tokenizer().encode(text) for text in texts], None)

    def _tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise TokenizerError("this model has no tokenizer, expected ids instead of text (or convert it with --tokenizer)")
        return self.tokenizer


def _voices_of(engine: str) -> Any:
    if engine != "fast":
        return Voices
    from .engine.voices import Voices as FastVoices

    return FastVoices


def _check_switches(**switches: Any) -> None:
    for name, value in switches.items():
        if not isinstance(value, (bool, np.bool_)):
            raise InputError(f"{name} is {value!a:.80}, expected True or False")


def _texts(prompts: Any) -> list[str] | None:
    if isinstance(prompts, str):
        return [prompts]
    if isinstance(prompts, (list, tuple)) and prompts and all(isinstance(prompt, str) for prompt in prompts):
        return list(prompts)
    return None
