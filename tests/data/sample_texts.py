"""What the tests of data learn from: a tokenizer, pairs and files."""

from functools import cache

from references import ROOT

from switchnp import weights
from switchnp.tokenizer import Tokenizer

WORDS = ["vingt", "quatre", "soixante", "zwei", "und", "dreißig", "one", "hundred", "sette", "otto", "cento"]


@cache
def numbers_tokenizer():
    return Tokenizer(weights.read_header(ROOT / "weights/switch-numbers.h5")[0].tokenizer)


def numbered(count, name="a"):
    """So many pairs, no two alike, of different lengths."""
    return [(f"{name} {n}", " ".join(WORDS[i % len(WORDS)] for i in range(n % 7 + 1))) for n in range(count)]


def prose(path, lines):
    """A file of so many lines, of which some are blank and some are long."""
    texts = [" ".join([str(n), *(WORDS[(n * i) % len(WORDS)] for i in range(n * n % 23))]) if n % 5 else "" for n in range(lines)]
    path.write_text("\n".join(texts) + "\n", "utf-8")
    return path
