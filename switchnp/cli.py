"""The command line: stdout is the answer, stderr is the talk; 0 done, 1 explained, 2 misused."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, NamedTuple

from .errors import FileError, SwitchError
from .files import shown

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        options = _parser().parse_args(arguments)
        with warnings.catch_warnings(), _terminated_cleanly():
            warnings.showwarning = _one_line_warnings()
            answer = options.command(options)
        _say(answer)
    except KeyboardInterrupt:
        return _explained("interrupted", 130)
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
    """The greedy answer to each prompt."""
    model = _load(options)
    answers = model.generate(options.prompts, max_new_tokens=options.max_new_tokens, rng=_rng(options))
    if options.json:
        return _json([{"prompt": prompt, "answer": answer} for prompt, answer in zip(options.prompts, answers, strict=True)])
    return "\n".join(map(_plain, answers))


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
    from .comparison import compare
    from .model import load
    from .routing import ORIGINS, Routing, table

    if options.compare is None:
        rows = table()
        if options.json:
            return _json({"origins": ORIGINS, "choices": rows})
        origins = [f"{name:<16}  {origin}" for name, origin in ORIGINS.items()]
        return "\n".join([*_columns(rows), "", *origins])
    first, second, file, text = options.compare
    routings = _routing(first), _routing(second)
    comparison = compare(load(file, Routing.paper()), *routings, text, options.seed)
    if options.json:
        return _json(asdict(comparison))
    return "\n".join(map(_plain, str(comparison).split("\n")))


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
                for token, seat in zip(tokens, seats(block.switch, len(tokens), model.routing.of(name)), strict=True):
                    slots = [slot if slot >= 0 else None for slot in seat.slots]
                    columns: Any = (list(seat.experts), list(seat.gates), slots)
                    yield Place(name, layer, token, *(column[0] if len(column) == 1 else column for column in columns))


def _load(options: argparse.Namespace) -> Any:
    from .model import load
    from .weights import read_header

    routing = options.routing or read_header(options.file)[0].routing
    engine = options.engine or ("kernels" if routing.precision == "float32" else "equations")
    return load(options.file, routing=routing, engine=engine)


def _rng(options: argparse.Namespace) -> Any:
    import numpy as np

    return np.random.default_rng(options.seed)


def _routing(text: str) -> Any:
    from .routing import Routing

    return Routing.named(text)


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


def _say(answer: str) -> None:
    if sys.stdout is None:
        return
    try:
        print(answer, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
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


def _parser() -> argparse.ArgumentParser:
    from . import __version__

    parser = argparse.ArgumentParser(
        prog="switchnp", allow_abbrev=False, description="Switch Transformers in NumPy, Numba and HDF5."
    )
    parser.add_argument("--version", action="version", version=f"switchnp {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _info_options(commands)
    _generate_options(commands)
    _convert_options(commands)
    _trace_options(commands)
    _routing_options(commands)
    return parser


def _info_options(commands: Any) -> None:
    command = _command(commands, info, "switchnp info weights/switch-numbers.h5")
    command.add_argument("file", help="a switchnp HDF5 file")
    command.add_argument("--verify", action="store_true", help="read every weight too, and check its sha256")


def _generate_options(commands: Any) -> None:
    command = _command(commands, generate, 'switchnp generate weights/switch-numbers.h5 "say in French: 1984"')
    command.add_argument("file", help="a switchnp HDF5 file")
    command.add_argument("prompts", nargs="+", metavar="prompt", help="one or more texts; each is answered on a line")
    command.add_argument("--max-new-tokens", type=_count, default=64, metavar="N", help="stop after N tokens (default 64)")
    _engine_options(command)


def _convert_options(commands: Any) -> None:
    command = _command(commands, convert, "switchnp convert switch-base-8/ base-8.h5 --dtype bfloat16")
    command.add_argument("source", help="a Hugging Face folder: config.json, weights, spiece.model")
    command.add_argument("target", help="the HDF5 file to write")
    command.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="on disk (default float32)")
    command.add_argument("--tokenizer", metavar="FILE", help="a SentencePiece model instead of the folder's spiece.model")
    command.add_argument("--force", action="store_true", help="overwrite the target")


def _trace_options(commands: Any) -> None:
    command = _command(commands, trace, 'switchnp trace weights/switch-numbers.h5 "say in French: 1984"')
    command.add_argument("file", help="a switchnp HDF5 file")
    command.add_argument("text", help="the encoder's text; the decoder is given the greedy answer")
    _engine_options(command)


def _engine_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--routing", type=_preset, metavar="NAME", help="instead of the file's own: a preset, and changes as ',field=value'"
    )
    command.add_argument("--engine", choices=("kernels", "equations"), help="Numba (the default) or NumPy")
    _seed_option(command)


def _routing_options(commands: Any) -> None:
    example = 'switchnp routing --compare huggingface paper,capacity=1 weights/switch-numbers.h5 "say in French: 1984"'
    command = _command(commands, routing, example)
    command.add_argument(
        "--compare", nargs=4, metavar=("A", "B", "FILE", "TEXT"), help="two presets, each with changes as ',field=value' if any"
    )
    _seed_option(command)


def _seed_option(command: argparse.ArgumentParser) -> None:
    command.add_argument("--seed", type=_seed, default=0, help="of what a routing draws at random (default 0)")


def _preset(text: str) -> Any:
    try:
        return _routing(text)
    except SwitchError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seed(text: str) -> int:
    if not (text.isdecimal() and text.isascii() and len(text) < 1000):
        raise argparse.ArgumentTypeError(f"it is {text!a:.80}, expected a whole number of 0 or more")
    return int(text)


def _count(text: str) -> int:
    if _seed(text) < 1:
        raise argparse.ArgumentTypeError("it is 0, expected a whole number of 1 or more")
    return int(text)


def _command(commands: Any, function: Any, example: str) -> argparse.ArgumentParser:
    about = function.__doc__
    command = commands.add_parser(
        function.__name__, allow_abbrev=False, help=about, description=about, epilog=f"example: {example}"
    )
    command.set_defaults(command=function)
    command.add_argument("--json", action="store_true", help="answer in JSON")
    return command
