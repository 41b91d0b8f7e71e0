"""Answers: greedy, sampled, by beams; with the key/value cache and without; streamed, stopped and scored."""

import numpy as np
import pytest
from draw import seeds
from hypothesis import given, settings
from references import ROOT
from small import small_model

import switchnp
from switchnp import GenerationConfig, Routing, equations
from switchnp.errors import InputError, SwitchError, TokenizerError
from switchnp.generation import Task


@pytest.fixture(scope="module")
def numbers():
    return switchnp.load(ROOT / "weights/switch-numbers.h5")


@settings(max_examples=15)
@given(seed=seeds)
def test_cached_and_uncached_agree_where_nothing_is_dropped(seed):
    ids = np.random.default_rng(seed).integers(2, 40, (2, 5))
    model = small_model(Routing.huggingface(), seed=seed % 100)

    cached = model.generate(ids, max_new_tokens=6)
    uncached = model.generate(ids, max_new_tokens=6, use_cache=False)

    np.testing.assert_array_equal(cached, uncached)


@settings(max_examples=15)
@given(seed=seeds)
def test_a_cached_step_has_the_logits_of_the_full_decoder(seed):
    ids = np.random.default_rng(seed).integers(2, 40, (1, 5))
    model = small_model(Routing.huggingface(), seed=seed % 100)

    answer = model.generate(ids, max_new_tokens=6)
    logits = model(ids, decoder_input_ids=answer[:, :-1]).logits

    np.testing.assert_array_equal(logits.argmax(axis=-1), answer[:, 1:])


def test_a_capacity_of_one_drops_words_only_without_the_cache():
    answers = []
    for seed in range(20):
        model = small_model(Routing.huggingface(), seed=seed, expert_capacity=1)
        cached, uncached = (model.generate([[5, 6, 7]], max_new_tokens=8, use_cache=use) for use in (True, False))
        answers.append(cached.shape == uncached.shape and (cached == uncached).all())

    assert not all(answers)


def test_answers_begin_with_the_start_id_and_are_padded_after_the_end():
    model = small_model(Routing.huggingface())
    model.params.embedding_vd[1] *= 3
    ids = np.random.default_rng(1).integers(2, 40, (12, 4))

    answers = model.generate(ids, max_new_tokens=9)

    assert (answers[:, 0] == 0).all()
    assert answers.shape[1] <= 10
    ended = [answer.tolist().index(1) for answer in answers if 1 in answer]
    assert ended
    for answer in answers:
        if 1 in answer:
            assert (answer[answer.tolist().index(1) + 1 :] == 0).all()


def test_a_batch_answers_as_its_sentences_alone():
    model = small_model(Routing.huggingface())
    ids = np.random.default_rng(2).integers(2, 40, (4, 6))

    together = model.generate(ids, max_new_tokens=7)

    for b in range(4):
        alone = model.generate(ids[b], max_new_tokens=7)[0]
        np.testing.assert_array_equal(together[b, : len(alone)], alone)


@pytest.mark.parametrize("use_cache", [True, False])
def test_no_answer_is_longer_than_asked(use_cache):
    answer = small_model().generate([[5, 6]], max_new_tokens=1, use_cache=use_cache)

    assert answer.shape == (1, 2)


def test_the_configs_own_special_ids_start_end_and_pad_an_answer():
    model = small_model(Routing.huggingface(), pad_token_id=3, eos_token_id=5, decoder_start_token_id=2)
    model.params.embedding_vd[5] *= 3

    answers = model.generate(np.random.default_rng(1).integers(6, 40, (12, 4)), max_new_tokens=9)

    assert (answers[:, 0] == 2).all()
    ends = [answer.tolist().index(5) for answer in answers if 5 in answer]
    assert ends
    for answer in answers:
        if 5 in answer:
            assert (answer[answer.tolist().index(5) + 1 :] == 3).all()


def test_the_memory_is_looked_up_once_not_at_every_word(monkeypatch):
    model = small_model(Routing.huggingface(), engine="equations")
    projected = []
    split_heads = equations.split_heads
    monkeypatch.setattr(equations, "split_heads", lambda x_td, w: projected.append(len(x_td)) or split_heads(x_td, w))

    model.generate([[5, 6, 7, 8, 9, 10, 11]], max_new_tokens=4)

    assert projected.count(7) == 2 * 3 + 2 * 2  # encoder q, k, v in two layers; cross k, v in two blocks


# ---- every argument does something, and what it says ----


def lively(**changes):
    """A model whose answers end here and there, and whose next word is never certain."""
    model = small_model(Routing.huggingface(), **changes)
    model.params.embedding_vd[:] *= 0.5
    model.params.embedding_vd[1] *= 2
    return model


PROMPTS = np.random.default_rng(5).integers(2, 40, (6, 5))
SAMPLED = {"do_sample": True, "max_new_tokens": 8}


@pytest.mark.parametrize(
    ("basis", "changes"),
    [
        ({}, {"max_new_tokens": 2}),
        ({}, {"min_new_tokens": 9}),
        ({}, {"num_beams": 3}),
        ({"num_beams": 3}, {"length_penalty": -3.0}),
        ({"num_beams": 3, "length_penalty": 2.0}, {"early_stopping": True}),
        ({"num_beams": 3, "length_penalty": 3.0}, {"early_stopping": "never"}),
        ({"num_beams": 3}, {"num_return_sequences": 2}),
        ({}, {"do_sample": True}),
        (SAMPLED, {"temperature": 3.0}),
        (SAMPLED, {"top_k": 1}),
        (SAMPLED, {"top_p": 0.2}),
        (SAMPLED, {"min_p": 0.9}),
        (SAMPLED, {"typical_p": 0.2}),
        (SAMPLED, {"seed": 1}),
        ({}, {"repetition_penalty": 3.0}),
        ({}, {"no_repeat_ngram_size": 1}),
        ({}, {"bad_words": [[30], [17], [8]]}),
        ({}, {"prefix": [7, 8]}),
    ],
    ids=str,
)
def test_an_argument_changes_the_answers(basis, changes):
    models = [lively(seed=seed) for seed in range(4)]
    basis = {"max_new_tokens": 12} | basis

    plain, changed = (
        [model.generate(PROMPTS, **arguments).tolist() for model in models] for arguments in (basis, basis | changes)
    )

    assert plain != changed


def test_a_stop_text_ends_the_answer_that_reaches_it(numbers):
    whole = numbers.generate("say in French: 1984")

    stopped = numbers.generate("say in French: 1984", stop=["cent"])
    letter = numbers.generate("say in French: 1984", stop=["q"])
    elsewhere = numbers.generate("say in French: 1984", stop=["zzz"])
    begun = numbers.generate("say in French: 1984", prefix="mille", stop=["mille"])

    assert (whole, elsewhere) == ("mille neuf cent quatre-vingt-quatre",) * 2
    assert stopped == "mille neuf cent"
    assert letter.startswith("mille neuf cent q")
    assert len(letter) < len(whole)
    assert begun == whole


def test_a_stop_text_that_spans_two_words_is_seen(numbers):
    assert numbers.generate("say in French: 1984", stop=["f ce"]) == "mille neuf cent"[: len("mille neuf c")] + "e"


def test_every_answer_begins_with_the_prefix(numbers):
    ids = lively().generate(PROMPTS, prefix=[7, 8, 9], max_new_tokens=2)
    text = numbers.generate("say in French: 1984", prefix="deux mille")

    assert (ids[:, :4] == [0, 7, 8, 9]).all()
    assert ids.shape[1] == 6
    assert text.startswith("deux mille")


def test_words_that_are_banned_are_not_said(numbers):
    ids = lively().generate(PROMPTS, bad_words=[[v] for v in range(10, 40)], max_new_tokens=6)
    answer = numbers.generate("say in French: 1984", bad_words=["neuf", "quatre"], return_scores=True)

    assert ids.max() < 10
    said = numbers.tokenizer.pieces(answer.ids)
    assert not {"▁neuf", "▁quatre"} & set(said)


def test_a_ban_of_every_word_is_a_clear_error():
    with pytest.raises(InputError, match="every word is banned after 0 words"):
        lively().generate(PROMPTS, bad_words=[[v] for v in range(40) if v != 1], min_new_tokens=1)
    with pytest.raises(InputError, match="bad_words has the end of an answer alone"):
        lively().generate(PROMPTS, bad_words=[[1]])


@pytest.mark.parametrize("name", ["prefix", "bad_words", "stop"])
def test_texts_need_a_tokenizer(name):
    value = "text" if name == "prefix" else ["text"]

    with pytest.raises(TokenizerError, match=f"{name} goes by texts, but this model has no tokenizer"):
        lively().generate(PROMPTS, **{name: value})


def test_ids_beyond_the_vocabulary_are_refused():
    with pytest.raises(InputError, match=r"prefix has the ids \(40,\), expected ids from 0 to 39"):
        lively().generate(PROMPTS, prefix=[40])


# ---- sampling ----


@pytest.mark.parametrize(
    "narrowed", [{}, {"temperature": 2.0}, {"top_k": 4}, {"top_p": 0.7}, {"min_p": 0.1}, {"typical_p": 0.6}], ids=str
)
def test_words_are_drawn_as_often_as_they_are_likely(narrowed):
    """A chi-square of 3000 first words against the exact probabilities; at 30 degrees of freedom 60 is 1 in 1000."""
    model = lively()
    config = GenerationConfig(do_sample=True, num_return_sequences=1000, max_new_tokens=1, **narrowed)
    logits_bv = model([PROMPTS[0]], decoder_input_ids=[[0]]).logits[0, :1]
    scores_v = Task(config, np.array([0]), (1,)).narrowed(logits_bv)[0].astype(np.float64)
    expected_v = np.exp(scores_v - scores_v.max()) / np.exp(scores_v - scores_v.max()).sum()

    drawn = np.concatenate([model.generate([PROMPTS[0]], **settings_of(config, seed))[:, 1] for seed in range(3)])

    counted_v = np.bincount(drawn, minlength=40)
    assert counted_v[expected_v == 0].sum() == 0
    common_v = 3000 * expected_v >= 5
    rest = counted_v[~common_v].sum() - 3000 * expected_v[~common_v].sum()
    chi_square = (np.square(counted_v - 3000 * expected_v)[common_v] / (3000 * expected_v[common_v])).sum()
    assert chi_square < common_v.sum() + 6 * np.sqrt(2 * common_v.sum()) + 1
    assert abs(rest) < 5 * np.sqrt(3000 * expected_v[~common_v].sum()) + 5


def settings_of(config, seed):
    """A config as keyword arguments."""
    return {name: getattr(config, name) for name in config.__dataclass_fields__} | {"seed": seed}


@pytest.mark.parametrize("arguments", [{}, {"do_sample": True, "num_return_sequences": 2}, {"num_beams": 3}], ids=str)
def test_an_answer_does_not_depend_on_what_else_is_in_the_batch(arguments):
    model = lively()
    lists = [PROMPTS[0].tolist(), PROMPTS[1].tolist()[:2], PROMPTS[2].tolist(), PROMPTS[3].tolist()[:4]]
    arguments = arguments | {"max_new_tokens": 10, "return_scores": True}

    together = model.generate(lists, **arguments)
    backwards = model.generate(lists[::-1], **arguments)[::-1]
    alone = [model.generate([each], **arguments)[0] for each in lists]

    for one, two, three in zip(flat(together), flat(backwards), flat(alone), strict=True):
        assert one.ids == two.ids == three.ids
        assert one.score == pytest.approx(three.score, abs=1e-4)


def flat(answers):
    """Answers of all prompts in one list."""
    return [each for answer in answers for each in (answer if isinstance(answer, list) else [answer])]


def test_a_seed_repeats_itself_and_several_samples_differ():
    model = lively()
    arguments = {"do_sample": True, "num_return_sequences": 3, "max_new_tokens": 8, "return_scores": True}

    first, again, other = (model.generate(PROMPTS[:1], seed=seed, **arguments)[0] for seed in (3, 3, 4))

    assert [each.ids for each in first] == [each.ids for each in again] != [each.ids for each in other]
    assert len({each.ids for each in first}) == 3


def test_all_engines_give_a_word_the_same_probability():
    models = [lively(engine=engine) for engine in ("kernels", "equations", "fast")]
    answer = models[0].generate([PROMPTS[0]], do_sample=True, max_new_tokens=6, return_scores=True)[0]

    told = [model.score([PROMPTS[0]], [list(answer.ids)])[0] for model in models]

    np.testing.assert_allclose(told[0].logprobs, told[1].logprobs, atol=1e-5)
    np.testing.assert_allclose(told[2].logprobs, told[1].logprobs, atol=1e-5)
    np.testing.assert_allclose(told[0].logprobs, answer.logprobs, atol=1e-5)


# ---- beams ----


def test_enough_beams_find_the_likeliest_answer_of_all():
    model = lively(vocab_size=6)

    beams = model.generate(
        [[3, 4, 5]], num_beams=36, num_return_sequences=5, length_penalty=0.0, max_new_tokens=2, return_scores=True
    )[0]

    logits = {(): model([3, 4, 5], decoder_input_ids=[0]).logits[0, -1]}
    logits |= {(v,): model([3, 4, 5], decoder_input_ids=[0, v]).logits[0, -1] for v in range(6)}
    logprob = {said: logits_v - np.log(np.exp(logits_v).sum()) for said, logits_v in logits.items()}
    every = {(1,): logprob[()][1]} | {(v, w): logprob[()][v] + logprob[(v,)][w] for v in range(6) if v != 1 for w in range(6)}
    best = sorted(every, key=lambda said: -every[said])[:5]
    assert [answer.ids for answer in beams] == best
    np.testing.assert_allclose([answer.score for answer in beams], [every[said] for said in best], atol=1e-5)


def test_a_beams_score_is_its_log_probability_over_its_length():
    for answer in flat(lively().generate(PROMPTS, num_beams=3, length_penalty=0.7, max_new_tokens=9, return_scores=True)):
        assert answer.score == pytest.approx(sum(answer.logprobs) / len(answer.ids) ** 0.7, rel=1e-4)


def test_answers_come_in_the_shape_that_was_asked_for(numbers):
    arguments = {"num_beams": 2, "num_return_sequences": 2, "max_new_tokens": 5}

    assert lively().generate(PROMPTS, **arguments).shape[0] == 12
    assert [len(each) for each in numbers.generate(["say in French: 1", "say in French: 2"], **arguments)] == [2, 2]
    one = numbers.generate("say in French: 1", **arguments)
    assert [type(text) for text in one] == [str, str]
    scored = numbers.generate("say in German: 84", return_scores=True)
    assert (scored.text, scored.ids[-1]) == ("vierundachtzig", 1)
    assert scored.score == pytest.approx(sum(scored.logprobs))


# ---- what has ended, what is streamed, what is told ----


def test_what_has_ended_costs_nothing_more(monkeypatch):
    model = lively(engine="equations")
    answers = model.generate(PROMPTS, max_new_tokens=12, return_scores=True)
    lengths = [len(answer.ids) for answer in answers]
    asked, unembed = [], equations.unembed
    monkeypatch.setattr(equations, "unembed", lambda x_td, table: asked.append(len(x_td)) or unembed(x_td, table))

    model.generate(PROMPTS, max_new_tokens=12)

    assert min(lengths) < max(lengths)
    assert asked == [sum(length > t for length in lengths) for t in range(max(lengths))]


def test_pieces_that_are_streamed_make_the_answer(numbers):
    said, several = [], []

    answer = numbers.generate("say in French: 1984", stream=said.append)
    texts = ["say in German: 84", "say in Italian: 365"]
    answers = numbers.generate(texts, stream=lambda number, piece: several.append((number, piece)))

    assert len(said) > 3
    assert "".join(said) == answer
    for number in range(2):
        assert "".join(piece for n, piece in several if n == number) == answers[number]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stream": 3}, "stream is 3, expected something to call"),
        ({"stream": print, "num_beams": 2}, "stream is given with num_beams above 1"),
    ],
)
def test_what_cannot_be_streamed_is_refused(numbers, arguments, message):
    with pytest.raises(InputError, match=message):
        numbers.generate("say in French: 1", **arguments)


def test_an_interrupted_answer_leaves_what_was_streamed(numbers):
    said = []

    def listen(piece):
        said.append(piece)
        if len(said) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        numbers.generate("say in French: 1984", stream=listen)
    assert "mille neuf cent quatre-vingt-quatre".startswith("".join(said))
    assert numbers.generate("say in German: 84") == "vierundachtzig"


@pytest.mark.parametrize("arguments", [{}, {"do_sample": True, "seed": 2}, {"num_beams": 3, "length_penalty": 0.0}], ids=str)
def test_a_score_is_what_generate_would_have_said_of_the_same_words(arguments):
    model = lively()

    said = model.generate(PROMPTS, max_new_tokens=9, return_scores=True, **arguments)
    told = model.score(PROMPTS, [list(answer.ids) for answer in said])

    for one, two in zip(said, told, strict=True):
        assert one.ids == two.ids
        np.testing.assert_allclose(one.logprobs, two.logprobs, atol=1e-5)
        assert two.score == pytest.approx(sum(one.logprobs), abs=1e-4)


def test_a_score_of_text_counts_the_end(numbers):
    right, wrong = (numbers.score("say in German: 84", answer) for answer in ("vierundachtzig", "vierundachtzehn"))

    assert right.score > -0.1 > -2 > wrong.score
    assert right.ids[-1] == 1
    assert right.text == "vierundachtzig"
    with pytest.raises(InputError, match="there are 2 answers, expected 1 like prompts"):
        numbers.score("say in German: 84", ["a", "b"])


def test_long_prompts_and_long_answers_go_beyond_every_bucket():
    model = lively()
    prompt = np.random.default_rng(0).integers(2, 40, (1, 700))

    cached = model.generate(prompt, max_new_tokens=150, min_new_tokens=150)
    logits = model(prompt, decoder_input_ids=cached[:, :-1]).logits

    assert cached.shape == (1, 151)
    masked = logits.copy()
    masked[:, :-1, 1] = -np.inf
    assert (masked.argmax(axis=-1)[:, :-1] == cached[:, 1:-1]).all()


@pytest.mark.parametrize("length_penalty", [-10.0, -4.0, 10.0])
@pytest.mark.parametrize("early_stopping", [True, False, "never"])
def test_every_prompt_gets_its_own_answers_whatever_their_length_is_worth(length_penalty, early_stopping):
    arguments = {"length_penalty": length_penalty, "early_stopping": early_stopping, "num_beams": 2, "num_return_sequences": 2}
    prompts = [[i, i + 1] for i in range(2, 10)]

    answers = lively().generate(prompts, max_new_tokens=40, return_scores=True, **arguments)

    assert [len(each) for each in answers] == [2] * 8
    alone = lively().generate([prompts[3]], max_new_tokens=40, return_scores=True, **arguments)[0]
    assert [each.ids for each in alone] == [each.ids for each in answers[3]]


@pytest.mark.parametrize("words", [" ", ""])
def test_bad_words_without_words_are_refused(numbers, words):
    with pytest.raises(SwitchError, match="bad_words"):
        numbers.generate("say in German: 84", bad_words=[words])


@pytest.mark.parametrize("temperature", [1e-6, 1e6])
def test_the_coldest_and_the_hottest_words_are_still_words(temperature):
    model = lively()

    ids = model.generate(PROMPTS, do_sample=True, temperature=temperature, max_new_tokens=6)

    assert ids.max() < 40
    if temperature < 1:
        np.testing.assert_array_equal(ids, model.generate(PROMPTS, max_new_tokens=6))


@pytest.mark.parametrize("name", ["use_cache", "return_scores"])
def test_a_switch_is_on_or_off(name):
    with pytest.raises(InputError, match=f"{name} is 'no', expected True or False"):
        lively().generate(PROMPTS, **{name: "no"})


def test_a_models_settings_are_a_generation_config():
    model = lively()

    with pytest.raises(InputError, match=r"generation is 'beams', expected a switchnp\.GenerationConfig"):
        switchnp.SwitchTransformer(model.config, model.params, generation="beams")


def test_what_a_routing_draws_is_drawn_for_scores_and_gaps_too():
    model = small_model(Routing(eval_policy="sample"))

    with pytest.raises(InputError, match="expected rng="):
        model.score([[5, 6]], [[7, 1]])
    assert np.isfinite(model.score([[5, 6]], [[7, 1]], rng=np.random.default_rng(0))[0].score)
