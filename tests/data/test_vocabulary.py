"""A vocabulary is T5's kind, the same bytes from the same texts, and written whole or not at all."""

import json
import subprocess
import sys

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from references import ROOT
from sample_texts import WORDS, numbered

from switchnp.data import vocabulary
from switchnp.data.sources import Lines
from switchnp.data.vocabulary import train_vocabulary
from switchnp.errors import FileError, InputError, SwitchError
from switchnp.tokenizer import SENTINELS, Tokenizer

SIZE = 45


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A text and a table."""
    folder = tmp_path_factory.mktemp("vocabulary")
    text, table = folder / "corpus.txt", folder / "tasks.tsv"
    text.write_text("\n".join(" ".join(WORDS[n:] + WORDS[:n]) for n in range(len(WORDS))) + "\n\n", "utf-8")
    table.write_text("".join(f"{prompt}\t{answer}\r\n" for prompt, answer in numbered(40)), "utf-8")
    return [text, table]


def run(*arguments):
    return subprocess.run([sys.executable, "-m", "switchnp", "vocabulary", *map(str, arguments)], capture_output=True, text=True)


def trained(corpus, tmp_path, size=SIZE, **options):
    train_vocabulary(corpus, tmp_path / "spiece.model", size, **options)
    return Tokenizer(tmp_path / "spiece.model")


def learnt_pieces(tokenizer):
    """Those of the SentencePiece model but <pad>, </s> and <unk>."""
    return tokenizer.pieces(range(3, tokenizer.vocab_size - SENTINELS))


def written(folder, text):
    path = folder / "some.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_two_processes_make_the_same_bytes_and_say_nothing_else(corpus, tmp_path):
    runs = [run(*corpus, "-o", tmp_path / f"{n}.model", "--size", SIZE, "--json") for n in range(2)]

    said = [json.loads(done.stdout) | {"file": ""} for done in runs]
    assert [(done.returncode, done.stderr) for done in runs] == [(0, "")] * 2
    assert said[0] == said[1]
    assert (tmp_path / "0.model").read_bytes() == (tmp_path / "1.model").read_bytes()
    assert said[0]["bytes"] == (tmp_path / "0.model").stat().st_size
    assert (said[0]["pieces"], said[0]["vocab_size"]) == (SIZE, SIZE + SENTINELS)
    assert said[0]["sentences"] == len(WORDS) + 2 * 40


def test_the_bytes_do_not_depend_on_where_files_lie(corpus, tmp_path):
    moved = [tmp_path / "elsewhere.txt", tmp_path / "other.txt"]
    for path, original in zip(moved, corpus, strict=True):
        path.write_bytes(original.read_bytes())

    here, there = (train_vocabulary(files, tmp_path / "spiece.model", SIZE, force=True) for files in (corpus, moved))

    assert here == there


def test_the_texts_come_back_from_their_ids(corpus, tmp_path):
    tokenizer = trained(corpus, tmp_path)

    assert tokenizer.vocab_size == SIZE + SENTINELS
    for text in [" ".join(WORDS), *(text for pair in numbered(40) for text in pair)]:
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.unk_id not in tokenizer.encode(text)


def test_nothing_is_drawn_and_one_thread_works(corpus, tmp_path, monkeypatch):
    """Subsampling alone would make other bytes, and another number of threads does for long texts."""
    asked = {}
    monkeypatch.setattr(sentencepiece.SentencePieceTrainer, "train", lambda **settings: asked.update(settings))

    with pytest.raises(SwitchError):
        trained(corpus, tmp_path)

    assert (asked["num_threads"], asked["input_sentence_size"], asked["shuffle_input_sentence"]) == (1, 0, False)


def test_texts_are_normalised_as_t5_does(corpus, tmp_path):
    tokenizer = trained(corpus, tmp_path)

    assert tokenizer.encode("ｏｎｅ\u3000 ﬁ") == tokenizer.encode("one fi")


def test_every_column_is_text(tmp_path):
    table = written(tmp_path, "left\tright\n" * 5)

    pieces = learnt_pieces(trained([table], tmp_path, 13))

    assert {*"leftrigh"} <= {letter for piece in pieces for letter in piece}
    assert not any("\t" in piece for piece in pieces)


def test_special_tokens_in_a_text_are_no_part_of_it(tmp_path):
    text = written(tmp_path, "one <extra_id_0> two</s> three<pad>\n" * 5)

    pieces = learnt_pieces(trained([text], tmp_path, 13))

    assert {letter for piece in pieces for letter in piece} == {*"\u2581onetwothree"}


def test_rare_characters_are_bytes_with_byte_fallback_and_unknown_without(corpus, tmp_path):
    (tmp_path / "bytes").mkdir()

    with_bytes = trained(corpus, tmp_path / "bytes", SIZE + 256, byte_fallback=True)
    without = trained(corpus, tmp_path)

    assert with_bytes.unk_id not in with_bytes.encode("漢")
    assert without.unk_id in without.encode("漢")


def test_digits_are_split_where_asked(tmp_path):
    text = written(tmp_path, "\n".join(["1984 1984 1984 1985"] * 50))
    (tmp_path / "split").mkdir()

    split = trained([text], tmp_path / "split", 9, split_digits=True)
    whole = trained([text], tmp_path, 11)

    assert split.pieces(split.encode("1984"))[-5:-1] == ["1", "9", "8", "4"]
    assert len(whole.encode("1984")) < 5


def test_symbols_are_always_pieces(corpus, tmp_path):
    symbols = ["\n", "a,b", '"']

    tokenizer = trained(corpus, tmp_path, SIZE + 3, user_defined_symbols=symbols)

    for symbol in symbols:
        assert symbol in tokenizer.pieces(tokenizer.encode(f"one{symbol}two"))


def test_a_file_is_not_overwritten_unless_forced(corpus, tmp_path):
    target = tmp_path / "spiece.model"
    target.write_text("mine")

    refused = run(*corpus, "-o", target, "--size", SIZE)
    kept = target.read_text()
    forced = run(*corpus, "-o", target, "--size", SIZE, "--force")

    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == f"switchnp: {target} exists already; --force (force=True) overwrites it\n"
    assert kept == "mine"
    assert (forced.returncode, forced.stderr) == (0, "")
    assert forced.stdout.startswith(f"{target}: {SIZE} pieces of 91 sentences, ")
    assert Tokenizer(target).vocab_size == SIZE + SENTINELS


@pytest.mark.parametrize(
    ("content", "size", "sentence"),
    [
        ("one two three", 5000, r"a vocabulary of 5000 pieces is asked for, but these texts make at most \d+$"),
        ("one two three", 5, r"a vocabulary of 5 pieces is asked for, but the characters of these texts need at least 11$"),
        ("\n \n\t\n", 50, "there is no text, expected some to make a vocabulary of$"),
        ("one two three", 2**40, "no vocabulary can be made: .*cannot parse"),
        (b"one\n\xff\n", 50, "has bytes in line 2 that are not UTF-8, expected text$"),
        ("", 50, "is empty, expected lines of text$"),
    ],
)
def test_what_makes_no_vocabulary_is_explained_and_leaves_nothing(content, size, sentence, tmp_path, capfd):
    text = written(tmp_path, content)

    with pytest.raises(SwitchError, match=sentence) as refused:
        train_vocabulary([text], tmp_path / "spiece.model", size)

    assert str(refused.value).startswith(str(text))
    assert "\n" not in str(refused.value)
    assert [*tmp_path.iterdir()] == [text]
    assert capfd.readouterr() == ("", "")


@given(st.lists(st.sampled_from(["a", "bc", "d" * 900, "e" * 9000]), min_size=1, max_size=30))
def test_long_lines_are_cut_at_spaces_and_nothing_of_them_is_lost(tmp_path_factory, words):
    line = " ".join(words)
    text = written(tmp_path_factory.mktemp("long"), line)

    sentences = [*vocabulary._sentences([Lines(text)])]

    assert "".join(sentences) == line
    assert max(map(len, sentences)) <= 4000
    if max(map(len, words)) < 4000:
        assert " ".join(sentences).split() == words


def test_a_name_that_no_file_can_have_is_explained(corpus, tmp_path):
    with pytest.raises(FileError, match="cannot be read: File name too long"):
        train_vocabulary(corpus, tmp_path / ("x" * 300), SIZE)


@pytest.mark.parametrize("symbols", [[""], ["a", "a"], ["<pad>"], ["a <extra_id_0>"]])
def test_impossible_symbols_are_refused(corpus, tmp_path, symbols):
    with pytest.raises(InputError, match="expected texts, each of them once"):
        trained(corpus, tmp_path, user_defined_symbols=symbols)


def test_a_corpus_is_not_overwritten_by_its_vocabulary(tmp_path):
    text = written(tmp_path, "one two three")

    with pytest.raises(InputError, match=r"is to be learnt from .*some.txt, expected one or more other files"):
        train_vocabulary([text], text, SIZE, force=True)
    with pytest.raises(InputError, match="is to be learnt from no file"):
        train_vocabulary([], tmp_path / "spiece.model", SIZE)
    with pytest.raises(FileError, match="cannot be read: No such file"):
        train_vocabulary([tmp_path / "nothing.txt"], tmp_path / "spiece.model", SIZE)

    assert [*tmp_path.iterdir()] == [text]
    assert text.read_text() == "one two three"


def test_the_command_line_knows_the_command_without_numpy_or_sentencepiece():
    code = "import sys, switchnp.cli; print([name for name in ('numpy', 'sentencepiece') if name in sys.modules])"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)

    assert done.stdout == "[]\n"
