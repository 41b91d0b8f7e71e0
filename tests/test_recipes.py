"""The data of the small model: held-out items never stand in training, and every line is what its reader says it is."""

import ast
import datetime
import io
import json
import re
import sys
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from references import ROOT

sys.path.insert(0, str(ROOT / "recipes"))

import domains
import make_data
import packages
import tasks
import texts

DATA = ROOT / ".data"
lines = st.lists(st.text("aB .\n", min_size=1, max_size=6), max_size=8)
documents = st.dictionaries(st.text("xyz", max_size=3), lines, max_size=8)


@given(st.lists(st.integers(0, 50)), st.integers(0, 60), st.integers(0, 3))
def test_apart_shares_items_out_and_neither_loses_nor_repeats_one(items, count, seed):
    train, held = texts.apart(items, count, seed)

    assert sorted(train + held) == sorted(set(items))
    assert len(held) == min(count, len(set(items)))


@given(st.lists(st.integers(0, 50), unique=True), st.randoms())
def test_the_order_they_came_in_does_not_change_a_shuffle(items, rng):
    other = items.copy()
    rng.shuffle(other)

    assert texts.shuffled(items, 1) == texts.shuffled(other, 1)


def test_another_seed_shuffles_otherwise():
    assert texts.shuffled(range(20), 1) != texts.shuffled(range(20), 2)


@given(documents, st.integers(0, 20), st.integers(0, 40))
def test_no_held_out_line_stands_in_training_in_any_form(documents, held, train):
    trained, kept = texts.documents_apart(documents, held, train, 0)

    forms = [texts.form(line) for line in trained + kept]
    assert len(set(forms)) == len(forms)
    assert texts.size(trained) <= train


@given(documents, st.integers(1, 20))
def test_a_document_gives_to_one_side_alone(documents, held):
    tagged = {name: [f"{name}{number} {line}" for number, line in enumerate(lines)] for name, lines in documents.items()}

    trained, kept = texts.documents_apart(tagged, held, 10**6, 0)

    owners = [{re.match("[xyz]*", line)[0] for line in side} for side in (trained, kept)]
    assert not owners[0] & owners[1]


def test_a_copy_in_capitals_is_the_same_line_and_a_line_of_marks_is_itself():
    assert texts.form("In the beginning,") == texts.form("IN THE  BEGINNING")
    assert texts.form("...") != texts.form("---")
    assert texts.form("12 + 3") != texts.form("12 - 3")


@given(st.lists(st.text("ab", min_size=1, max_size=9)), st.integers(1, 20))
def test_filled_lines_keep_every_piece_and_stay_within_the_width(pieces, width):
    filled = texts.filled(pieces, width)

    assert " ".join(filled) == " ".join(pieces)
    assert all(len(line) <= width or line in pieces for line in filled)


@given(st.lists(st.text("aé", max_size=5)), st.integers(0, 30))
def test_cut_keeps_as_many_whole_lines_as_fit(lines, limit):
    kept = texts.cut(lines, limit)

    assert kept == lines[: len(kept)]
    assert texts.size(kept) <= limit
    assert kept == lines or texts.size(lines[: len(kept) + 1]) > limit


def test_a_number_is_asked_for_as_the_numbers_model_is_and_answered_in_lower_case_without_commas():
    def words(number, lang):
        return f"One thousand, {number} {lang}"

    assert tasks.number_pair(84, "French", words) == ("say in French: 84", "one thousand 84 fr")


def test_num2words_answers_as_the_numbers_model_was_taught():
    words = pytest.importorskip("num2words", reason="num2words is not installed").num2words

    assert tasks.number_pair(1984, "French", words)[1] == "mille neuf cent quatre-vingt-quatre"
    assert tasks.number_pair(1984, "English", words)[1] == "one thousand nine hundred and eighty-four"


def test_a_date_is_asked_for_in_digits_and_answered_with_plain_spaces():
    def long_form(day, format, locale):
        return f"{day.day}.\N{NO-BREAK SPACE}{format} {locale}"

    assert tasks.date_pair(datetime.date(2026, 11, 5), "German", long_form) == ("date in German: 2026-11-05", "5. long de")


def test_babel_writes_every_language_of_the_dates_with_the_year():
    long_form = pytest.importorskip("babel.dates", reason="babel is not installed").format_date

    answers = {name: tasks.date_pair(datetime.date(2026, 11, 25), name, long_form)[1] for name in tasks.DATE_LANGUAGES}

    assert answers["German"] == "25. November 2026"
    assert all("2026" in answer and "25" in answer for answer in answers.values())


def test_every_day_of_two_centuries_is_there_in_every_language():
    keys = tasks.date_keys()

    assert len(keys) == len(set(keys)) == 73049 * len(tasks.DATE_LANGUAGES)


def test_pronunciations_lose_their_stress_keep_their_order_and_name_each_form_once():
    cmudict = [
        "TOMATO  T AH0 M EY1 T OW2",
        "TOMATO(1)  T AH0 M AA1 T OW2",
        "TOMATO(2)  T AH2 M EY1 T OW0",
        "IT  IH1 T",
        "DON'T  D OW1 N T",
    ]

    spoken = tasks.pronunciations(cmudict)

    assert spoken == {"tomato": ["T AH M EY T OW", "T AH M AA T OW"]}
    assert tasks.pronunciation_pair("tomato", spoken) == ("pronounce: tomato", "T AH M EY T OW")


def test_python_is_squeezed_to_functions_without_comments_docstrings_and_indentation():
    source = (
        '"""Of the module."""\nimport os  # a comment\n\n@cached\ndef long_name(a,\n              b):\n    """What."""\n'
        '    return a + "#"  # why\n\n\nclass Other:\n    value = 1\n'
    )

    assert domains.code_lines(source) == ['@cached def long_name(a, b): return a + "#"', "class Other: value = 1"]


def test_squeezed_statements_are_still_python():
    source = (ROOT / "recipes/texts.py").read_text(encoding="utf-8")

    statements = [line for line in domains.logical_lines(source) if not line.endswith(":")]

    assert len(statements) > 20
    for statement in statements:
        ast.parse(f"async def f():\n for _ in x:\n  {statement}")


def test_markup_leaves_prose_with_its_spaces_and_without_its_notes():
    osis = 'In the beginning, God<note n="1">Or, <hi>gods</hi></note> <w lemma="x">created</w> <lb/>the &amp; heavens. '

    assert domains.plain(osis) == "In the beginning, God created the & heavens."


def test_a_page_gives_its_paragraphs_of_sentences_and_no_script_or_listing():
    sentence = "A sentence that is long enough to be kept, with <b>bold</b> words in it, and a full stop."
    page = (
        f"<title>No</title><script>if (a < b) run();</script><p>{sentence}<pre>{sentence}</pre><p>Too short.<li>{sentence[:-1]}"
    )
    prose = domains.Prose()

    prose.feed(page)
    prose.close()
    prose.end_paragraph()

    assert prose.lines == [re.sub("<.*?>", "", sentence)]


def test_a_definition_names_its_words_and_what_they_mean():
    line = "00002684 03 n 02 object 0 physical_object(p) 0 001 @ 00001930 n 0000 | a thing;  you can touch it  "

    assert domains.definition(line) == "object, physical object: a thing; you can touch it"


def test_facts_say_whose_they_are_and_their_paths():
    entry = {"Geography": {"Climate": {"text": "cool"}, "Area": {"total": {"text": "5 sq km"}, "rank": 3}}}

    assert list(domains.statements(entry)) == ["Climate: cool", "Area, total: 5 sq km"]


def test_sums_are_right():
    for line in [line for document in domains.arithmetic(None).values() for line in document]:
        a, sign, b, quotient, rest = re.fullmatch(r"(\d+) ([-+x/]) (\d+) = (-?\d+)(?: remainder (\d+))?", line).groups()
        if sign == "/":
            assert int(a) == int(quotient) * int(b) + int(rest) and int(rest) < int(b)
        else:
            assert int(quotient) == {"+": int(a) + int(b), "-": int(a) - int(b), "x": int(a) * int(b)}[sign]


def test_an_archive_that_is_another_one_is_refused_with_both_hashes(tmp_path):
    package = packages.Package("npm", "@a/b", "1", "0" * 64, "CC0-1.0", "nothing")
    (tmp_path / "a-b").mkdir()
    (tmp_path / "a-b/b-1.tgz").write_bytes(b"other")

    with pytest.raises(packages.PackageError, match=r"b-1\.tgz has the sha256 d9298a10.*, but .* says 0000"):
        packages.unpacked(package, tmp_path)


def test_an_archive_in_its_place_is_unpacked_without_a_download(tmp_path):
    (tmp_path / "a-b").mkdir()
    with tarfile.open(tmp_path / "a-b/b-1.tgz", "w:gz") as tar:
        member = tarfile.TarInfo("package/text")
        member.size = 4
        tar.addfile(member, io.BytesIO(b"word"))
    digest = packages.hashlib.sha256((tmp_path / "a-b/b-1.tgz").read_bytes()).hexdigest()

    folder = packages.unpacked(packages.Package("none", "@a/b", "1", digest, "CC0-1.0", "nothing"), tmp_path)

    assert (folder / "package/text").read_bytes() == b"word"


def test_a_program_that_is_missing_or_fails_is_named(tmp_path):
    with pytest.raises(packages.PackageError, match="no-such-program is not installed"):
        packages.run(["no-such-program"], tmp_path)
    with pytest.raises(packages.PackageError, match=r"failed: .*bad"):
        packages.run([sys.executable, "-c", "import sys; sys.exit('bad')"], tmp_path)


def test_the_extra_the_table_and_the_pages_agree():
    setup = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    page = (ROOT / "recipes/SOURCES.md").read_text(encoding="utf-8")
    notice = (ROOT / "recipes/NOTICE").read_text(encoding="utf-8")
    makes = {use for package in packages.PACKAGES for use in package.use.split(", ")}

    pins = re.search(r"^recipes =\n((?:    .+\n)+)", setup, re.M)[1].split()

    assert pins == [f"{package.name}=={package.version}" for package in packages.PACKAGES if package.kind == "pip"]
    assert "\n".join(make_data.package_rows()) in page
    assert makes | {"arithmetic"} == {*domains.READERS, *make_data.TASKS}
    assert all(re.search(rf"\b{use}\b", notice) for use in makes)


def test_what_was_made_holds_no_held_out_item_in_training():
    if not (DATA / "SOURCES.json").exists():
        pytest.skip("recipes/make_data.py has not made .data/ here")

    for task in make_data.TASKS:
        train, held = ((DATA / part / f"{task}.tsv").read_text(encoding="utf-8").splitlines() for part in ("train", "held"))
        prompts = [line.split("\t")[0] for line in train + held]
        assert len(set(prompts)) == len(prompts)
    for domain in domains.READERS:
        train, held = ((DATA / part / f"{domain}.txt").read_text(encoding="utf-8").splitlines() for part in ("fill", "held"))
        assert not {*map(texts.form, train)} & {*map(texts.form, held)}
    assert len(json.loads((DATA / "SOURCES.json").read_text(encoding="utf-8"))["files"]) == 28
