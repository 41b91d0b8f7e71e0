"""Files by line: the same lines as when they are read whole, in little memory, and what is wrong is said with its line."""

import hashlib
import os
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchnp.data import sources
from switchnp.data.sources import Blocks, Lines, Pairs
from switchnp.errors import FileError

words = st.text(st.characters(exclude_characters="\n\r\t", codec="utf-8"), max_size=12)
ends = st.sampled_from(["\n", "\r\n"])


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Writes a text, or bytes, into a file whose path it returns."""
    path = tmp_path_factory.mktemp("sources") / "file.txt"

    def write(content):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@given(st.lists(words, min_size=1), ends, st.booleans(), st.integers(1, 40))
def test_lines_are_those_that_were_written(file, lines, end, ended, chunk):
    ended = ended or not lines[-1]
    content = end.join(lines) + (end if ended else "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "CHUNK", chunk)

        found = Lines(file(content))

        assert len(found) == len(lines)
        assert [found[n] for n in range(len(lines))] == lines
        assert list(found) == lines
    assert found.digest == hashlib.sha256(content.encode()).hexdigest()


def test_items_are_counted_from_the_end_too_and_in_slices_but_not_beyond(file):
    lines = Lines(file("a\nb\nc\n"))

    assert (lines[-1], lines[np.int64(1)], lines[1:]) == ("c", "b", ["b", "c"])
    for beyond in (3, -4):
        with pytest.raises(IndexError, match="expected one of 3"):
            lines[beyond]


@given(st.lists(st.tuples(words, words), min_size=1), ends)
def test_pairs_are_those_that_were_written(file, pairs, end):
    found = Pairs(file("".join(f"{prompt}\t{answer}{end}" for prompt, answer in pairs)))

    assert list(found) == pairs


@given(st.lists(words.filter(bool), min_size=1), st.integers(1, 60))
def test_blocks_are_all_lines_in_order_and_as_few_texts_as_their_size_allows(file, lines, size):
    blocks = list(Blocks(Lines(file("".join(f"{line}\n" for line in lines))), size))

    assert "\n".join(blocks) == "\n".join(lines)
    for block, after in zip(blocks, [*blocks[1:], None], strict=True):
        assert "\n" not in block or len(f"{block}\n".encode()) <= size
        if after is not None:
            first, *_ = after.split("\n")
            assert len(f"{block}\n{first}\n".encode()) > size


def test_a_file_is_not_held_in_memory(file):
    path = file(("x" * 99 + "\n") * 200_000)

    tracemalloc.start()
    lines = Lines(path)
    blocks = Blocks(lines, 1000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert (len(lines), len(blocks)) == (200_000, 20_000)
    assert peak < path.stat().st_size / 2


def test_a_line_without_end_is_refused_before_it_fills_the_memory(file):
    path = file(b"x" * 60_000_000)

    tracemalloc.start()
    with pytest.raises(FileError, match="has more than 4000000 bytes in line 1"):
        Lines(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < path.stat().st_size / 2


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "is empty, expected lines of text"),
        (b"a\tb\nc\td\n\xff\tb\n", "has bytes in line 3 that are not UTF-8, expected text"),
        ("a\tb\nc\td\nno\n", "has line 3 with 1 columns, expected 2 with a tab between them"),
        ("a\tb\nc\td\te\n", "has line 2 with 3 columns, expected 2 with a tab between them"),
        ("a\tb\n\nc\td\n", "has line 2 with 1 columns, expected 2 with a tab between them"),
        ("a\tb\n" + "x" * 5_000_000, "has more than 4000000 bytes in line 2, expected shorter lines"),
    ],
)
@pytest.mark.parametrize("chunk", [3, 1 << 20])
def test_what_is_wrong_is_said_with_its_line(file, content, sentence, chunk, monkeypatch):
    monkeypatch.setattr(sources, "CHUNK", max(chunk, len(content) // 8))
    path = file(content)

    with pytest.raises(FileError) as refused:
        Pairs(path)

    assert str(refused.value) == f"{path} {sentence}"


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(FileError, match="is not a regular file"):
        Lines(tmp_path)
    with pytest.raises(FileError, match="cannot be read: No such file"):
        Lines(tmp_path / "nothing.txt")


@pytest.mark.parametrize("read", [lambda lines: lines[0], list])
def test_a_file_that_changes_is_not_read_on(file, read):
    path = file("one\ntwo\n")
    lines = Lines(path)

    path.write_text("two\none\n")
    os.utime(path, ns=(0, 0))

    with pytest.raises(FileError, match="has changed since its lines were counted, expected the same file"):
        read(lines)
