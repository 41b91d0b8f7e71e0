"""The command line: stdout is the answer, stderr is the talk; 0 done, 1 explained, 2 misused."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any, NamedTuple

from . import __version__
from .arguments import parsed, search_settings
from .benchmark.command import bench
from .data.command import vocabulary
from .errors import FileError, InputError, SwitchError
from .files import shown
from .plots import plot
from .scoreboard import evaluate
from .training.command import distill, train
from .warming import warmup

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        options = parsed(COMMANDS, __version__, arguments)
        with warnings.catch_warnings(), _terminated_cleanly():
            warnings.showwarning = _one_line_warnings()
            answer = options.command(options)
        if answer:
            _say(answer)
    except _NobodyListens:
        return 0
    except KeyboardInterrupt as stop:
        return _explained(str(stop) or "interrupted", 130)
    except Exception as error:
        return _explained(_sentence(error))
    return 0


def info(options: argparse.Namespace) -> str:
    """What a weights file holds; its structure is checked, and with --verify its weights too."""
    from . import weights

    header, arrays = weights.read_header(options.file)
    if options.verify:
        weights.verify(options.file)
    facts = _facts(options.file, header) | {"verified": options.verify}
    if options.json:
        routing = {"routing": asdict(header.routing), "config": asdict(header.config)}
        return _json(facts | routing | {"arrays": {array.path: list(array.shape) for array in arrays}})
    return _fact_lines(facts, header)


def generate(options: argparse.Namespace) -> str:
    """The answer to each prompt, on a line of its own; without a prompt, to each line of stdin."""
    prompts = options.prompts or _lines_of_stdin()
    settings = search_settings(options)
    model = _load(options)
    config = model.generation.changed(settings)
    if options.stream:
        if config.num_return_sequences > 1:
            raise InputError("--stream is given with several answers to a prompt, expected one")
        return _streamed(model, prompts, settings, options)
    batches = [prompts[n : n + options.batch_size] for n in range(0, len(prompts), options.batch_size)]
    answers: list[Any] = []
    with _journal(options, prompts, config) as journal, _progress(len(prompts)) as progress:
        for n, batch in enumerate(batches):
            if n >= len(journal.entries):
                journal.append(model.generate(batch, rng=_rng(options), **settings))
            _check_entry(journal.entries[n], len(batch), config.num_return_sequences)
            answers += journal.entries[n]
            if not options.json:
                _say("\n".join(map(_line, journal.entries[n])))
            progress.update(len(batch))
        if options.json:
            _say(_json([{"prompt": prompt, "answer": answer} for prompt, answer in zip(prompts, answers, strict=True)]))
        journal.remove()
    return ""


def fill(options: argparse.Namespace) -> str:
    """A text whose gaps <extra_id_0>, <extra_id_1>, ... are filled, and the likeliest candidates of each gap."""
    filled = _load(options).fill(options.text, options.candidates, options.max_new_tokens)
    if options.json:
        gaps = {gap.sentinel: [{"text": text, "probability": p} for text, p in gap.candidates] for gap in filled.gaps}
        return _json({"text": filled.text, "gaps": gaps})
    lines = [_plain(filled.text)]
    lines += [f"{gap.sentinel:<14} {p:<9.3g}  {_plain(text)}" for gap in filled.gaps for text, p in gap.candidates]
    return "\n".join(lines)


def score(options: argparse.Namespace) -> str:
    """How likely an answer is: the log-probability of each of its words, in nats, and their sum."""
    model = _load(options)
    answer = model.score(options.prompt, options.answer)
    words = list(zip(model.tokenizer.pieces(answer.ids), answer.logprobs, strict=True))
    if options.json:
        return _json({"score": answer.score, "words": [{"token": word, "logprob": logprob} for word, logprob in words]})
    return "\n".join([*(f"{_plain(word):<16} {logprob:10.4f}" for word, logprob in words), f"{'total':<16} {answer.score:10.4f}"])


def _streamed(model: Any, prompts: list[str], settings: dict[str, Any], options: argparse.Namespace) -> str:
    """Each answer as it is said, one prompt after the other."""
    if options.json or options.resume:
        raise InputError("--stream is given with --json or --resume, expected it without them")
    for prompt in prompts:
        model.generate(prompt, rng=_rng(options), stream=lambda *said: _say(_plain(said[-1]), end=""), **settings)
        _say("")
    return ""


def _lines_of_stdin() -> list[str]:
    try:
        lines = sys.stdin.buffer.read().decode("utf-8").split("\n")
    except AttributeError:
        raise FileError("stdin is closed, expected prompts on it or as arguments") from None
    except (OSError, ValueError) as error:
        raise FileError(f"stdin cannot be read as text: {error}") from None
    lines = [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]
    if not lines:
        raise InputError("there is no prompt, expected one as an argument or one a line on stdin")
    return lines


def _line(answer: str | list[str]) -> str:
    return "\t".join(map(_plain, [answer] if isinstance(answer, str) else answer))


@contextmanager
def _journal(options: argparse.Namespace, prompts: list[str], config: Any) -> Iterator[Any]:
    """The answers of earlier runs of this very job, and a place for new ones: a file with --resume, else the memory."""
    from . import weights
    from .journal import Journal, Memory

    if options.resume is None:
        yield Memory()
        return
    _check_apart(options.resume)
    header, arrays = weights.read_header(options.file)
    model = [header.config.to_json(), hashlib.sha256(header.tokenizer or b"").hexdigest(), [a.sha256 for a in arrays]]
    routing = (options.routing or header.routing).to_json()
    settings = [options.engine, options.dtype, options.batch_size, options.seed]
    said = [__version__, prompts, config.to_json(), routing, *settings, model]
    with Journal(options.resume, hashlib.sha256(json.dumps(said).encode()).hexdigest()) as journal:
        yield journal


def _check_apart(journal: str) -> None:
    """Refuse a journal that cannot be kept apart from the answers."""
    if sys.stdout is None:
        raise FileError("stdout is closed, expected a place for the answers with --resume")
    same = False
    with suppress(OSError, ValueError):
        same = os.path.samestat(os.stat(journal), os.fstat(sys.stdout.fileno()))
    if same:
        raise FileError(f"{shown(journal)} is where the answers go, expected another file for --resume")


def _check_entry(entry: Any, prompts: int, count: int) -> None:
    """Raise FileError unless a journal's entry is the answers to so many prompts."""
    one = isinstance(entry, list) and len(entry) == prompts
    texts = [text for answer in entry for text in ([answer] if count == 1 else answer)] if one else [None]
    if not all(isinstance(text, str) for text in texts) or len(texts) != prompts * count:
        raise FileError("the journal has an entry that is not the answers of its prompts, expected one that this command wrote")


class _NobodyListens(Exception):
    """Whoever read the answers has gone."""


def _progress(total: int) -> Any:
    """A bar on stderr where somebody looks and there is something to wait for."""
    from tqdm import tqdm

    return tqdm(total=total, unit="prompt", file=sys.stderr, disable=None if total > 1 else True)


def convert(options: argparse.Namespace) -> str:
    """A Hugging Face folder becomes one HDF5 file."""
    from . import weights
    from .conversion import convert as convert_folder

    convert_folder(options.source, options.target, options.dtype, options.tokenizer, options.force)
    header, _ = weights.read_header(options.target)
    facts = _facts(options.target, header)
    if options.json:
        return _json(facts)
    return f"{shown(options.target)}: {facts['parameters']:,} parameters in {facts['dtype']}, {facts['bytes']:,} bytes"


def quantize(options: argparse.Namespace) -> str:
    """The same model in fewer bits, and what that costs: how far weights, experts, logits and answers are off."""
    from .narrowing import narrow

    narrowing = narrow(options.file, options.output, options.dtype, options.force, options.text)
    return _json(asdict(narrowing)) if options.json else str(narrowing)


def trace(options: argparse.Namespace) -> str:
    """Where each token went: its expert, its gate and its slot in every sparse layer."""
    model = _load(options)
    places = list(_places(model, model.trace(options.text, rng=_rng(options))))
    if options.json:
        return _json([place._asdict() for place in places])
    lines = []
    for stack in ("encoder", "decoder"):
        lines += [stack, f"{'token':<16} {'layer':>5} {'expert':>6} {'gate':>6}  slot"]
        for _, layer, token, *seat in (place for place in places if place.stack == stack):
            expert, gate, slot = (_listed(it if isinstance(it, list) else [it]) for it in seat)
            lines.append(f"{_plain(token):<16} {layer:>5} {expert:>6} {gate:>6}  {slot}")
    return "\n".join(lines)


def routing(options: argparse.Namespace) -> str:
    """Every preset of routing, choice by choice; or one text under two of them."""
    from .catalogue import ORIGINS, table
    from .comparison import compare
    from .loading import load
    from .routing import Routing

    if options.compare is None:
        rows = table()
        if options.json:
            return _json({"origins": ORIGINS, "choices": rows})
        origins = [f"{name:<16}  {origin}" for name, origin in ORIGINS.items()]
        return "\n".join([*_columns(rows), "", *origins])
    first, second, file, text = options.compare
    routings = Routing.named(first), Routing.named(second)
    comparison = compare(load(file, Routing.paper()), *routings, text, options.seed)
    if options.json:
        tokens = [token._asdict() | {"a": token.a._asdict(), "b": token.b._asdict()} for token in comparison.tokens]
        return _json(asdict(comparison) | {"tokens": tokens})
    return "\n".join(map(_plain, str(comparison).split("\n")))


_HERE = (info, generate, fill, score, convert, quantize, trace, routing)
_ELSEWHERE = (train, distill, evaluate, plot, vocabulary, warmup, bench)
COMMANDS = {command.__name__: command for command in (*_HERE, *_ELSEWHERE)}


def _columns(rows: list[dict[str, str]]) -> list[str]:
    """Rows of one shape as a table with a head."""
    rows = [{name: name for name in rows[0]}, *rows]
    widths = {name: max(len(row[name]) for row in rows) for name in rows[0]}
    return ["  ".join(f"{word:<{widths[name]}}" for name, word in row.items()).rstrip() for row in rows]


class Place(NamedTuple):
    """Where one token went in one sparse layer; a router with several choices makes lists."""

    stack: str
    layer: int
    token: str
    expert: int | list[int]
    gate: float | list[float]
    slot: int | list[int | None] | None


def _places(model: Any, arrays: Any) -> Iterator[Place]:
    from .comparison import seats

    for name in ("encoder", "decoder"):
        stack = arrays[name]
        tokens = model.tokenizer.pieces(stack.ids_t.tolist())
        for layer, block in enumerate(stack.blocks):
            if "switch" in block:
                routing = model.routing.of(name)
                for token, seat in zip(tokens, seats(block.switch, len(tokens), routing), strict=True):
                    slots = [slot if slot >= 0 else None for slot in seat.slots]
                    columns: Any = (list(seat.experts), list(seat.gates), slots)
                    yield Place(name, layer, token, *(columns if routing.several else (column[0] for column in columns)))


def _load(options: argparse.Namespace) -> Any:
    from .loading import load

    return load(options.file, options.routing, options.engine, options.dtype, threads=options.threads)


def _rng(options: argparse.Namespace) -> Any:
    import numpy as np

    return np.random.default_rng(options.seed or 0)


def _facts(path: str, header: Any) -> dict[str, Any]:
    """What programs may want to know of a file, as numbers and names."""
    return {
        "parameters": header.config.num_parameters,
        "dtype": header.dtype,
        "bytes": os.path.getsize(path),
        "routing": header.routing.name,
        "tokenizer_bytes": None if header.tokenizer is None else len(header.tokenizer),
        "provenance": header.provenance,
    }


def _fact_lines(facts: dict[str, Any], header: Any) -> str:
    config = header.config
    gated, tied = (" (gated)" if config.is_gated_act else ""), ("tied" if config.tie_word_embeddings else "untied")
    lines = {
        "parameters": f"{facts['parameters']:,} in {facts['dtype']}",
        "file": f"{facts['bytes']:,} bytes, {'weights verified' if facts['verified'] else 'weights not read (--verify)'}",
        "layers": f"{config.num_layers} encoder, {config.num_decoder_layers} decoder",
        "sparse": f"encoder {_listed(config.sparse_encoder_layers)}; decoder {_listed(config.sparse_decoder_layers)}",
        "experts": f"{config.num_experts}, expert_capacity {config.expert_capacity}",
        "d_model": f"{config.d_model}, {config.num_heads} heads of {config.d_kv}, d_ff {config.d_ff}",
        "activation": config.dense_act_fn + gated,
        "vocabulary": f"{config.vocab_size}, {tied}",
        "routing": facts["routing"],
        "tokenizer": f"{facts['tokenizer_bytes']:,} bytes" if facts["tokenizer_bytes"] else "none (ids only)",
        **{f"origin {name}": text for name, text in sorted(facts["provenance"].items())},
    }
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {line}" for name, line in lines.items())


def _listed(items: Sequence[int | float | None]) -> str:
    words = ("dropped" if it is None else f"{it:.3f}" if isinstance(it, float) else str(it) for it in items)
    return " ".join(words) or "none"


def _json(value: Any) -> str:
    return json.dumps(value, indent=1)


def _plain(text: str) -> str:
    """A text on one line, without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _say(answer: str, end: str = "\n") -> None:
    if sys.stdout is None:
        return
    try:
        print(answer, end=end, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise _NobodyListens from None
    except OSError as error:
        raise FileError(f"the answer cannot be written: {error.strerror}") from None


@contextmanager
def _terminated_cleanly() -> Iterator[None]:
    """Let a polite kill unwind like an exit, so that temporary files go."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _one_line_warnings() -> Callable[..., None]:
    """Shows each warning once, on a line."""
    said: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        if str(message) not in said:
            said.add(str(message))
            _explained(f"warning: {message}")

    return show


def _explained(sentence: str, status: int = 1) -> int:
    if sys.stderr is not None:
        print(f"switchnp: {sentence}", file=sys.stderr)
    return status


def _sentence(error: Exception) -> str:
    said = " ".join(str(error).split())
    if isinstance(error, SwitchError):
        return said
    if isinstance(error, MemoryError):
        return f"out of memory ({said})" if said else "out of memory"
    return f"unexpected {type(error).__name__}, which is a bug: {said}"
