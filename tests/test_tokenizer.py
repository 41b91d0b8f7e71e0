"""Texts become the ids that transformers makes of them, and ids the texts."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from references import ROOT, shared

import switchnp
from switchnp.errors import FileError, SwitchError, TokenizerError
from switchnp.tokenizer import MAX_CHARACTERS, MAX_MODEL_BYTES, SENTINELS, Tokenizer

T5 = "fixtures/tokenizer"
NUMBERS = "checkpoints/numbers-hf"

LEGACY = "slow_legacy_4.57.6"
NO_INVENTED_PREFIX = "fast_json_flux_4.57.6"
DECODER = "v5_from_spiece_5.23.0"

WORDS = ["a", "and", "cat", "cats", "dog", "fell", "in", "mat", "on", "over", "quiet", "rain", "sat", "the", "walk"]
SPECIALS = ["<extra_id_0>", "<extra_id_7>", "<extra_id_99>", "</s>", "<pad>", "<unk>"]

plain = st.text(max_size=30)
texts = st.lists(plain | st.sampled_from([*SPECIALS, *WORDS, " ", "<extra_id_100>", "\u2581"]), max_size=8).map("".join)
sentences = st.lists(st.sampled_from(WORDS), max_size=10).map(" ".join)
easy = settings(deadline=None, max_examples=100)


def trained(folder, **options):
    """A SentencePiece model of a few words, in the manner of T5's."""
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(" ".join(WORDS[i:] + WORDS[:i]) + ", .!" for i in range(len(WORDS))), "utf-8")
    places = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    common = {"model_type": "unigram", "vocab_size": 60, "hard_vocab_limit": False, "num_threads": 1, "minloglevel": 2}
    prefix = str(folder / "spiece")
    sentencepiece.SentencePieceTrainer.train(input=str(corpus), model_prefix=prefix, **(places | common | options))
    return Path(prefix + ".model")


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny(tiny_path):
    return Tokenizer(tiny_path)


@pytest.fixture(scope="session")
def tiny_as_spaced(tiny_path):
    return Tokenizer(tiny_path, invented_prefix=False)


@pytest.fixture(scope="session")
def reference():
    return json.loads(shared(f"{T5}/tokenizer_cases.json").read_text("utf-8"))


@pytest.fixture(scope="session")
def t5():
    return Tokenizer(shared(f"{T5}/spiece.model"))


@pytest.fixture(scope="session")
def t5_as_spaced():
    return Tokenizer(shared(f"{T5}/spiece.model"), invented_prefix=False)


@pytest.fixture(scope="session")
def numbers():
    return Tokenizer(shared(f"{NUMBERS}/spiece.model"))


def said_by(variant, groups):
    """The value of the group of tokenizers that `variant` belongs to."""
    return next(group["value"] for group in groups if variant in group["tokenizers"])


# T5's own vocabulary, against transformers


def test_all_294_reference_texts_have_the_ids_of_the_slow_legacy_tokenizer(t5, reference):
    cases = {case["text"]: said_by(LEGACY, case["ids"]) for case in reference["cases"]}

    ids = {text: t5.encode(text) for text in cases}

    assert len(cases) == 294
    assert [text for text in cases if ids[text] != cases[text]] == []


def test_all_294_reference_texts_have_the_fast_ids_without_an_invented_prefix(t5_as_spaced, reference):
    """The one difference: behind a `</s>` that ends the text, the fast tokenizer puts another and ours does not."""
    cases = {case["text"]: said_by(NO_INVENTED_PREFIX, case["ids"]) for case in reference["cases"]}
    expected = {text: ids[:-1] if text.endswith("</s>") else ids for text, ids in cases.items()}

    ids = {text: t5_as_spaced.encode(text) for text in cases}

    assert len(cases) == 294
    assert [text for text in cases if ids[text] != expected[text]] == []


@pytest.mark.parametrize(
    "key, skip", [("decode_no_cleanup", False), ("decode_skip_special_no_cleanup", True)], ids=["with", "without"]
)
def test_ids_of_the_reference_texts_decode_as_in_transformers_5(t5, reference, key, skip):
    cases = [(said_by(DECODER, case["ids"]), said_by(DECODER, case[key])) for case in reference["cases"]]

    wrong = [(ids, text) for ids, text in cases if t5.decode(ids, skip_special_tokens=skip) != text]

    assert len(cases) == 294
    assert wrong == []


@pytest.mark.parametrize("key, skip", [("decode_no_cleanup", False), ("decode_skip_special", True)], ids=["with", "without"])
def test_all_61_rows_of_ids_decode_as_in_transformers_5(t5, reference, key, skip):
    cases = [(case["ids"], said_by(DECODER, case[key])) for case in reference["decode_cases"]]

    wrong = [(ids, text) for ids, text in cases if t5.decode(ids, skip_special_tokens=skip) != text]

    assert len(cases) == 61
    assert wrong == []


def test_all_61_rows_of_ids_have_the_pieces_of_transformers_5(t5, reference):
    cases = [(case["ids"], said_by(DECODER, case["tokens"])) for case in reference["decode_cases"]]

    wrong = [(ids, pieces) for ids, pieces in cases if t5.pieces(ids) != [piece or "" for piece in pieces]]

    assert wrong == []


def test_t5_has_32100_ids_and_the_rest_of_its_32128_rows_are_nothing(t5):
    padding = range(32100, 32128)

    assert t5.vocab_size == 32100
    assert t5.pieces([8774, 32099, 32000, 1]) == ["▁Hello", "<extra_id_0>", "<extra_id_99>", "</s>"]
    assert t5.pieces(padding) == [""] * 28
    assert t5.decode([*padding, 8774, *padding]) == "Hello"


def test_a_full_stop_behind_a_sentinel_is_a_new_word_only_with_the_invented_prefix(t5, t5_as_spaced):
    text = "Hello <extra_id_0>."

    assert t5.pieces(t5.encode(text)) == ["▁Hello", "<extra_id_0>", "▁", ".", "</s>"]
    assert t5_as_spaced.pieces(t5_as_spaced.encode(text)) == ["▁Hello", "<extra_id_0>", ".", "</s>"]


@pytest.mark.parametrize("space", [" ", "  ", "\t", "\n", "\u00a0", "\u3000", "\u200b ", "\x01 "])
def test_any_space_behind_a_sentinel_begins_a_word(t5_as_spaced, space):
    ids = t5_as_spaced.encode(f"<extra_id_0>{space}walks")

    assert t5_as_spaced.pieces(ids) == ["<extra_id_0>", "▁walks", "</s>"]


# the vocabulary of the numbers checkpoint


def test_all_300_prompts_have_the_ids_the_checkpoint_was_run_with(numbers):
    cases = json.loads(shared(f"{NUMBERS}/reference.json").read_text("utf-8"))

    wrong = [case["prompt"] for case in cases if numbers.encode(case["prompt"]) != case["input_ids"]]

    assert (len(cases), numbers.vocab_size) == (300, 512)
    assert wrong == []


def test_all_300_answers_read_as_the_checkpoint_gave_them(numbers):
    cases = json.loads(shared(f"{NUMBERS}/reference.json").read_text("utf-8"))

    read = [(numbers.decode(case["output_ids"]), numbers.answer(case["output_ids"])) for case in cases]

    assert read == [(case["answer"], case["answer"]) for case in cases]


# special tokens


def test_sentinels_stand_behind_the_pieces_in_falling_order(tiny):
    pieces = tiny.vocab_size - SENTINELS
    sentinels = "".join(f"<extra_id_{i}>" for i in range(SENTINELS))

    ids = tiny.encode(sentinels)

    assert ids == [*(pieces + 99 - i for i in range(SENTINELS)), tiny.eos_id]
    assert "".join(tiny.pieces(ids)) == sentinels + "</s>"


def test_special_tokens_are_where_t5_has_them(tiny):
    assert (tiny.pad_id, tiny.eos_id, tiny.unk_id) == (0, 1, 2)
    assert tiny.encode("<pad><unk></s>") == [0, 2, 1]


@pytest.mark.parametrize(
    "text", ["<extra_id_100>", "<extra_id_00>", "<extra_id_-1>", "<extra_id_٣>", "<extra_id_>", "<EXTRA_ID_0>", "<s>"]
)
def test_what_only_looks_like_a_special_token_is_plain_text(tiny, text):
    *ids, eos = tiny.encode(text)

    assert eos == tiny.eos_id
    assert all(tiny.unk_id <= i < tiny.vocab_size - SENTINELS for i in ids)


@pytest.mark.parametrize("text", ["<pad>", "</s>", "<extra_id_0>"])
def test_a_special_token_in_wide_letters_is_plain_text(tiny, text):
    wide = text.replace("<", "\uff1c").replace(">", "\uff1e")

    *ids, _ = tiny.encode(wide)

    assert all(tiny.unk_id <= i < tiny.vocab_size - SENTINELS for i in ids)


def test_spaces_beside_a_special_token_change_nothing(tiny):
    assert tiny.encode("the <extra_id_0>  cat </s> sat") == tiny.encode("the<extra_id_0>cat</s>sat")


def test_a_text_begins_with_a_word_even_without_an_invented_prefix(tiny, tiny_as_spaced):
    assert tiny_as_spaced.encode("the cat") == tiny.encode("the cat")


def test_an_empty_text_is_one_end_token(tiny, tiny_as_spaced):
    assert tiny.encode("") == tiny_as_spaced.encode("") == [1]
    assert tiny.encode(" \n ") == tiny_as_spaced.encode(" \n ") == [1]


@pytest.mark.parametrize("text", ["the cat</s>", "the cat </s>", "the cat</s> "])
def test_a_text_that_ends_in_an_end_token_gets_no_second_one(tiny, text):
    assert tiny.encode(text) == tiny.encode("the cat")


# properties, whatever the text


@easy
@given(text=texts)
def test_every_text_has_ids_of_the_vocabulary_and_ends(tiny, tiny_as_spaced, text):
    for tokenizer in (tiny, tiny_as_spaced):
        ids = tokenizer.encode(text)

        assert all(type(i) is int and 0 <= i < tokenizer.vocab_size for i in ids)
        assert ids[-1] == tokenizer.eos_id


@easy
@given(text=texts)
def test_there_are_no_end_tokens_but_those_written_and_one_at_the_end(tiny, text):
    ids = tiny.encode(text)

    assert ids.count(tiny.eos_id) in (text.count("</s>"), text.count("</s>") + 1)
    assert tiny.encode(text + "</s>").count(tiny.eos_id) == text.count("</s>") + 1


@easy
@given(text=texts)
def test_pieces_of_an_encoding_spell_its_decoding(tiny, text):
    ids = tiny.encode(text)

    spelled = "".join(tiny.pieces(ids)).replace("▁", " ")

    assert tiny.decode(ids, skip_special_tokens=False) == spelled.removeprefix(" ")


@easy
@given(text=sentences)
def test_words_of_the_vocabulary_survive_encoding_and_decoding(tiny, tiny_as_spaced, text):
    assert tiny.decode(tiny.encode(text)) == text
    assert tiny_as_spaced.decode(tiny_as_spaced.encode(text)) == text


@easy
@given(parts=st.lists(st.tuples(st.sampled_from(["", " "]), st.sampled_from(WORDS), st.integers(0, 99)), min_size=1))
def test_without_an_invented_prefix_the_spaces_behind_sentinels_survive(tiny_as_spaced, parts):
    text = "".join(f"{space}{word}<extra_id_{i}>" for space, word, i in parts).lstrip()

    assert tiny_as_spaced.answer(tiny_as_spaced.encode(text)) == text


@easy
@given(ids=st.lists(st.integers(0, 2**70)))
def test_every_row_of_natural_numbers_has_a_text(tiny, ids):
    text = tiny.decode(ids)

    assert len(tiny.pieces(ids)) == len(ids)
    assert not re.search("<extra_id_|<pad>|</s>|<unk>", text)


# decoding


def test_an_answer_keeps_sentinels_and_unknowns_but_no_padding_and_no_end(tiny):
    ids = [tiny.pad_id, *tiny.encode("<extra_id_0> cat<extra_id_1><unk>"), tiny.pad_id, tiny.pad_id]

    assert tiny.answer(ids) == "<extra_id_0> cat<extra_id_1><unk>"
    assert tiny.decode(ids) == "cat"


def test_only_the_first_kept_piece_loses_its_space(tiny):
    the_cat = tiny.encode("the cat")[:-1]
    sentinel = tiny.encode("<extra_id_0>")[:1]

    assert tiny.decode([0, *sentinel, *the_cat, 0]) == "the cat"
    assert tiny.decode([0, *sentinel, *the_cat], skip_special_tokens=False) == "<pad><extra_id_0> the cat"


def test_only_one_leading_space_is_lost(tiny):
    space, the = (tiny.pieces(range(tiny.vocab_size)).index(piece) for piece in ("▁", "▁the"))

    assert tiny.decode([space, the, space]) == " the "


def test_ids_end_where_the_vocabulary_does(tiny):
    last = tiny.vocab_size - 1

    assert tiny.pieces([last, last + 1, 2**70]) == ["<extra_id_0>", "", ""]
    assert tiny.answer([last, last + 1, 2**70]) == "<extra_id_0>"


@pytest.mark.parametrize("row", [np.int32, np.int64, np.uint8])
def test_ids_may_come_in_any_row_of_integers(tiny, row):
    ids = tiny.encode("the cat")

    assert tiny.decode(np.array(ids, row)) == tiny.decode(iter(ids)) == tiny.decode(tuple(ids)) == "the cat"


@pytest.mark.parametrize("ids", [[1.0], ["1"], [None], [[1]], 1, None, "12", np.zeros(2), np.zeros((1, 2), int)])
def test_ids_that_are_no_integers_are_refused(tiny, ids):
    for read in (tiny.decode, tiny.answer, tiny.pieces):
        with pytest.raises(TokenizerError, match="the ids have no integer at position 0, expected integers only"):
            read(ids)


def test_a_negative_id_is_refused_with_its_position(tiny):
    for read in (tiny.decode, tiny.answer, tiny.pieces):
        with pytest.raises(TokenizerError, match="the id at position 2 is negative, expected 0 or more"):
            read([5, 1, -100])


# texts that cannot be encoded


@pytest.mark.parametrize("text", [None, 7, b"the cat", ["the", "cat"]])
def test_a_text_that_is_no_str_is_refused(tiny, text):
    with pytest.raises(TokenizerError, match=f"of type {type(text).__name__}, expected str"):
        tiny.encode(text)


def test_a_lone_surrogate_is_refused_with_its_position(tiny):
    with pytest.raises(TokenizerError, match=r"lone surrogate U\+D83D at position 4"):
        tiny.encode("the \ud83d cat")


def test_a_text_beyond_the_cap_is_refused_and_one_at_the_cap_is_not(tiny):
    at_the_cap = "cat " * (MAX_CHARACTERS // 4)

    with pytest.raises(TokenizerError, match=f"{MAX_CHARACTERS + 1} characters, expected at most {MAX_CHARACTERS}"):
        tiny.encode(at_the_cap + "s")

    assert tiny.encode(at_the_cap) == tiny.encode("cat")[:-1] * (MAX_CHARACTERS // 4) + [1]


# models that are none


def test_a_tokenizer_from_bytes_is_the_tokenizer_from_their_path(tiny_path, tiny):
    again = Tokenizer(tiny.model_bytes)

    assert tiny.model_bytes == tiny_path.read_bytes()
    assert Tokenizer(str(tiny_path)).encode("the cats") == again.encode("the cats") == tiny.encode("the cats")


def test_a_missing_file_is_a_file_error_that_names_it(tmp_path):
    with pytest.raises(FileError, match=r"spiece\.model cannot be read: No such file"):
        Tokenizer(tmp_path / "spiece.model")


@pytest.mark.parametrize("path", ["", ".", "a\0b", None], ids=["empty", "folder", "nul", "none"])
def test_a_path_that_is_no_file_is_a_file_error(path):
    with pytest.raises(FileError, match=r"cannot be read|is not a regular file|expected a text"):
        Tokenizer(path)


@pytest.mark.parametrize("content", [b"a poem", bytes(100), b"\xff" * 9, b"\x0a\xff\xff\xff\xff\x07"])
def test_a_file_that_is_no_model_is_refused_by_name(tmp_path, content):
    poem = tmp_path / "poem.txt"
    poem.write_bytes(content)

    with pytest.raises(TokenizerError, match=r"poem\.txt is not a SentencePiece model"):
        Tokenizer(poem)


def test_an_empty_model_is_refused(tmp_path):
    (tmp_path / "spiece.model").touch()

    with pytest.raises(TokenizerError, match=r"spiece\.model is empty, expected a SentencePiece model"):
        Tokenizer(tmp_path / "spiece.model")
    with pytest.raises(TokenizerError, match="the tokenizer is empty, expected a SentencePiece model"):
        Tokenizer(b"")


def test_a_model_beyond_the_cap_is_refused(tmp_path):
    huge = tmp_path / "spiece.model"
    with huge.open("wb") as file:
        file.truncate(2**40)

    with pytest.raises(TokenizerError, match=rf"spiece\.model is larger than {MAX_MODEL_BYTES} bytes"):
        Tokenizer(huge)
    with pytest.raises(TokenizerError, match=f"the tokenizer is larger than {MAX_MODEL_BYTES} bytes"):
        Tokenizer(bytes(MAX_MODEL_BYTES + 1))


@pytest.mark.parametrize(
    "options, found",
    [
        ({"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1}, r"\['<unk>', '<s>', '</s>'\].* at \[-1, 2, 0\]"),
        ({"pad_id": 1, "eos_id": 0}, r"\['</s>', '<pad>', '<unk>'\].* at \[1, 0, 2\]"),
        ({"pad_piece": "[PAD]"}, r"\['\[PAD\]', '</s>', '<unk>'\].* at \[0, 1, 2\]"),
    ],
    ids=["no padding", "exchanged", "renamed"],
)
def test_a_model_with_special_tokens_elsewhere_is_refused(tmp_path, options, found):
    model = trained(tmp_path, **options)

    with pytest.raises(TokenizerError, match=f"{found}, expected .* at .0, 1, 2."):
        Tokenizer(model)


def test_a_model_whose_padding_is_an_ordinary_piece_is_refused(tiny):
    control, normal = b"<pad>\x15\0\0\0\0\x18\x03", b"<pad>\x15\0\0\0\0\x18\x01"
    assert control in tiny.model_bytes

    with pytest.raises(TokenizerError, match=r"has padding, end and unknown at \[-1, 1, 2\], expected"):
        Tokenizer(tiny.model_bytes.replace(control, normal))


def test_a_model_of_one_piece_is_refused():
    only_unknown = b"\x0a\x09\x0a\x05<unk>\x18\x02"

    with pytest.raises(TokenizerError):
        Tokenizer(only_unknown)


def test_a_piece_that_is_not_utf8_is_refused(tiny):
    model = tiny.model_bytes.replace("▁".encode(), b"\xff\xfe\xfd")

    with pytest.raises(TokenizerError, match="has a piece that is not UTF-8"):
        Tokenizer(model)


@easy
@given(cut=st.integers(0, 2000), changes=st.dictionaries(st.integers(0, 1500), st.integers(0, 255), max_size=6))
def test_a_damaged_model_is_refused_or_still_gives_ids_of_its_vocabulary(tiny, cut, changes):
    model = bytearray(tiny.model_bytes)
    for position, byte in changes.items():
        model[position] = byte

    for damaged in (bytes(model), bytes(model[:cut])):
        try:
            tokenizer = Tokenizer(damaged, invented_prefix=False)
        except SwitchError:
            continue
        assert max(tokenizer.encode("the cat <extra_id_0>s é")) < tokenizer.vocab_size


def test_pieces_that_spell_bytes_are_read_as_the_characters_that_they_make():
    tokenizer = switchnp.load(ROOT / "weights/switch-tiny.h5", engine="kernels").tokenizer
    text = "août 2014 – 漢字 <extra_id_0>"
    ids = tokenizer.encode(text)[:-1]

    assert "<0xC3>" in tokenizer.pieces(ids)
    assert tokenizer.answer(ids) == text.replace(" <", "<")
    for end in range(len(ids)):
        assert tokenizer.answer(ids).startswith(tokenizer.answer(ids[:end]))
    assert tokenizer.answer([ids[tokenizer.pieces(ids).index("<0xC3>")], *tokenizer.encode("a")]) == "\ufffd a"
