"""The task of weights/switch-numbers.h5 anew: numbers below 10,000 in six languages, 600 pairs held out as its makers did.

    .venv/bin/python recipes/spelling.py [--out .data/numbers] [--packages .data/packages]

Writes train-N.tsv and held-N.tsv for numbers of N digits, and spiece.model, the vocabulary of that file.
"""

import argparse
from pathlib import Path

import make_data
import packages
import tasks
import texts

import switchnp

LANGUAGES = ("English", "French", "German", "Spanish", "Italian", "Portuguese")
HELD = {1: 57, 2: 131, 3: 157, 4: 255}
"""How many pairs of one, two, three and four digits their README counts."""
SHIPPED = Path(__file__).resolve().parent.parent / "weights/switch-numbers.h5"


def keys_by_digits():
    """Every (number, language), by how many digits the number has."""
    ranges = {digits: range(10 ** (digits - 1) if digits > 1 else 0, 10**digits) for digits in HELD}
    return {digits: [(number, language) for number in numbers for language in LANGUAGES] for digits, numbers in ranges.items()}


def main():
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(".data/numbers"))
    parser.add_argument("--packages", type=Path, default=Path(".data/packages"))
    options = parser.parse_args()
    words = make_data.library(packages.NUM2WORDS, options.packages, "num2words").num2words
    for digits, keys in keys_by_digits().items():
        for part, own in zip(("train", "held"), texts.apart(keys, HELD[digits], make_data.SEED), strict=True):
            make_data.write(options.out / f"{part}-{digits}.tsv", ["\t".join(tasks.number_pair(*key, words)) for key in own])
    (options.out / "spiece.model").write_bytes(switchnp.load(SHIPPED, engine="kernels").tokenizer.model_bytes)


if __name__ == "__main__":
    main()
