"""A file in fewer bits is the same model written whole or not at all, and the report says what it cost."""

import json
import shutil

import numpy as np
import pytest
from references import ROOT, TESTS
from test_cli import NUMBERS, run
from test_weights import BIG, CONFIG, PARAMS, ROUTING, names, one_line, peak_bytes

import switchnp
from switchnp import GenerationConfig, memory, narrowing, weights
from switchnp.errors import FileError, InputError, SwitchError, TokenizerError, WeightsError
from switchnp.narrowing import narrow
from switchnp.params import blueprint
from switchnp.quantization import scale_path

ANSWERS = json.loads((TESTS / "parity/numbers/answers.json").read_text())


@pytest.fixture
def source(tmp_path):
    """A float32 file of PARAMS, without a tokenizer."""
    path = tmp_path / "mine.h5"
    weights.save(path, PARAMS, CONFIG, ROUTING, provenance={"source": "a test"}, generation=GenerationConfig(num_beams=3))
    return path


def test_the_shipped_model_in_int8_gives_all_its_answers(tmp_path):
    done = run("quantize", NUMBERS, "-o", tmp_path / "i.h5", "--dtype", "int8")

    model = switchnp.load(tmp_path / "i.h5")
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert model.generate([case["prompt"] for case in ANSWERS]) == [case["answer"] for case in ANSWERS]
    size = (tmp_path / "i.h5").stat().st_size
    assert lines[0].startswith(f"float32 to int8: 4,902,847 bytes before, {size:,} after (30.")
    assert [line.split()[0] for line in lines[2:7]] == [
        *("decoder/blocks/0", "decoder/blocks/1", "embedding_vd", "encoder/blocks/0", "encoder/blocks/1"),
    ]
    assert lines[-1] == "greedy answers alike: 4 of 4"
    assert "int8" in run("info", tmp_path / "i.h5", "--verify").stdout


def test_the_report_is_json_for_programs_and_compares_the_texts_it_is_given(tmp_path):
    (tmp_path / "prompts.txt").write_text("say in French: 1984\n\nsay in Italian: 365\n")
    texts = ["say in German: 84", tmp_path / "prompts.txt"]

    facts = json.loads(run("quantize", NUMBERS, "-o", tmp_path / "i.h5", "--json", "--text", *texts).stdout)

    assert facts["dtypes"] == ["float32", "int8"]
    assert facts["nbytes"] == [4_902_847, (tmp_path / "i.h5").stat().st_size]
    assert (facts["fidelity"]["texts"], facts["fidelity"]["agreed"]) == (3, 3)
    assert facts["fidelity"]["routed"].keys() == {"encoder/blocks/1", "decoder/blocks/1"}
    assert {part["name"] for part in facts["parts"]} > {"embedding_vd"}


@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
def test_everything_but_the_bits_is_kept(tmp_path, source, dtype):
    before = source.read_bytes()
    _, header = weights.read(source)

    narrow(source, tmp_path / "n.h5", dtype)
    weights.save(tmp_path / "saved.h5", PARAMS, CONFIG, ROUTING, dtype=dtype)

    found, narrow_header = weights.read(tmp_path / "n.h5")
    expected, _ = weights.read(tmp_path / "saved.h5")
    made = {"quantized_from": "mine.h5", "quantized_from_dtype": "float32"}
    assert narrow_header == header._replace(dtype=dtype, provenance={"source": "a test"} | made)
    assert all(np.array_equal(leaf, expected[path]) for path, leaf in found.leaves())
    assert source.read_bytes() == before
    assert names(tmp_path) == ["mine.h5", "n.h5", "saved.h5"]


@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
def test_the_tokenizer_stays(tmp_path, dtype):
    narrow(NUMBERS, tmp_path / "n.h5", dtype)

    assert weights.read_header(tmp_path / "n.h5")[0].tokenizer == weights.read_header(NUMBERS)[0].tokenizer


@pytest.mark.parametrize("block", [1, 7, 1 << 18])
@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
def test_the_error_is_that_of_the_two_files(tmp_path, monkeypatch, source, dtype, block):
    monkeypatch.setattr(narrowing, "BLOCK", block)

    report = narrow(source, tmp_path / "n.h5", dtype)

    (before, _), (after, _) = weights.read(source, "float64"), weights.read(tmp_path / "n.h5", "float64")
    parts = {}
    for path, _ in before.leaves():
        if dtype == "bfloat16" or scale_path(path):
            parts.setdefault("/".join(path.split("/")[:3]) if "/blocks/" in path else path, []).append(path)
    assert [part.name for part in report.parts] == list(parts)
    for part in report.parts:
        exact, near = (np.concatenate([tree[path].ravel() for path in parts[part.name]]) for tree in (before, after))
        assert part.rms == pytest.approx(np.sqrt(np.mean((exact - near) ** 2) / np.mean(exact**2)))
        assert part.largest == np.abs(exact - near).max()
        assert 0 < part.rms < 0.02


def test_weights_of_zeros_have_no_error(tmp_path):
    weights.save(tmp_path / "z.h5", PARAMS.map(np.zeros_like), CONFIG, ROUTING)

    report = narrow(tmp_path / "z.h5", tmp_path / "n.h5")

    assert {(part.rms, part.largest) for part in report.parts} == {(0, 0)}


def test_bfloat16_can_be_narrowed_to_int8(tmp_path, source):
    narrow(source, tmp_path / "b.h5", "bfloat16")

    report = narrow(tmp_path / "b.h5", tmp_path / "i.h5", "int8")

    assert report.dtypes == ("bfloat16", "int8")
    assert {part.name for part in report.parts} == {"embedding_vd"} | {
        f"{stack}/blocks/{i}" for stack in ("encoder", "decoder") for i in (0, 1)
    }
    provenance = weights.read_header(tmp_path / "i.h5")[0].provenance
    assert (provenance["quantized_from"], provenance["quantized_from_dtype"]) == ("b.h5", "bfloat16")


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ("int8", "int8", r"n\.h5 is int8 already, expected a file of float32 or bfloat16$"),
        ("int8", "bfloat16", r"n\.h5 is int8 already, expected a file of float32$"),
        ("bfloat16", "bfloat16", r"n\.h5 is bfloat16 already, expected a file of float32$"),
        (None, "float32", "dtype is 'float32', expected int8 or bfloat16"),
    ],
)
def test_what_has_no_bits_to_lose_is_refused(tmp_path, source, first, second, says):
    if first:
        narrow(source, tmp_path / "n.h5", first)

    with pytest.raises(InputError, match=says) as error:
        narrow(tmp_path / "n.h5" if first else source, tmp_path / "again.h5", second)

    assert one_line(error)
    assert not (tmp_path / "again.h5").exists()


def unreachable(*_, **__):
    raise AssertionError("work was done")


def test_a_target_that_is_there_is_overwritten_by_force_only_and_refused_before_any_work(tmp_path, source, monkeypatch):
    target = tmp_path / "n.h5"
    target.write_text("precious")
    monkeypatch.setattr(weights, "mapped", unreachable)

    with pytest.raises(FileError, match=r"n.h5 exists already; --force"):
        narrow(source, target)

    monkeypatch.undo()
    assert target.read_text() == "precious"
    narrow(source, target, force=True)
    assert weights.read_header(target)[0].dtype == "int8"


@pytest.mark.parametrize("kind", ["itself", "link", "hard link"])
def test_the_source_is_never_the_target(tmp_path, source, kind):
    target, before = tmp_path / "link.h5", source.read_bytes()
    if kind == "link":
        target.symlink_to(source)
    if kind == "hard link":
        target.hardlink_to(source)

    with pytest.raises(FileError, match="is the source itself, expected another target"):
        narrow(source, source if kind == "itself" else target, force=True)

    assert source.read_bytes() == before


def test_a_damaged_source_makes_no_file(tmp_path, source):
    data = bytearray(source.read_bytes())
    data[weights.read_header(source)[1][3].offset] ^= 1
    source.write_bytes(data)

    with pytest.raises(WeightsError, match="sha256"):
        narrow(source, tmp_path / "n.h5")

    assert names(tmp_path) == ["mine.h5"]


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("a text", TokenizerError, r"texts are given, but .*mine\.h5 has no tokenizer to read them"),
        ("empty.txt", FileError, "empty.txt has no text, expected one a line"),
        ("bytes.txt", FileError, "bytes.txt cannot be read"),
        (".", FileError, "is not a regular file"),
    ],
)
def test_texts_that_nobody_can_read_are_refused_before_any_work(tmp_path, source, monkeypatch, text, kind, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    monkeypatch.setattr(weights, "mapped", unreachable)

    with pytest.raises(kind, match=says) as error:
        narrow(source, "n.h5", texts=[text])

    assert one_line(error)


def test_without_a_tokenizer_no_texts_are_compared(tmp_path, source):
    report = narrow(source, tmp_path / "n.h5")

    assert report.fidelity is None
    assert str(report).endswith("\nno texts compared: the model has no tokenizer")


def test_models_that_do_not_fit_are_narrowed_and_not_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "free", lambda: 8 * 1_158_016 - 1)
    monkeypatch.setattr(narrowing, "load", unreachable)

    report = narrow(NUMBERS, tmp_path / "n.h5")

    assert report.why == "no texts compared: two models take 0.0 GB of memory, but 0.0 GB are free"
    weights.verify(tmp_path / "n.h5")


def test_a_text_that_the_model_refuses_does_not_lose_the_file(tmp_path, monkeypatch):
    def refused(*_):
        raise SwitchError("the text is too long")

    monkeypatch.setattr(narrowing, "measured", refused)

    report = narrow(NUMBERS, tmp_path / "n.h5", texts=["x"])

    assert report.why == "no texts compared: the text is too long"
    weights.verify(tmp_path / "n.h5")


def test_a_model_of_simulated_precision_is_compared_too(tmp_path):
    switchnp.load(NUMBERS, engine="equations", precision="selective").save(tmp_path / "s.h5")

    assert narrow(tmp_path / "s.h5", tmp_path / "n.h5", texts=["say in German: 84"]).fidelity.agreed == 1


def test_narrowing_needs_memory_for_a_matrix_only(tmp_path):
    ones = ((path, np.ones(shape, np.float32)) for path, shape in blueprint(BIG).items())
    weights.write(tmp_path / "m.h5", BIG, ROUTING, ones)

    peak = peak_bytes(lambda: narrow(tmp_path / "m.h5", tmp_path / "n.h5"))

    assert peak < 0.6 * BIG.num_parameters * 4


@pytest.mark.parametrize("arguments", [(), ("-o",), ("-o", "n.h5", "--dtype", "float32")])
def test_a_misused_command_is_status_2(arguments):
    assert run("quantize", NUMBERS, *arguments).returncode == 2


def test_a_refused_command_is_one_sentence_and_status_1(tmp_path):
    shutil.copy(ROOT / "weights/switch-numbers.h5", tmp_path / "m.h5")

    done = run("quantize", tmp_path / "m.h5", "-o", tmp_path / "m.h5", "--force")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"switchnp: {tmp_path / 'm.h5'} is the source itself, expected another target\n"
