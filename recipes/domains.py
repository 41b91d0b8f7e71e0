"""Ten kinds of text to fill spans of: each reader gives {document: lines} from the files of a package.

Newlines say nothing to the tokenizer, so a line is a verse, a paragraph, a fact, a definition, a sum, or a function of Python.
"""

import html.parser
import io
import itertools
import json
import random
import re
import struct
import tokenize
import zipfile
import zlib

import packages
from texts import filled, one_line, shuffled

WIDTH, RUN, VERSE = 500, 25, 700
BLOCK_TAGS = {"p", "li", "dd", "dt", "td", "th", "div", "h1", "h2", "h3", "h4", "ul", "ol", "dl", "table", "tr", "br", "body"}
SILENT_TAGS = {"script", "style", "pre", "head"}
DIGITS = {"+": 4, "-": 4, "x": 3, "/": 3}
FOREIGN = "pyodide|site-packages|_sysconfigdata"
UNSPOKEN = {tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def runs(lines, length=RUN):
    """The lines as documents of `length` neighbours."""
    return {start: lines[start : start + length] for start in range(0, len(lines), length)}


def scripture(folder):
    """Verses of a SWORD zText module; introductions are longer than VERSE, and left out.

    Source: the SWORD project's zText driver: zlib blocks (.bzz), records of <offset, size, raw size> that find them (.bzs),
    and of <block, start, length> that find each verse (.bzv), little-endian.
    """
    verses = []
    for part in ("ot", "nt"):
        [path] = folder.rglob(f"{part}.bzz")
        packed = path.read_bytes()
        spans = struct.iter_unpack("<III", path.with_suffix(".bzs").read_bytes())
        blocks = [zlib.decompress(packed[offset : offset + size]) for offset, size, _ in spans]
        for block, start, length in struct.iter_unpack("<IIH", path.with_suffix(".bzv").read_bytes()):
            if length:
                verses.append(plain(blocks[block][start : start + length].decode("utf-8")))
    return runs([verse for verse in verses if 20 < len(verse) <= VERSE])


def plain(osis):
    """OSIS without its notes, titles and tags."""
    text = re.sub(r"<(note|title)\b[^>]*?(?<!/)>.*?</\1>", "", osis, flags=re.DOTALL)
    return one_line(html.unescape(re.sub(r"<[^>]+>", "", text)))


def novel(folder):
    """Paragraphs of Moby Dick, a chapter a document."""
    chapters = sorted((folder / "package/moby-dick/data").glob("chapter_*.txt"))
    return {path.stem: paragraphs(path.read_text(encoding="utf-8")) for path in chapters}


def paragraphs(text):
    """What empty lines part."""
    return [line for line in map(one_line, re.split(r"\n\s*\n", text)) if line]


def speeches(folder):
    """The States of the Union, a speech a document; a line is as many sentences as fit."""
    paths = sorted((folder / "package/sotu/data").glob("[0-9]*.json"))
    texts = {path.stem: one_line(json.loads(path.read_text(encoding="utf-8"))["text"]) for path in paths}
    return {name: filled(sentences(text), WIDTH) for name, text in texts.items()}


def sentences(text):
    """The text parted behind . ! and ? where a capital follows."""
    return re.split(r"(?<=[.!?]) (?=[A-Z\"“])", text)


def facts(folder):
    """ "Nepal: Climate: varies from ..." of the World Factbook, a country a document, its facts shuffled."""
    documents = {}
    for path in sorted(folder.glob("package/*/*.json")):
        entry = json.loads(path.read_text(encoding="utf-8"))
        place = country(entry)
        if place:
            documents[path.stem] = shuffled([f"{place}: {line}" for line in statements(entry)], path.stem)
    return documents


def country(entry):
    """The short name of a country of the Factbook, or its long one."""
    names = entry.get("Government", {}).get("Country name", {})
    found = [names.get(f"conventional {kind} form", {}).get("text", "none") for kind in ("short", "long")]
    return next((name for name in found if name.lower() != "none"), "")


def statements(entry):
    """ "Climate: tropical" for each leaf of a tree of the Factbook; the chapters' titles are left out."""
    for title, value in itertools.chain.from_iterable(chapter.items() for chapter in entry.values()):
        if "text" in value:
            yield one_line(f"{title}: {value['text']}")
        for part, leaf in value.items():
            if isinstance(leaf, dict) and "text" in leaf:
                yield one_line(f"{title}, {part}: {leaf['text']}")


def dictionary(folder):
    """ "word, other word: what it means" of WordNet, neighbours in its order a document."""
    lines = []
    for kind in ("noun", "verb", "adj", "adv"):
        data = (folder / "usr/share/wordnet" / f"data.{kind}").read_text(encoding="utf-8")
        lines += [definition(line) for line in data.splitlines() if not line.startswith("  ")]
    return runs(lines)


def definition(line):
    """ "thing: a separate and self-contained entity" of a line of WordNet's data."""
    fields, gloss = line.split(" | ", 1)
    _, _, _, count, *rest = fields.split(" ")
    words = [re.sub(r"\(\w+\)$", "", word).replace("_", " ") for word in rest[: 2 * int(count, 16) : 2]]
    return one_line(f"{', '.join(words)}: {gloss}")


class Prose(html.parser.HTMLParser):
    """Collects the paragraphs of a page of HTML."""

    def __init__(self):
        super().__init__()
        self.silent, self.words, self.lines = 0, [], []

    def handle_starttag(self, tag, attrs):
        """A block ends the paragraph before it; scripts and listings are passed over."""
        self.silent += tag in SILENT_TAGS
        if tag in BLOCK_TAGS | SILENT_TAGS:
            self.end_paragraph()

    def handle_endtag(self, tag):
        """A block ends its own paragraph."""
        self.silent = max(0, self.silent - (tag in SILENT_TAGS))
        if tag in BLOCK_TAGS | SILENT_TAGS:
            self.end_paragraph()

    def handle_data(self, data):
        """Words of the paragraph."""
        if not self.silent:
            self.words.append(data)

    def end_paragraph(self):
        """Keep it if it is a sentence: words enough, and a full stop, colon or the like."""
        line = one_line("".join(self.words))
        if len(line) >= 60 and line[-1] in ".:;?!)":
            self.lines.append(line)
        self.words = []


def pages(folder):
    """Paragraphs of HTML, a page a document."""
    documents = {}
    for path in sorted(folder.rglob("*.html")):
        prose = Prose()
        prose.feed(path.read_text(encoding="utf-8", errors="replace"))
        prose.end_paragraph()
        documents[str(path.relative_to(folder))] = prose.lines
    return documents


def manual_en(folder):
    """SQLite's documentation."""
    return pages(folder / "usr/share/doc/sqlite3")


def manual_fr(folder):
    """The French manual of the Apache HTTP server."""
    return pages(folder / "usr/share/doc/apache2-doc/manual/fr")


def python(folder):
    """CPython's library, a module a document; what Pyodide itself adds is left out."""
    with zipfile.ZipFile(folder / "package/python_stdlib.zip") as archive:
        names = [name for name in sorted(archive.namelist()) if name.endswith(".py") and not re.search(FOREIGN, name)]
        return {name: code_lines(archive.read(name).decode("utf-8")) for name in names}


def code_lines(source):
    """Functions and statements of Python, each squeezed to a line without comments and docstrings; long ones fill several.

    A statement of more than twice WIDTH is a table, and left out.
    """
    groups, decorated = [[]], False
    for statement in logical_lines(source):
        opens = re.match(r"(@|def |class |async def )", statement)
        if opens and not decorated:
            groups.append([])
        decorated = statement.startswith("@")
        groups[-1].append(statement)
    return [line for group in groups for line in filled(group, WIDTH) if 20 < len(line) <= 2 * WIDTH]


def logical_lines(source):
    """Python's logical lines: no comments, no strings that stand alone, no indentation, one space for any white space."""
    rows, start, alone = source.split("\n"), None, True
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            rows[token.start[0] - 1] = rows[token.start[0] - 1][: token.start[1]]
        elif token.type == tokenize.NEWLINE:
            if start and not alone:
                yield one_line(between(rows, start, token.start))
            start, alone = None, True
        elif token.type not in UNSPOKEN:
            start, alone = start or token.start, alone and token.type == tokenize.STRING


def between(rows, start, end):
    """The text from one (row, column) of a token to another; rows count from 1."""
    taken = rows[start[0] - 1 : end[0]]
    taken[-1] = taken[-1][: end[1]]
    taken[0] = taken[0][start[1] :]
    return "\n".join(taken)


def arithmetic(_):
    """Sums, differences, products and quotients with remainders, drawn with a seed and all different."""
    rng = random.Random(11)
    return runs(list(dict.fromkeys(sum_line(rng) for _ in range(85_000))))


def sum_line(rng):
    """ "417 + 38 = 455", or another."""
    sign = rng.choice("+-x/")
    a, b = (rng.randrange(10 ** rng.randint(1, DIGITS[sign])) for _ in range(2))
    if sign == "/":
        return f"{a} / {b + 1} = {a // (b + 1)} remainder {a % (b + 1)}"
    return f"{a} {sign} {b} = {a + b if sign == '+' else a - b if sign == '-' else a * b}"


READERS = {
    "scripture_en": (packages.WEB, scripture),
    "scripture_es": (packages.SPARV, scripture),
    "novel_en": (packages.DATASETS, novel),
    "speeches_en": (packages.DATASETS, speeches),
    "facts_en": (packages.FACTBOOK, facts),
    "dictionary_en": (packages.WORDNET, dictionary),
    "manual_en": (packages.SQLITE, manual_en),
    "manual_fr": (packages.APACHE, manual_fr),
    "python": (packages.PYODIDE, python),
    "arithmetic": (None, arithmetic),
}
