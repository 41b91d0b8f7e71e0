"""What every part of the data needs: an order that a seed decides, and a held-out share that nothing of the rest repeats."""

import hashlib
import re


def shuffled(items, seed):
    """The items in the order of the hash of (seed, item): the same on every machine, whatever order they came in."""
    return sorted(items, key=lambda item: hashlib.sha256(f"{seed}\t{item}".encode()).digest())


def apart(items, held, seed):
    """(all the others, `held` of them), both shuffled; an item that comes twice counts once."""
    order = shuffled(set(items), seed)
    return order[held:], order[:held]


def one_line(text):
    """The text with every run of white space, newlines as well, as one space."""
    return " ".join(text.split())


def form(line):
    """What two lines share when they differ in case, spaces or punctuation alone."""
    return "".join(re.findall(r"[\w+/*=<>-]+", line.lower())) or line


def documents_apart(documents, held, train, seed):
    """Whole documents held out: (`train` bytes of lines, about `held` bytes of lines of other documents).

    documents   {name: lines}; they come in shuffled order, each document's lines in its own
    return      no line twice, and none of the second in the first in any form
    """
    names, seen, parts = iter(shuffled(documents, seed)), set(), []
    for limit in (held, train):
        part, used = [], 0
        while used < limit and (name := next(names, None)) is not None:
            fresh = {form(line): line for line in reversed(documents[name]) if form(line) not in seen}
            lines = list(fresh.values())[::-1]
            seen.update(fresh)
            part, used = part + lines, used + size(lines)
        parts.append(part)
    return cut(parts[1], train), parts[0]


def filled(pieces, width):
    """Lines of as many whole pieces as `width` characters hold; a longer piece is a line of its own."""
    lines = []
    for piece in pieces:
        if lines and len(lines[-1]) + 1 + len(piece) <= width:
            lines[-1] += " " + piece
        else:
            lines.append(piece)
    return lines


def size(lines):
    """Bytes of the lines in UTF-8, each with its newline."""
    return sum(len(line.encode()) + 1 for line in lines)


def cut(lines, limit):
    """The first lines that are at most `limit` bytes together."""
    kept, used = [], 0
    for line in lines:
        used += size([line])
        if used > limit:
            break
        kept.append(line)
    return kept
