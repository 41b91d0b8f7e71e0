"""Hugging Face folders, sound and broken, become one HDF5 file or one sentence."""

import json
import re
import struct
import sys
import types
import warnings
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from references import ROOT, huggingface_case
from safetensors.numpy import load_file, save_file
from small import small_config, small_params

import switchnp
from switchnp.conversion import folder as folders
from switchnp.conversion.renames import RENAMES, is_stacked, tensor_names, tensor_shapes
from switchnp.errors import ConfigError, FileError, InputError, SwitchWarning, WeightsError

CASE = "p02_overflow"


def as_huggingface(params, config):
    """Our weights under Hugging Face's names and in its layout, turned by hand."""
    theirs, shapes = {}, tensor_shapes(config)
    for path, array in params.leaves():
        names, axes = tensor_names(path, config), path.rsplit("_", 1)[1]
        parts = list(array) if is_stacked(path) else [array]
        axes = axes[1:] if is_stacked(path) else axes
        for name, part in zip(names, parts, strict=True):
            if axes in ("dhk", "df", "de", "fd"):
                part = np.moveaxis(part, 0, -1)
            elif axes == "hkd":
                part = np.moveaxis(part, -1, 0)
            theirs[name] = np.ascontiguousarray(part.reshape(shapes[name]))
    return theirs


def full_settings(config):
    """A config.json that agrees with the tensors."""
    settings = json.loads(config.to_json())
    for stack, layers in (("encoder", config.num_layers), ("decoder", config.num_decoder_layers)):
        sparse = settings.pop(f"sparse_{stack}_layers")
        settings |= {f"num_sparse_{stack}_layers": len(sparse), f"{stack}_sparse_step": layers // len(sparse)}
    return settings


def written(folder, tensors, settings):
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def case(tmp_path):
    """A folder with a real checkpoint, to be broken, and its tensors and settings."""
    folder = huggingface_case(CASE)
    tensors = load_file(folder / "model.safetensors")
    settings = json.loads((folder / "config.json").read_text())
    return written(tmp_path / "source", tensors, settings), tensors, settings


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"is_gated_act": True, "dense_act_fn": "gelu_new", "tie_word_embeddings": False},
        {"tie_word_embeddings": False, "separate_embeddings": True},
        {"router_bias": True, "num_decoder_layers": 3, "sparse_decoder_layers": (0, 2)},
        {"sparse_encoder_layers": (), "sparse_decoder_layers": (0, 1)},
    ],
)
def test_every_kind_of_model_comes_back_from_hugging_faces_names(changes, tmp_path):
    config = small_config(**changes)
    params = small_params(config)
    settings = {"tie_word_embeddings": config.tie_word_embeddings, "dense_act_fn": config.dense_act_fn}
    folder = written(tmp_path / "theirs", as_huggingface(params, config), settings)

    with pytest.warns(SwitchWarning, match="the tensors, which win"):
        switchnp.convert(folder, tmp_path / "ours.h5")

    model = switchnp.load(tmp_path / "ours.h5")
    assert model.config.num_parameters == config.num_parameters
    for (path, one), (same_path, other) in zip(model.params.leaves(), params.leaves(), strict=True):
        assert path == same_path
        np.testing.assert_array_equal(one, other, err_msg=path)


def test_switch_xxl_as_published_is_read_by_its_tensors(tmp_path):
    """config.json says 48 + 12 layers, ungated gelu and nothing of an untied head; the tensors say otherwise."""
    config = small_config(
        is_gated_act=True, dense_act_fn="gelu_new", tie_word_embeddings=False, num_layers=4, sparse_encoder_layers=(1, 3)
    )
    tensors = as_huggingface(small_params(config), config)
    tensors["decoder.lm_head.weight"] = tensors.pop("lm_head.weight")
    settings = {"num_layers": 48, "num_decoder_layers": 12, "dense_act_fn": "gelu", "is_gated_act": False, "d_model": 12}

    with pytest.warns(SwitchWarning) as caught:
        switchnp.convert(written(tmp_path / "xxl", tensors, settings), tmp_path / "xxl.h5")

    said = " ".join(str(warning.message) for warning in caught)
    for part in ("num_layers 48 (the tensors: 4)", "is_gated_act False (the tensors: True)", "gelu in a gated model"):
        assert part in said
    model = switchnp.load(tmp_path / "xxl.h5")
    assert (model.config.dense_act_fn, model.config.is_gated_act) == ("gelu_new", True)
    assert not model.config.tie_word_embeddings
    assert model.config.sparse_encoder_layers == (1, 3)


def test_switch_c_as_published_is_read_by_its_tensors(tmp_path):
    """config.json says 12 dense decoder layers and nothing of an untied head."""
    config = small_config(tie_word_embeddings=False, sparse_encoder_layers=(0, 1), sparse_decoder_layers=(0, 1))
    tensors = as_huggingface(small_params(config), config)
    tensors["decoder.lm_head.weight"] = tensors.pop("lm_head.weight")
    settings = {"num_layers": 2, "num_decoder_layers": 12, "decoder_sparse_step": 0, "encoder_sparse_step": 1, "num_experts": 4}

    with pytest.warns(SwitchWarning, match="num_decoder_layers 12"):
        switchnp.convert(written(tmp_path / "c", tensors, settings), tmp_path / "c.h5")

    model = switchnp.load(tmp_path / "c.h5")
    assert model.config.sparse_decoder_layers == (0, 1)
    assert not model.config.tie_word_embeddings


def test_tied_copies_and_the_stray_bias_of_old_files_are_passed_over(case, tmp_path):
    folder, tensors, settings = case
    copies = {
        name: tensors["shared.weight"].copy()
        for name in ("lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    }
    stray = {"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": np.zeros((32, 4), np.float32)}
    more = written(tmp_path / "more", tensors | copies | stray, settings)

    switchnp.convert(folder, tmp_path / "plain.h5")
    switchnp.convert(more, tmp_path / "more.h5")

    one, other = switchnp.load(tmp_path / "plain.h5"), switchnp.load(tmp_path / "more.h5")
    assert one.config == other.config


def test_an_untied_file_with_only_shared_and_head_reads_both_tables_from_shared(tmp_path):
    """transformers 4.57.6 saves such files, and itself loads them with random tables."""
    config = small_config(tie_word_embeddings=False)
    params = small_params(config)
    folder = written(tmp_path / "untied", as_huggingface(params, config), {"tie_word_embeddings": False})

    with pytest.warns(SwitchWarning):
        switchnp.convert(folder, tmp_path / "untied.h5")

    model = switchnp.load(tmp_path / "untied.h5")
    np.testing.assert_array_equal(model.params.embedding_vd, params.embedding_vd)
    assert not model.config.separate_embeddings


def test_float16_and_bfloat16_sources_keep_their_values(case, tmp_path):
    import ml_dtypes

    _, tensors, settings = case
    for kind in (np.float16, ml_dtypes.bfloat16):
        narrow = {name: array.astype(kind) for name, array in tensors.items()}
        folder = written(tmp_path / np.dtype(kind).name, narrow, settings)

        switchnp.convert(folder, tmp_path / f"{np.dtype(kind).name}.h5")

        model = switchnp.load(tmp_path / f"{np.dtype(kind).name}.h5")
        np.testing.assert_array_equal(model.params.embedding_vd, narrow["shared.weight"].astype(np.float32))


def test_a_bfloat16_file_holds_the_rounded_weights(case, tmp_path):
    import ml_dtypes

    folder, tensors, _ = case

    switchnp.convert(folder, tmp_path / "narrow.h5", dtype="bfloat16")

    model = switchnp.load(tmp_path / "narrow.h5")
    rounded = tensors["shared.weight"].astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(model.params.embedding_vd, rounded)


def test_a_folder_becomes_the_int8_file_that_its_weights_become(case, tmp_path):
    switchnp.convert(case[0], tmp_path / "wide.h5")
    wide = switchnp.load(tmp_path / "wide.h5")
    wide.save(tmp_path / "saved.h5", dtype="int8")

    switchnp.convert(case[0], tmp_path / "int8.h5", dtype="int8")

    assert (tmp_path / "int8.h5").read_bytes() == (tmp_path / "saved.h5").read_bytes()


def test_experts_are_numbered_not_spelled(tmp_path):
    config = small_config(num_experts=12)
    params = small_params(config)
    folder = written(tmp_path / "twelve", as_huggingface(params, config), {})

    with pytest.warns(SwitchWarning):
        switchnp.convert(folder, tmp_path / "twelve.h5")

    ours = switchnp.load(tmp_path / "twelve.h5").params.encoder.blocks[1].switch.wi_edf
    np.testing.assert_array_equal(ours, params.encoder.blocks[1].switch.wi_edf)


def test_missing_unexpected_and_misshapen_tensors_are_one_error(case, tmp_path):
    _, tensors, settings = case
    broken = dict(tensors)
    del broken["encoder.block.1.layer.1.mlp.experts.expert_2.wi.weight"]
    broken["encoder.block.0.layer.7.odd.weight"] = np.zeros(3, np.float32)
    broken["decoder.block.0.layer.0.SelfAttention.q.weight"] = np.zeros((3, 3), np.float32)
    folder = written(tmp_path / "broken", broken, settings)

    with pytest.raises(WeightsError) as refusal:
        switchnp.convert(folder, tmp_path / "broken.h5")

    message = str(refusal.value)
    assert "3 faults" in message
    assert "missing encoder.block.1.layer.1.mlp.experts.expert_2.wi.weight" in message
    assert "unexpected encoder.block.0.layer.7.odd.weight" in message
    assert "misshapen decoder.block.0.layer.0.SelfAttention.q.weight (3, 3), expected (32, 32)" in message
    assert list(tmp_path.glob("*.h5")) == []


def test_values_that_are_not_finite_are_refused_and_nothing_is_left(case, tmp_path):
    _, tensors, settings = case
    tensors["encoder.final_layer_norm.weight"][3] = np.nan
    folder = written(tmp_path / "nan", tensors, settings)

    with pytest.raises(WeightsError, match="encoder/norm_d"):
        switchnp.convert(folder, tmp_path / "nan.h5")

    assert [path.name for path in tmp_path.iterdir() if "h5" in path.name] == []


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("model.safetensors", b"", WeightsError),
        ("model.safetensors", b"not safetensors at all", WeightsError),
        ("model.safetensors", struct.pack("<Q", 2**60) + b"{}", WeightsError),
        ("config.json", b"{", WeightsError),
        ("config.json", b"[]", WeightsError),
        ("config.json", b'{"d_model": 3, "d_model": 4}', WeightsError),
        ("config.json", b'{"num_layers": -4}', ConfigError),
        ("config.json", None, FileError),
        ("model.safetensors", None, FileError),
    ],
)
def test_a_broken_folder_is_one_sentence(case, tmp_path, name, content, error):
    folder, _, _ = case
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)

    with pytest.raises(error) as refusal:
        switchnp.convert(folder, tmp_path / "out.h5")

    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "out.h5").exists()


def test_a_header_that_names_a_tensor_twice_is_refused(case, tmp_path):
    folder, _, _ = case
    raw = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    twice = json.dumps(header)[:-1] + ', "shared.weight": ' + json.dumps(header["shared.weight"]) + "}"
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(twice)) + twice.encode() + raw[8 + length :])

    with pytest.raises(WeightsError, match="a name comes twice"):
        switchnp.convert(folder, tmp_path / "out.h5")


@pytest.mark.parametrize("file", ["../outside.safetensors", "/etc/passwd", "missing.safetensors", ""])
def test_an_index_that_leaves_the_folder_is_refused(case, tmp_path, file):
    folder, tensors, _ = case
    (folder / "model.safetensors").rename(tmp_path / "outside.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(tensors, file)}))

    with pytest.raises((WeightsError, FileError)) as refusal:
        switchnp.convert(folder, tmp_path / "out.h5")

    assert "\n" not in str(refusal.value)


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(FileError, match="nowhere is no folder"):
        switchnp.convert(tmp_path / "nowhere", tmp_path / "out.h5")
    with pytest.raises(FileError, match=r"expected one of model.safetensors"):
        switchnp.convert(tmp_path, tmp_path / "out.h5")


def test_only_known_number_types_are_written(case, tmp_path):
    with pytest.raises(InputError, match="'float16'"):
        switchnp.convert(case[0], tmp_path / "out.h5", dtype="float16")


def test_an_existing_file_is_kept_without_force_and_replaced_with_it(case, tmp_path):
    (tmp_path / "out.h5").write_text("precious")

    with pytest.raises(FileError, match="exists"):
        switchnp.convert(case[0], tmp_path / "out.h5")

    assert (tmp_path / "out.h5").read_text() == "precious"
    switchnp.convert(case[0], tmp_path / "out.h5", force=True)
    assert switchnp.load(tmp_path / "out.h5").config.num_experts == 4


def test_the_tokenizer_of_the_folder_is_taken_along_and_another_may_be_given(tmp_path):
    spiece = switchnp.load(ROOT / "weights/switch-numbers.h5").tokenizer.model_bytes
    config = small_config(vocab_size=600)
    folder = written(tmp_path / "theirs", as_huggingface(small_params(config), config), full_settings(config))
    (tmp_path / "own.model").write_bytes(spiece)

    switchnp.convert(folder, tmp_path / "none.h5")
    switchnp.convert(folder, tmp_path / "given.h5", tokenizer=tmp_path / "own.model")
    (folder / "spiece.model").write_bytes(spiece)
    switchnp.convert(folder, tmp_path / "along.h5")

    assert switchnp.load(tmp_path / "none.h5").tokenizer is None
    assert switchnp.load(tmp_path / "given.h5").tokenizer.model_bytes == spiece
    assert switchnp.load(tmp_path / "along.h5").tokenizer.model_bytes == spiece


def test_a_tokenizer_that_does_not_fit_or_is_missing_is_refused(case, tmp_path):
    (tmp_path / "own.model").write_bytes(switchnp.load(ROOT / "weights/switch-numbers.h5").tokenizer.model_bytes)

    with pytest.raises(ConfigError, match=r"own.model has 512 tokens, expected at most the model's 64"):
        switchnp.convert(case[0], tmp_path / "out.h5", tokenizer=tmp_path / "own.model")
    with pytest.raises(FileError, match=r"missing.model cannot be read"):
        switchnp.convert(case[0], tmp_path / "out.h5", tokenizer=tmp_path / "missing.model")


def test_a_vocabulary_that_is_far_too_short_is_a_warning(tmp_path):
    config = small_config(vocab_size=1000)
    folder = written(tmp_path / "long", as_huggingface(small_params(config), config), {})
    (folder / "spiece.model").write_bytes(switchnp.load(ROOT / "weights/switch-numbers.h5").tokenizer.model_bytes)

    with pytest.warns(SwitchWarning) as warnings:
        switchnp.convert(folder, tmp_path / "out.h5")

    assert any("is it cut short" in str(warning.message) for warning in warnings)
    assert switchnp.load(tmp_path / "out.h5").tokenizer.vocab_size == 512


def test_every_published_name_and_shape_is_one_of_ours():
    for name in ("p02_overflow", "p05_bias_masks"):
        folder = huggingface_case(name)
        config = switchnp.Config.from_huggingface(json.loads((folder / "config.json").read_text()))
        theirs = {key: tensor.shape for key, tensor in load_file(folder / "model.safetensors").items()}

        ours = tensor_shapes(config if name == "p02_overflow" else replace(config, router_bias=True))

        assert ours == theirs


def test_every_row_of_the_table_of_renames_is_used():
    kinds = ({"is_gated_act": True, "router_bias": True}, {"tie_word_embeddings": False, "separate_embeddings": True}, {})
    used = {name for changes in kinds for name in tensor_shapes(small_config(**changes))}

    for theirs, _ in RENAMES.values():
        pattern = re.escape(theirs).replace(r"\{stack\}", "(en|de)coder").replace(r"\{layer\}", r"\w+\.block\.\d+\.layer")
        pattern = pattern.replace(r"\{last\}", "[12]").replace(r"\{e\}", r"\d+")
        assert any(re.match(pattern, name) for name in used), theirs


def test_bin_files_name_the_extra_where_torch_is_missing(case, monkeypatch):
    folder, _, _ = case
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    monkeypatch.setitem(sys.modules, "torch", None)

    with pytest.raises(ImportError, match=re.escape("pip install 'switchnp[torch]'")):
        switchnp.convert(folder, folder / "out.h5")


class FakeTensor:
    """As much of a torch tensor as conversion asks for."""

    def __init__(self, array, dtype="float32"):
        self.array, self.dtype, self.shape = array, dtype, array.shape

    def detach(self):
        return self

    float = contiguous = detach

    def numpy(self):
        return self.array


def fake_torch(state, version="2.6.0"):
    """A torch that loads `state`, and remembers how it was asked to."""
    torch = types.ModuleType("torch")
    torch.__version__, torch.Tensor = version, FakeTensor
    torch.float32, torch.float16, torch.bfloat16 = "float32", "float16", "bfloat16"
    torch.asked = []
    torch.load = lambda path, **options: torch.asked.append(options) or state
    return torch


@pytest.fixture
def pickled(case, monkeypatch):
    """The case as a .bin folder, and a torch that pretends to load it."""
    folder, tensors, _ = case
    (folder / "model.safetensors").unlink()
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", b"pickle")
    torch = fake_torch({name: FakeTensor(tensor) for name, tensor in tensors.items()})
    monkeypatch.setitem(sys.modules, "torch", torch)
    return folder, torch


def test_a_bin_file_is_loaded_as_weights_only(pickled, tmp_path):
    folder, torch = pickled

    switchnp.convert(folder, tmp_path / "out.h5")

    assert [options["weights_only"] for options in torch.asked] == [True]
    assert switchnp.load(tmp_path / "out.h5").config.num_experts == 4


def test_an_old_torch_is_refused(pickled, tmp_path):
    folder, torch = pickled
    torch.__version__ = "2.5.1+cpu"

    with pytest.raises(ImportError, match=r"torch is 2.5.1\+cpu, expected 2.6 or newer"):
        switchnp.convert(folder, tmp_path / "out.h5")

    assert torch.asked == []


@pytest.mark.parametrize(
    ("name", "content", "compression", "says"),
    [
        ("archive/data.pkl", b"\0" * (folders.MAX_PICKLE + 1), zipfile.ZIP_STORED, "expected at most"),
        ("archive/data/0", b"\0" * 1000, zipfile.ZIP_DEFLATED, "is compressed"),
    ],
)
def test_a_zip_bomb_is_refused_before_torch_sees_it(pickled, tmp_path, name, content, compression, says):
    folder, torch = pickled
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w", compression) as archive:
        archive.writestr(name, content)

    with pytest.raises(WeightsError, match=says):
        switchnp.convert(folder, tmp_path / "out.h5")

    assert torch.asked == []


@pytest.mark.parametrize(
    ("state", "says"),
    [([], "holds a list"), ({"a": 3}, "a in .* is int"), ({"a": FakeTensor(np.zeros(3), "int64")}, "a in .* is int64")],
)
def test_a_bin_file_that_holds_no_floats_is_refused(pickled, tmp_path, monkeypatch, state, says):
    monkeypatch.setitem(sys.modules, "torch", fake_torch(state))

    with pytest.raises(WeightsError, match=says):
        switchnp.convert(pickled[0], tmp_path / "out.h5")


def test_what_torch_cannot_load_is_one_sentence(pickled, tmp_path):
    folder, torch = pickled

    def failing(*_, **__):
        raise RuntimeError("first line\nsecond line")

    torch.load = failing

    with pytest.raises(WeightsError, match=r"first line$"):
        switchnp.convert(folder, tmp_path / "out.h5")


def test_one_odd_tensor_is_the_one_that_is_blamed(case, tmp_path):
    _, tensors, settings = case
    tensors["encoder.block.0.layer.1.mlp.wi.weight"] = np.zeros((5, 32), np.float32)
    tensors["decoder.block.0.layer.0.layer_norm.weight"] = np.zeros(3, np.float32)
    folder = written(tmp_path / "odd", tensors, settings)

    with pytest.raises(WeightsError) as refusal:
        switchnp.convert(folder, tmp_path / "out.h5")

    assert "2 faults" in str(refusal.value)
    assert "misshapen encoder.block.0.layer.1.mlp.wi.weight (5, 32), expected (48, 32)" in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("encoder.block.99999.layer.0.layer_norm.weight", np.zeros(32, np.float32)),
        ("encoder.block.1.layer.1.mlp.router.classifier.weight", np.zeros((1_000_000_000, 0), np.float32)),
    ],
)
def test_layers_and_experts_that_cannot_be_there_are_refused_at_once(case, tmp_path, name, tensor):
    _, tensors, settings = case
    tensors[name] = tensor
    if "router" in name:
        tensors |= {key: tensor for key in tensors if "router" in key}
    folder = written(tmp_path / "vast", tensors, settings)

    with pytest.raises(WeightsError, match=r"but there are only \d+ of them"):
        switchnp.convert(folder, tmp_path / "out.h5")


def test_names_of_strangers_are_shown_without_their_escapes(case, tmp_path):
    _, tensors, settings = case
    folder = written(
        tmp_path / "escapes", tensors | {"a\nb\x1b[31m": np.zeros(2, np.float32), "x" * 9999: np.zeros(2, np.float32)}, settings
    )

    with pytest.raises(WeightsError) as refusal:
        switchnp.convert(folder, tmp_path / "out.h5")

    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 1000


def test_another_router_dtype_is_a_warning(case, tmp_path):
    folder, _, settings = case
    (folder / "config.json").write_text(json.dumps(settings | {"router_dtype": "bfloat16"}))

    with pytest.warns(SwitchWarning, match="router_dtype is bfloat16"):
        switchnp.convert(folder, tmp_path / "out.h5")


def test_tables_that_differ_in_a_tied_model_are_a_warning(case, tmp_path):
    _, tensors, settings = case
    folder = written(tmp_path / "tied", tensors | {"encoder.embed_tokens.weight": 2 * tensors["shared.weight"]}, settings)

    with pytest.warns(SwitchWarning, match=r"encoder.embed_tokens.weight differ from shared.weight"):
        switchnp.convert(folder, tmp_path / "out.h5")


def test_a_checkpoint_is_not_overwritten_by_its_own_conversion(case):
    folder, _, _ = case
    before = (folder / "model.safetensors").read_bytes()

    with pytest.raises(FileError, match="a file of the checkpoint itself"):
        switchnp.convert(folder, folder / "model.safetensors", force=True)

    assert (folder / "model.safetensors").read_bytes() == before


def test_a_sharded_checkpoint_is_read_whole_also_where_its_index_forgets_a_tensor(case, tmp_path):
    folder, tensors, _ = case
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    index = {name: "one.safetensors" for name in list(tensors)[1:]}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))

    switchnp.convert(folder, tmp_path / "out.h5")

    assert switchnp.load(tmp_path / "out.h5").config.num_experts == 4


def test_a_sound_conversion_warns_of_nothing(case, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        switchnp.convert(case[0], tmp_path / "out.h5")


def test_a_conversion_records_where_it_comes_from_and_how_it_routes(case, tmp_path):
    switchnp.convert(case[0], tmp_path / "out.h5")

    model = switchnp.load(tmp_path / "out.h5")

    assert model.routing == switchnp.Routing.huggingface()
    assert model.provenance["source"] == "source"
    assert model.provenance["source_format"] == "huggingface"


def test_one_table_that_differs_in_an_untied_model_makes_both_separate(tmp_path):
    config = small_config(tie_word_embeddings=False)
    tensors = as_huggingface(small_params(config), config)
    tensors["encoder.embed_tokens.weight"] = 2 * tensors["shared.weight"]
    folder = written(tmp_path / "untied", tensors, full_settings(config))

    switchnp.convert(folder, tmp_path / "out.h5")

    model = switchnp.load(tmp_path / "out.h5")
    np.testing.assert_array_equal(model.params.encoder.embedding_vd, 2 * tensors["shared.weight"])
    np.testing.assert_array_equal(model.params.decoder.embedding_vd, tensors["shared.weight"])


def test_an_untied_model_may_leave_out_shared(tmp_path):
    config = small_config(tie_word_embeddings=False, separate_embeddings=True)
    params = small_params(config)
    folder = written(tmp_path / "untied", as_huggingface(params, config), full_settings(config))

    switchnp.convert(folder, tmp_path / "out.h5")

    np.testing.assert_array_equal(switchnp.load(tmp_path / "out.h5").params.head_vd, params.head_vd)


def test_an_untied_model_without_a_head_uses_shared(tmp_path):
    config = small_config(tie_word_embeddings=False)
    tensors = as_huggingface(small_params(config), config)
    del tensors["lm_head.weight"]
    folder = written(tmp_path / "headless", tensors, full_settings(config))

    switchnp.convert(folder, tmp_path / "out.h5")

    np.testing.assert_array_equal(switchnp.load(tmp_path / "out.h5").params.head_vd, tensors["shared.weight"])


def test_a_tied_model_without_shared_says_what_is_missing(case, tmp_path):
    _, tensors, settings = case
    tensors["lm_head.weight"] = tensors.pop("shared.weight")
    folder = written(tmp_path / "unshared", tensors, settings)

    with pytest.raises(WeightsError, match=r"missing shared.weight"):
        switchnp.convert(folder, tmp_path / "out.h5")


def test_two_heads_that_differ_are_refused(case, tmp_path):
    _, tensors, settings = case
    heads = {"lm_head.weight": tensors["shared.weight"].copy(), "decoder.lm_head.weight": 2 * tensors["shared.weight"]}
    folder = written(tmp_path / "heads", tensors | heads, settings)

    with pytest.raises(WeightsError, match="two heads that differ"):
        switchnp.convert(folder, tmp_path / "out.h5")


def test_an_ungated_gelu_stays_what_it_is(tmp_path):
    config = small_config(dense_act_fn="gelu")
    folder = written(tmp_path / "gelu", as_huggingface(small_params(config), config), full_settings(config))

    switchnp.convert(folder, tmp_path / "out.h5")

    assert switchnp.load(tmp_path / "out.h5").config == config


def test_tensors_of_other_types_are_refused_by_name(case, tmp_path):
    _, tensors, settings = case
    tensors["shared.weight"] = tensors["shared.weight"].astype(np.float64)
    folder = written(tmp_path / "wide", tensors, settings)

    with pytest.raises(WeightsError, match=r"shared.weight in .* is F64, expected F32, F16 or BF16"):
        switchnp.convert(folder, tmp_path / "out.h5")


def test_the_index_decides_where_a_tensor_is_in_two_shards(case, tmp_path):
    folder, tensors, _ = case
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    save_file({"encoder.final_layer_norm.weight": np.full(32, 7, np.float32)}, folder / "two.safetensors")
    index = dict.fromkeys(tensors, "one.safetensors") | {"encoder.final_layer_norm.weight": "two.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))

    switchnp.convert(folder, tmp_path / "out.h5")

    assert (switchnp.load(tmp_path / "out.h5").params.encoder.norm_d == 7).all()


@pytest.mark.parametrize("path", ["x" * 300, "nul\0", "", 5])
def test_a_target_that_cannot_be_is_refused(case, path):
    with pytest.raises(FileError):
        switchnp.convert(case[0], path)
