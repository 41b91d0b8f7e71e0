"""What transformers 5.23.0 generates and what its processors make of scores, on every engine.

Ids are identical; scores are within 1e-5 of their size, processed scores within 1e-5.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
from references import HUGGINGFACE, TESTS, converted, huggingface_case, inputs, reference

from switchnp import GenerationConfig, generation
from switchnp.generation import Task, processors
from switchnp.layers import EVALUATION
from switchnp.speech import Speech

FOLDER = TESTS / "parity/generation"
ENGINES = ["equations", "kernels", "fast"]
CASES = ["p02_overflow", "p03_allsparse_untied"]
SETTINGS = json.loads((FOLDER / "processors.json").read_text())["settings"]
RECORDED = dict(np.load(FOLDER / "processors.npz"))


def flat(answers):
    """Answers of all prompts in one list."""
    return [each for answer in answers for each in (answer if isinstance(answer, list) else [answer])]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", HUGGINGFACE)
def test_every_option_says_the_ids_and_scores_of_the_reference(name, engine):
    arrays, meta = reference(name)
    model, given = converted(huggingface_case(name), engine=engine), inputs(arrays)
    prompts = given["input_ids"], given["attention_mask"], meta["max_new_tokens"]

    for option, settings in meta["generation_options"].items():
        ids = model.generate(*prompts, **settings)

        np.testing.assert_array_equal(ids, arrays[f"gen/{option}/ids"], err_msg=option)
        if f"gen/{option}/sequences_scores" in arrays:
            scores = [answer.score for answer in flat(model.generate(*prompts, return_scores=True, **settings))]
            np.testing.assert_allclose(scores, arrays[f"gen/{option}/sequences_scores"], rtol=1e-5, err_msg=option)


def recorded(case):
    """The options that fit here: of several ends a Task's, of prefixes each prompt's own."""
    options = json.loads((FOLDER / f"{case}.json").read_text())["options"]
    theirs = ("pad_token_id", "max_length", "min_length", "note")
    return {name: options[name] for name in options if not any(key in options[name] for key in theirs)}


def without_ends(words, ends):
    """Bad words as the reference takes them: it passes over an end that stands alone, where we refuse it."""
    return tuple(tuple(word) for word in words if not (len(word) == 1 and word[0] in ends))


def searched(model, prompts, mask, options):
    """What our search finds for each prompt alone, with ends and prefixes that `generate` has no argument for."""
    settings = {name: value for name, value in options.items() if name in GenerationConfig.__dataclass_fields__}
    config = GenerationConfig(max_new_tokens=14, **settings)
    end = options.get("eos_token_id", 1)
    ends = (end,) if isinstance(end, int) else tuple(end)
    bad_words = without_ends(options.get("bad_words_ids", ()), ends)
    found = []
    for b in range(len(prompts)):
        start = options.get("decoder_input_ids", [[0]] * len(prompts))[b]
        start_t = np.array(start if start[0] == 0 else [0, *start])
        task = Task(config, start_t, ends, bad_words)
        row = model._edge.batch("input_ids", prompts[b], mask[b]).row
        found += [
            (start_t, each) for each in generation.search(model._voices(row, options.get("use_cache", True), EVALUATION), task)
        ]
    return found


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", CASES)
def test_bans_prefixes_and_several_ends_are_those_of_the_reference(case, engine):
    arrays, theirs = inputs(reference(case)[0]), dict(np.load(FOLDER / f"{case}.npz"))
    model = converted(huggingface_case(case), engine=engine)
    compared = 0

    for option, settings in recorded(case).items():
        found = searched(model, arrays["input_ids"], arrays["attention_mask"], settings)

        for (start_t, answer), ids_t in zip(found, theirs[f"{option}/ids"], strict=True):
            ours = [*start_t, *answer.ids]
            assert ours == ids_t[: len(ours)].tolist(), option
            assert len(set(ids_t[len(ours) :].tolist())) <= 1, option
        if f"{option}/sequences_scores" in theirs:
            scores = [answer.score for _, answer in found]
            np.testing.assert_allclose(scores, theirs[f"{option}/sequences_scores"], rtol=1e-5, err_msg=option)
        compared += 1

    assert compared > 30


def test_behind_the_end_of_beams_stands_the_end_where_the_pad_is_0():
    model = converted(huggingface_case("p02_overflow"))
    found = [generation.Answer((7, 1), (0.0, 0.0), 0.0), generation.Answer((7, 8, 9), (0.0,) * 3, 0.0)]

    greedy, beams = (Speech(GenerationConfig(num_beams=n), None, model.config).padded(found) for n in (1, 2))
    other = Speech(GenerationConfig(num_beams=2), None, replace(model.config, pad_token_id=3)).padded(found)

    assert greedy.tolist() == [[0, 7, 1, 0], [0, 7, 8, 9]]
    assert beams.tolist() == [[0, 7, 1, 1], [0, 7, 8, 9]]
    assert other[0].tolist() == [0, 7, 1, 3]


def processed(key, settings):
    """What our processors make of the same scores."""
    ids = RECORDED["ids"]
    scores = RECORDED["ties"] if key.startswith("ties/") else RECORDED["logits"]
    name, value = next(iter(settings.items()))
    functions = {
        "repetition_penalty": lambda: processors.penalise_repetition(ids, scores, value),
        "no_repeat_ngram_size": lambda: processors.ban_repeated_ngrams(ids, scores, value),
        "bad_words_ids": lambda: processors.ban_words(ids, scores, without_ends(value, (1,))),
        "temperature": lambda: processors.temper(scores, value),
        "top_k": lambda: processors.keep_top_k(scores, value),
        "top_p": lambda: processors.keep_top_p(scores, value),
        "min_p": lambda: processors.keep_min_p(scores, value),
        "typical_p": lambda: processors.keep_typical(scores, value),
    }
    return functions[name]()


ALONE = {
    key: {name: value for name, value in settings.items() if name not in ("note", "eos_token_id")}
    for key, settings in SETTINGS.items()
    if not key.startswith(("pipeline", "min_new_tokens")) and "keep" not in key
}


@pytest.mark.parametrize("key", ALONE)
def test_a_processor_makes_of_scores_what_the_references_does(key):
    scores = processed(key, ALONE[key])

    assert scores.dtype == np.float32
    if key.startswith("ties/top_p"):  # which of equals is kept depends on the processor of the machine there
        scores, expected = np.sort(scores, axis=1), np.sort(RECORDED[key], axis=1)
    else:
        expected = RECORDED[key]
    np.testing.assert_allclose(scores, expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("key", [key for key in SETTINGS if key.startswith("pipeline") and key.endswith("num_beams_1")])
def test_processors_together_run_in_the_references_order(key):
    settings = {name: value for name, value in SETTINGS[key].items() if name in GenerationConfig.__dataclass_fields__}
    bad_words = tuple(map(tuple, SETTINGS[key].get("bad_words_ids", ())))
    prompt = SETTINGS[key].get("prompt_length", SETTINGS[key].get("decoder_prompt_len", 1))
    task = Task(GenerationConfig(**settings | {"do_sample": True}), np.zeros(prompt, int), (1,), bad_words)

    scores = task.narrowed(task.processed(RECORDED["ids"], RECORDED["logits"]))

    np.testing.assert_allclose(scores, RECORDED[key], rtol=1e-5, atol=1e-5)
