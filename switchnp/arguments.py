"""What the command line understands."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from .errors import SwitchError
from .search import RANGES, GenerationConfig

__all__ = ["parsed", "parser", "search_settings"]

Command = Callable[[argparse.Namespace], str]
_HELP = {
    "max_new_tokens": "stop after N tokens",
    "min_new_tokens": "no end before N tokens",
    "num_beams": "keep N answers at a time",
    "length_penalty": "of beams: above 0 favours long answers",
    "early_stopping": "when beams may stop",
    "num_return_sequences": "N answers to a prompt, between tabs",
    "do_sample": "draw words at random",
    "temperature": "below 1 likely words become likelier",
    "top_k": "draw from the N likeliest words",
    "top_p": "draw from the likeliest words with this probability",
    "min_p": "draw from words so many times as likely as the likeliest",
    "typical_p": "draw from the most typical words with this probability",
    "repetition_penalty": "above 1 makes what was said less likely",
    "no_repeat_ngram_size": "say no N words twice",
    "bad_words": "what must not be said; may be given again",
    "prefix": "how every answer begins",
    "stop": "a text that ends an answer; may be given again",
    "seed": "of sampling, and of what a routing draws",
}


def parser(commands: Mapping[str, Command], version: str) -> argparse.ArgumentParser:
    """The parser of these commands by name; a command's docstring is its help."""
    whole = argparse.ArgumentParser(
        prog="switchnp", allow_abbrev=False, description="Switch Transformers in NumPy, Numba and HDF5."
    )
    whole.add_argument("--version", action="version", version=f"switchnp {version}")
    below = whole.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, (example, options) in _COMMANDS.items():
        about = commands[name].__doc__
        command = below.add_parser(name, allow_abbrev=False, help=about, description=about, epilog=f"example: {example}")
        command.set_defaults(command=commands[name])
        command.add_argument("--json", **_JSON.get(name, {"action": "store_true", "help": "answer in JSON"}))
        options(command)
    return whole


def parsed(commands: Mapping[str, Command], version: str, arguments: Sequence[str] | None) -> argparse.Namespace:
    """What these arguments ask for; prompts may stand behind options too."""
    whole = parser(commands, version)
    options, rest = whole.parse_known_args(arguments)
    strange = [word for word in rest if word.startswith("-") or not hasattr(options, "prompts")]
    if strange:
        known = [f"--{name.replace('_', '-')}" for name in vars(options)]
        near = difflib.get_close_matches(strange[0].partition("=")[0], known, 1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        whole.error(f"unrecognized arguments: {' '.join(strange)}{meant}")
    if rest:
        options.prompts = [*options.prompts, *rest]
    return options


def search_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `generate` that were given."""
    given = {field.name: getattr(options, field.name) for field in fields(GenerationConfig)}
    return {name: value for name, value in given.items() if value is not None}


def _info(command: argparse.ArgumentParser) -> None:
    _file(command)
    command.add_argument("--verify", action="store_true", help="read every weight too, and check its sha256")


def _generate(command: argparse.ArgumentParser) -> None:
    _file(command)
    command.add_argument("prompts", nargs="*", metavar="prompt", help="texts to answer (default: the lines of stdin)")
    for field in fields(GenerationConfig):
        name, about = f"--{field.name.replace('_', '-')}", f"{_HELP[field.name]} (default: the model's own)"
        kind = _KINDS[str(field.type)]
        command.add_argument(name, help=about, **kind | {"type": _ranged(field.name, kind["type"])} if "type" in kind else kind)
    command.add_argument("--stream", action="store_true", help="show each answer as it is said")
    command.add_argument("--batch-size", type=_count, default=8, metavar="N", help="answer N prompts at a time (default 8)")
    command.add_argument("--resume", metavar="FILE", help="keep answers in FILE till all are said; the same command then goes on")
    _engine(command)


def _fill(command: argparse.ArgumentParser) -> None:
    _file(command)
    command.add_argument("text", help="with <extra_id_0>, <extra_id_1>, ... where words are missing")
    command.add_argument("--candidates", type=_count, default=5, metavar="N", help="show N of each gap (default 5)")
    command.add_argument("--max-new-tokens", type=_count, default=32, metavar="N", help="of a gap (default 32)")
    _engine(command)
    _seed(command)


def _score(command: argparse.ArgumentParser) -> None:
    _file(command)
    command.add_argument("prompt")
    command.add_argument("answer")
    _engine(command)
    _seed(command)


def _evaluate(command: argparse.ArgumentParser) -> None:
    _file(command)
    command.add_argument("pairs", metavar="tasks", help="a file of lines prompt<TAB>answer[<TAB>task]")
    command.add_argument("--batch-size", type=_count, default=64, metavar="N", help="ask N prompts at a time (default 64)")
    command.add_argument("--limit", type=_count, metavar="N", help="ask the first N of each task alone")
    _engine(command)
    _seed(command)


def _convert(command: argparse.ArgumentParser) -> None:
    command.add_argument("source", help="a Hugging Face folder: config.json, weights, spiece.model")
    command.add_argument("target", help="the HDF5 file to write")
    command.add_argument("--dtype", choices=("float32", "bfloat16", "int8"), default="float32", help="on disk (default float32)")
    command.add_argument("--tokenizer", metavar="FILE", help="a SentencePiece model instead of the folder's spiece.model")
    command.add_argument("--force", action="store_true", help="overwrite the target")


def _quantize(command: argparse.ArgumentParser) -> None:
    _file(command)
    command.add_argument("-o", "--output", required=True, metavar="TARGET", help="the HDF5 file to write")
    command.add_argument("--dtype", choices=("int8", "bfloat16"), default="int8", help="on disk (default int8)")
    command.add_argument("--force", action="store_true", help="overwrite the target")
    about = "compare answers on these texts, or on the lines of a file (default: a few of its own)"
    command.add_argument("--text", nargs="+", action="extend", metavar="FILE_OR_TEXT", help=about)


def _trace(command: argparse.ArgumentParser) -> None:
    _file(command)
    command.add_argument("text", help="the encoder's text; the decoder is given the greedy answer")
    _engine(command)
    _seed(command)


def _routing(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--compare", nargs=4, metavar=("A", "B", "FILE", "TEXT"), help="two presets, each with changes as ',field=value' if any"
    )
    _seed(command)


def _vocabulary(command: argparse.ArgumentParser) -> None:
    command.add_argument("files", nargs="+", metavar="file", help="texts and tables, UTF-8; each column of a line is a sentence")
    command.add_argument("-o", "--output", required=True, metavar="TARGET", help="the SentencePiece model to write")
    command.add_argument("--size", type=_count, required=True, metavar="N", help="how many pieces, T5's sentinels not among them")
    command.add_argument("--byte-fallback", action="store_true", help="spell rare characters in bytes instead of <unk>")
    command.add_argument("--split-digits", action="store_true", help="each digit is a piece")
    command.add_argument("--symbol", action="append", default=[], metavar="TEXT", help="always a piece; may be given again")
    command.add_argument("--force", action="store_true", help="overwrite the target")


def _train(command: argparse.ArgumentParser) -> None:
    command.add_argument("recipe", metavar="recipe.toml", help="what is trained, on what, how, and where it is kept")
    command.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the recipe's folder, if any")
    command.add_argument("--steps", type=_count, metavar="N", help="instead of the recipe's")


def _plot(command: argparse.ArgumentParser) -> None:
    command.add_argument("run", help="the folder of a training run, with its metrics.jsonl")
    about = "the picture to write, .svg, .png or .pdf (default: metrics.svg in the folder)"
    command.add_argument("-o", "--output", metavar="TARGET", help=about)


def _warmup(command: argparse.ArgumentParser) -> None:
    """It has no options but --json."""


def _bench(command: argparse.ArgumentParser) -> None:
    _file(command)
    command.add_argument("--against", metavar="NAME,...", help="transformers, ctranslate2 (default: nobody)")
    command.add_argument("--metrics", metavar="NAME,...", help="decode, encode, start, bandwidth (default: all)")
    command.add_argument("--threads", metavar="N,...", help="each in a race of its own (default: as many as there are cores)")
    command.add_argument("--rounds", type=_count, default=5, metavar="N", help="values behind each median (default 5)")
    command.add_argument("--python", metavar="FILE", help="the interpreter that has the others (default: this one)")
    command.add_argument("--cache", metavar="FOLDER", help="keep the others' models for the next time")
    command.add_argument("--force", action="store_true", help="overwrite the file of --json")


def _file(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", help="a switchnp HDF5 file")


def _engine(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--routing", type=_preset, metavar="NAME", help="instead of the file's own: a preset, and changes as ',field=value'"
    )
    about = "fast (the default), kernels (Numba, readable) or equations (NumPy)"
    command.add_argument("--engine", choices=("fast", "kernels", "equations"), help=about)
    about = "what the fast engine multiplies in (default: int8 where the file has int8, else float32)"
    command.add_argument("--dtype", choices=("float32", "bfloat16", "int8"), help=about)
    about = "of the fast engine (default: as many as this process may use)"
    command.add_argument("--threads", type=_count, metavar="N", help=about)


def _seed(command: argparse.ArgumentParser) -> None:
    command.add_argument("--seed", type=_whole, default=0, help="of what a routing draws at random (default 0)")


def _preset(text: str) -> Any:
    from .routing import Routing

    try:
        return Routing.named(text)
    except SwitchError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _whole(text: str) -> int:
    if not (text.isdecimal() and text.isascii() and len(text) < 1000):
        raise argparse.ArgumentTypeError(f"it is {text!a:.80}, expected a whole number of 0 or more")
    return int(text)


def _count(text: str) -> int:
    try:
        number = _whole(text)
    except argparse.ArgumentTypeError:
        number = 0
    if not number:
        raise argparse.ArgumentTypeError(f"it is {text!a:.80}, expected a whole number of 1 or more")
    return number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"it is {text!a:.80}, expected a number") from None


def _ranged(name: str, read: Callable[[str], Any]) -> Callable[[str], Any]:
    """What `read` makes of a text, if the argument of this name may be that."""
    fits, wanted = RANGES.get(name, (lambda _: True, ""))

    def ranged(text: str) -> Any:
        value = read(text)
        if not fits(value):
            raise argparse.ArgumentTypeError(f"it is {text!a:.80}, expected {wanted}")
        return value

    return ranged


def _stopping(text: str) -> bool | str:
    words: dict[str, bool | str] = {"true": True, "false": False, "never": "never"}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f"it is {text!a:.80}, expected true, false or never")
    return words[text.lower()]


_KINDS: dict[str, dict[str, Any]] = {
    "int": {"type": _whole, "metavar": "N"},
    "float": {"type": _number, "metavar": "X"},
    "bool": {"action": "store_true", "default": None},
    "bool | str": {"type": _stopping, "metavar": "true|false|never"},
    "str | tuple[int, ...]": {"metavar": "TEXT"},
    "Words": {"action": "append", "metavar": "TEXT"},
    "Texts": {"action": "append", "metavar": "TEXT"},
}
_JSON: dict[str, dict[str, Any]] = {
    "bench": {"nargs": "?", "const": True, "metavar": "FILE", "help": "answer in JSON, or write it to FILE beside the table"}
}
_NUMBERS = "weights/switch-numbers.h5"
_COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "info": (f"switchnp info {_NUMBERS}", _info),
    "generate": (f'switchnp generate {_NUMBERS} "say in French: 1984" --num-beams 4', _generate),
    "fill": ('switchnp fill base-8.h5 "A <extra_id_0> walks into a bar and orders a <extra_id_1>."', _fill),
    "score": (f'switchnp score {_NUMBERS} "say in French: 84" "quatre-vingt-quatre"', _score),
    "evaluate": (f"switchnp evaluate {_NUMBERS} tasks.tsv --limit 100", _evaluate),
    "convert": ("switchnp convert switch-base-8/ base-8.h5 --dtype bfloat16", _convert),
    "quantize": (f'switchnp quantize {_NUMBERS} -o numbers-int8.h5 --text "say in French: 1984"', _quantize),
    "trace": (f'switchnp trace {_NUMBERS} "say in French: 1984"', _trace),
    "routing": (f'switchnp routing --compare huggingface paper,capacity=1 {_NUMBERS} "say in French: 1984"', _routing),
    "train": ("switchnp train recipes/tiny.toml --resume", _train),
    "distill": ("switchnp distill recipes/student.toml", _train),
    "vocabulary": ("switchnp vocabulary corpus.txt tasks.tsv -o spiece.model --size 4096 --byte-fallback", _vocabulary),
    "plot": ("switchnp plot run/ -o run.png", _plot),
    "warmup": ("switchnp warmup --json", _warmup),
    "bench": ("switchnp bench base-8.h5 --against transformers,ctranslate2 --threads 2,1 --json results.json", _bench),
}
