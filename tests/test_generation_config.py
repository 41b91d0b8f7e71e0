"""The arguments of generate: their ranges, what contradicts what, what they are called, and where a model keeps its own."""

import shutil
import warnings

import numpy as np
import pytest
from references import huggingface_case
from small import small_model

import switchnp
from switchnp import GenerationConfig
from switchnp import weights as weights_file
from switchnp.errors import ConfigError, InputError, WeightsError

WRONG = {
    "max_new_tokens": (0, -1, 2.5, True, "3"),
    "min_new_tokens": (-1, 65),
    "num_beams": (0, 1001, 2.0),
    "length_penalty": ("long", float("nan"), 11.0, -10.5),
    "early_stopping": ("always", 1, None),
    "num_return_sequences": (0, 2),
    "temperature": (0, -1.0, 1e-40, 1e7),
    "top_k": (-1, 2.5),
    "top_p": (0, 1.5),
    "min_p": (-0.1, 1.1),
    "typical_p": (0, 1.1),
    "repetition_penalty": (0, -2.0, 1e-40, 1e4),
    "no_repeat_ngram_size": (-1,),
    "bad_words": ("damn", ("",), ((),), (1.5,)),
    "prefix": (3, ((1, 2),)),
    "stop": ("end", ("",), (3,)),
    "seed": (-1, 1.5),
    "do_sample": (1, "yes"),
}
CONTRADICTIONS = [
    ({"temperature": 0.7}, "temperature is 0.7, which needs do_sample=True"),
    ({"top_k": 5}, "top_k is 5, which needs do_sample=True"),
    ({"top_p": 0.9}, "top_p is 0.9, which needs do_sample=True"),
    ({"min_p": 0.1}, "min_p is 0.1, which needs do_sample=True"),
    ({"typical_p": 0.5}, "typical_p is 0.5, which needs do_sample=True"),
    ({"length_penalty": 2.0}, "length_penalty is 2.0, which needs num_beams above 1"),
    ({"early_stopping": True}, "early_stopping is True, which needs num_beams above 1"),
    ({"stop": ("x",), "num_beams": 2}, "stop is ('x',), which needs num_beams=1"),
    ({"do_sample": True, "num_beams": 2}, "do_sample is True, which needs num_beams=1"),
    ({"min_new_tokens": 9, "max_new_tokens": 8}, "min_new_tokens is 9, expected at most max_new_tokens, 8"),
    ({"num_return_sequences": 3, "num_beams": 2}, "num_return_sequences is 3, expected at most num_beams, 2, or do_sample=True"),
]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_value_is_refused_by_its_name_in_one_sentence(name, value):
    with pytest.raises(ConfigError) as refusal:
        GenerationConfig(**{"do_sample": True} | {name: value} if name in ("temperature", "top_k", "top_p") else {name: value})

    assert name in str(refusal.value)
    assert "expected" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_every_argument_has_a_wrong_value_here():
    assert set(WRONG) == set(GenerationConfig.__dataclass_fields__)


@pytest.mark.parametrize(("settings", "message"), CONTRADICTIONS)
def test_what_would_be_ignored_is_refused(settings, message):
    with pytest.raises(ConfigError) as refusal:
        GenerationConfig(**settings)

    assert str(refusal.value) == message


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("max_length", "max_new_tokens"),
        ("num_beam", "num_beams"),
        ("temprature", "temperature"),
        ("stop_strings", "stop"),
        ("bad_words_ids", "bad_words"),
        ("decoder_input_ids", "prefix"),
        ("streamer", "stream"),
    ],
)
def test_an_unknown_argument_is_answered_with_the_nearest_right_one(name, meant):
    with pytest.raises(InputError, match=f"generate has no argument '{name}', did you mean {meant}\\?"):
        small_model().generate([[5]], **{name: 3})


def test_an_argument_like_none_is_answered_with_all():
    with pytest.raises(InputError, match="expected one of max_new_tokens, min_new_tokens, "):
        small_model().generate([[5]], zzz=3)


def test_lists_and_numpys_numbers_are_as_good_as_pythons():
    config = GenerationConfig().changed({"bad_words": [[1, 2], [3]], "stop": ["x"], "num_beams": np.int64(1)})

    assert (config.bad_words, config.stop, config.num_beams) == (((1, 2), (3,)), ("x",), 1)
    assert GenerationConfig.from_json(config.to_json()) == config


def test_a_model_keeps_its_own_settings_in_its_file(tmp_path):
    own = GenerationConfig(max_new_tokens=3, num_beams=2, bad_words=((7,), (8, 9)))
    model = small_model()
    model.generation = own
    model.save(tmp_path / "own.h5")

    loaded = switchnp.load(tmp_path / "own.h5")

    assert loaded.generation == own
    assert loaded.generate([[5, 6]]).shape[1] <= 4
    assert loaded.generate([[5, 6]], max_new_tokens=1).shape == (1, 2)


def test_a_file_without_settings_of_its_own_is_as_it_was(tmp_path):
    model = small_model()
    model.save(tmp_path / "a.h5")
    with_default = small_model()
    with_default.generation = GenerationConfig()
    with_default.save(tmp_path / "b.h5")

    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    assert weights_file.read_header(tmp_path / "a.h5")[0].generation == GenerationConfig()


def test_a_file_with_impossible_settings_is_refused(tmp_path):
    import h5py

    model = small_model()
    model.generation = GenerationConfig(max_new_tokens=3)
    model.save(tmp_path / "own.h5")
    with h5py.File(tmp_path / "own.h5", "r+") as file:
        text = file.attrs["generation"].decode().replace('"max_new_tokens": 3', '"max_new_tokens": 0')
        del file.attrs["generation"]
        file.attrs["generation"] = np.bytes_(text)

    with pytest.raises(WeightsError, match=r"the generation of .* is impossible: max_new_tokens is 0"):
        switchnp.load(tmp_path / "own.h5")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"eos_token_id": 1, "transformers_version": "5.23.0", "top_k": 50, "temperature": 1.0}, {}),
        (
            {"max_new_tokens": 20, "num_beams": 4, "length_penalty": 0.6},
            {"max_new_tokens": 20, "num_beams": 4, "length_penalty": 0.6},
        ),
        ({"length_penalty": 0.6, "top_p": 0.9, "early_stopping": None}, {}),
        ({"do_sample": True, "top_p": 0.9}, {"do_sample": True, "top_p": 0.9, "top_k": 50}),
        ({"do_sample": True, "top_k": 7}, {"do_sample": True, "top_k": 7}),
        ({"bad_words_ids": [[3], [4, 5]]}, {"bad_words": ((3,), (4, 5))}),
    ],
)
def test_a_folders_generation_config_means_what_it_means_to_transformers(settings, expected):
    assert GenerationConfig.from_huggingface(settings) == GenerationConfig(**expected)


def test_a_generation_config_that_is_none_is_refused():
    with pytest.raises(ConfigError, match=r"a generation_config\.json is a list, expected names and values"):
        GenerationConfig.from_huggingface([1])


@pytest.mark.parametrize(
    ("text", "kept"), [('{"num_beams": 3}', 3), ('{"num_beams": 0}', 1), ('{"num_beams": 2, "do_sample": true}', 1)]
)
def test_a_folder_is_converted_with_its_generation_config(tmp_path, text, kept):
    folder = tmp_path / "folder"
    shutil.copytree(huggingface_case("p02_overflow"), folder)
    (folder / "generation_config.json").write_text(text)

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        switchnp.convert(folder, tmp_path / "m.h5")

    assert switchnp.load(tmp_path / "m.h5").generation.num_beams == kept
    passed_over = [str(warning.message) for warning in said if "generation_config.json is passed over" in str(warning.message)]
    assert len(passed_over) == (kept == 1)
