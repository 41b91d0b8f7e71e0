"""The padded edge: what may go in, what comes out, and what is refused in one sentence."""

import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from draw import seeds
from hypothesis import given
from hypothesis import strategies as st
from references import ROOT
from small import small_config, small_model, small_params

import switchnp
from switchnp import Routing, SwitchError, layers
from switchnp.errors import InputError, ShapeError, TokenizerError
from switchnp.routing import PRESETS as NAMED

IDS = [[5, 6, 7, 1], [8, 9, 1, 0]]
SAID = [[0, 11, 12], [0, 13, 14]]
PRESETS = [make() for name, make in NAMED.items() if name != "huggingface"]


@pytest.fixture(scope="module")
def numbers():
    return switchnp.load(ROOT / "weights/switch-numbers.h5")


@pytest.mark.parametrize("routing", PRESETS, ids=lambda routing: routing.name)
def test_all_engines_give_the_same_answer(routing):
    mask = [[1, 1, 1, 1], [1, 1, 1, 0]]
    expected, *outs = [small_model(routing, engine)(IDS, mask, labels=SAID) for engine in ("equations", "kernels", "fast")]

    for out in outs:
        for name in ("logits", "encoder_last_hidden_state", "decoder_last_hidden_state"):
            np.testing.assert_allclose(getattr(out, name), getattr(expected, name), atol=1e-5)
        assert out.loss == pytest.approx(expected.loss, abs=1e-6)


@pytest.mark.parametrize("act", ["relu", "gelu", "gelu_new", "silu"])
@pytest.mark.parametrize("changes", [{}, {"is_gated_act": True}, {"tie_word_embeddings": False, "separate_embeddings": True}])
def test_all_engines_agree_for_every_kind_of_model(act, changes):
    engines = "kernels", "equations", "fast"
    models = [small_model(engine=engine, dense_act_fn=act, router_bias=True, **changes) for engine in engines]

    outs = [model(IDS, decoder_input_ids=SAID) for model in models]
    traces = [model.trace(IDS, decoder_input_ids=SAID) for model in models[:2]]

    np.testing.assert_allclose(outs[0].logits, outs[1].logits, atol=2e-5)
    np.testing.assert_allclose(outs[2].logits, outs[1].logits, atol=2e-5)
    for (path, one), (same_path, other) in zip(traces[0].leaves(), traces[1].leaves(), strict=True):
        assert path == same_path
        np.testing.assert_allclose(one, other, atol=2e-5, err_msg=path)


def test_the_trace_is_the_forward_pass():
    model = small_model()
    out, trace = model(IDS, decoder_input_ids=SAID), model.trace(IDS, decoder_input_ids=SAID)

    np.testing.assert_allclose(trace.decoder.logits_tv.reshape(2, 3, -1), out.logits, atol=1e-6)
    np.testing.assert_allclose(trace.encoder.memory_td.reshape(2, 4, -1), out.encoder_last_hidden_state, atol=1e-6)


def test_a_trace_names_the_arrays_of_a_switch_layer_with_their_axes():
    model = small_model()
    E, D = model.config.num_experts, model.config.d_model

    a = model.trace([5, 6, 7, 8, 1], decoder_input_ids=[0, 2]).encoder.blocks[1].switch

    assert a.p_te.shape == (5, E)
    assert a.expert_t.shape == a.gate_t.shape == a.slot_t.shape == (5,)
    assert a.x_ecd.shape == a.y_ecd.shape == (E, 3, D)
    for t in range(5):
        np.testing.assert_array_equal(a.x_ecd[a.expert_t[t], a.slot_t[t]], a.n_td[t])


def test_one_row_is_a_batch_of_one():
    model = small_model()

    alone, batch = model([5, 6, 1], decoder_input_ids=[0, 3]), model([[5, 6, 1]], decoder_input_ids=[[0, 3]])

    assert alone.logits.shape == (1, 2, 40)
    np.testing.assert_array_equal(alone.logits, batch.logits)


@pytest.mark.parametrize("routing", PRESETS, ids=lambda routing: routing.name)
def test_unequal_lists_are_padded_and_masked(routing):
    model = small_model(routing)

    ragged = model([[5, 6, 7, 1], [8, 1]], decoder_input_ids=[[0, 3], [0, 4]])
    by_hand = model([[5, 6, 7, 1], [8, 1, 0, 0]], [[1, 1, 1, 1], [1, 1, 0, 0]], [[0, 3], [0, 4]])

    np.testing.assert_array_equal(ragged.logits, by_hand.logits)


@given(seed=seeds, width=st.integers(1, 7))
def test_a_sentence_does_not_depend_on_its_batch_mates(seed, width):
    rng = np.random.default_rng(seed)
    ids, said = rng.integers(2, 40, (3, width)), rng.integers(2, 40, (3, 3))
    for routing in (routing for routing in PRESETS if routing.group == "sequence"):
        model = small_model(routing, expert_capacity=2)

        together = model(ids, decoder_input_ids=said).logits
        alone = np.concatenate([model(ids[b], decoder_input_ids=said[b]).logits for b in range(3)])

        np.testing.assert_allclose(together, alone, atol=1e-5)


@given(seed=seeds, left=st.integers(0, 3), right=st.integers(0, 3))
def test_under_the_paper_padding_changes_nothing(seed, left, right):
    rng = np.random.default_rng(seed)
    ids, said = rng.integers(2, 40, 5), rng.integers(2, 40, 3)
    model = small_model(Routing.paper())
    padded = np.concatenate([np.zeros(left, int), ids, np.zeros(right, int)])
    mask = np.concatenate([np.zeros(left, int), np.ones(5, int), np.zeros(right, int)])

    bare = model(ids, decoder_input_ids=said, labels=said)
    out = model(padded, mask, said, labels=said)

    np.testing.assert_allclose(out.logits, bare.logits, atol=1e-5)
    assert out.loss == pytest.approx(bare.loss, abs=1e-5)
    assert (out.encoder_last_hidden_state[0, mask == 0] == 0).all()


def test_a_hole_in_the_mask_keeps_the_distances_around_it():
    model = small_model(Routing.paper())

    with_hole = model.encode([5, 9, 7], [1, 0, 1])
    another = model.encode([5, 33, 7], [1, 0, 1])
    without = model.encode([5, 7])

    np.testing.assert_array_equal(with_hole, another)
    assert np.abs(with_hole[0, [0, 2]] - without[0]).max() > 1e-3


@pytest.mark.parametrize("engine", ["kernels", "equations", "fast"])
@pytest.mark.parametrize("routing", PRESETS, ids=lambda routing: routing.name)
def test_a_sentence_that_is_all_padding_gives_numbers(routing, engine):
    model = small_model(routing, engine)

    out = model([[5, 6], [0, 0]], [[1, 1], [0, 0]], [[0, 3], [0, 4]], [[1, 1], [0, 0]], labels=[[3, 1], [4, 1]])
    ids = model.generate([[5, 6], [0, 0]], [[1, 1], [0, 0]], max_new_tokens=3)
    nothing = model([[0, 0]], [[0, 0]], [[0, 3]])

    for array in (out.logits, out.encoder_last_hidden_state, out.decoder_last_hidden_state, nothing.logits):
        assert np.isfinite(array).all()
    assert np.isfinite(out.loss)
    assert len(ids) == 2


def test_labels_are_shifted_right_behind_the_start_id():
    model = small_model()
    labels = [[7, 8, 1], [9, 1, -100]]

    by_labels = model(IDS, labels=labels)
    by_hand = model(IDS, decoder_input_ids=[[0, 7, 8], [0, 9, 1]], labels=labels)

    np.testing.assert_array_equal(by_labels.logits, by_hand.logits)
    assert by_labels.loss == by_hand.loss


def test_ignored_labels_become_padding_in_what_the_decoder_reads():
    model = small_model()

    out = model(IDS, labels=[[7, -100, 1], [9, 1, -100]])
    by_hand = model(IDS, decoder_input_ids=[[0, 7, 0], [0, 9, 1]])

    np.testing.assert_array_equal(out.logits, by_hand.logits)


@pytest.mark.parametrize("routing", PRESETS, ids=lambda routing: routing.name)
def test_the_loss_is_the_cross_entropy_plus_the_weighed_router_losses(routing):
    out = small_model(routing, router_z_loss_coef=0.25, router_aux_loss_coef=0.5)(IDS, labels=SAID)

    balance = 0.5 if routing.balance_coef is None else routing.balance_coef
    z = 0.25 if routing.z_coef is None else routing.z_coef
    share = 0.5 if routing.loss_layers == "mean" else 1.0
    balances, zs = (out.encoder_balance_loss, out.decoder_balance_loss), (out.encoder_z_loss, out.decoder_z_loss)
    logit_z = np.square(np.log(np.exp(out.logits).sum(axis=-1))).mean()
    rest = share * balance * sum(balances) + share * z * sum(zs) + routing.logit_z_coef * logit_z
    assert out.loss == pytest.approx(out.cross_entropy + rest)
    assert min(balances) > 0
    assert min(zs) > 0


def test_under_the_paper_a_stack_of_sparse_layers_sums_their_losses():
    model = small_model(Routing.paper(), sparse_encoder_layers=(0, 1))
    trace = model.trace(IDS, decoder_input_ids=SAID)
    switches = [block.switch for block in trace.encoder.blocks]

    out = model(IDS, decoder_input_ids=SAID)

    expected = sum(switchnp.equations.load_balance(a.p_te, a.expert_t) for a in switches)
    assert out.encoder_balance_loss == pytest.approx(expected, rel=1e-6)
    assert small_model(Routing.huggingface(), sparse_encoder_layers=(0, 1))(IDS, decoder_input_ids=SAID).encoder_balance_loss == 0


def test_without_labels_there_is_no_loss():
    out = small_model()(IDS, decoder_input_ids=SAID)

    assert out.loss is None
    assert out.cross_entropy is None


def test_encode_is_the_encoder_of_the_forward_pass():
    model = small_model()

    np.testing.assert_array_equal(model.encode(IDS), model(IDS, decoder_input_ids=SAID).encoder_last_hidden_state)


def test_text_in_text_out(numbers):
    assert numbers.generate("say in German: 84") == "vierundachtzig"
    assert numbers.generate(["say in German: 84", "say in French: 1984"]) == [
        "vierundachtzig",
        "mille neuf cent quatre-vingt-quatre",
    ]


def test_the_trace_of_a_text_holds_its_greedy_answer(numbers):
    trace = numbers.trace("say in German: 84")

    said = trace.decoder.logits_tv.argmax(axis=-1)
    assert numbers.tokenizer.answer(said) == "vierundachtzig"
    assert trace.decoder.ids_t[0] == 0
    assert trace.encoder.ids_t.tolist() == numbers.tokenizer.encode("say in German: 84")


def test_the_trace_of_two_texts_masks_what_comes_after_an_answer(numbers):
    trace = numbers.trace(["say in German: 84", "say in French: 1984"])

    first = numbers.trace("say in German: 84").decoder
    np.testing.assert_allclose(trace.decoder.logits_tv[: len(first.ids_t)], first.logits_tv, atol=1e-4)


def test_a_saved_model_loads_as_the_same_model(numbers, tmp_path):
    numbers.save(tmp_path / "copy.h5")

    copy = switchnp.load(tmp_path / "copy.h5")

    assert copy.config == numbers.config
    assert copy.routing == numbers.routing
    assert copy.tokenizer.model_bytes == numbers.tokenizer.model_bytes
    for (path, one), (_, other) in zip(copy.params.leaves(), numbers.params.leaves(), strict=True):
        np.testing.assert_array_equal(one, other, err_msg=path)
    with pytest.raises(SwitchError, match="exists"):
        numbers.save(tmp_path / "copy.h5")


def test_the_readme_equation_by_hand_is_the_trace(numbers):
    switch = numbers.trace("say in French: 84").encoder.blocks[1].switch

    p_te = switchnp.equations.router_probs(switch.n_td, numbers.params.encoder.blocks[1].switch.wr_de)

    np.testing.assert_allclose(p_te, switch.p_te, atol=1e-6)


def test_routing_of_the_caller_overrides_the_file(tmp_path):
    model = switchnp.load(ROOT / "weights/switch-numbers.h5", routing=Routing.paper())

    assert model.routing == Routing.paper()
    assert model.generate("say in German: 84") == "vierundachtzig"


REFUSED = {
    "input_ids has the id 40, expected ids from 0 to 39": {"input_ids": [[5, 40]], "decoder_input_ids": [[0]]},
    "input_ids has the id -1, expected ids from 0 to 39": {"input_ids": [[5, -1]], "decoder_input_ids": [[0]]},
    "decoder_input_ids has the id 99": {"input_ids": [[5]], "decoder_input_ids": [[99]]},
    "labels has the id -7": {"input_ids": [[5]], "labels": [[-7]]},
    "input_ids has dtype float64, expected whole numbers": {"input_ids": [[5.0, 6.0]], "decoder_input_ids": [[0]]},
    "input_ids has dtype bool": {"input_ids": [[True]], "decoder_input_ids": [[0]]},
    "input_ids has sentences of 2 axes": {"input_ids": [[[5]]], "decoder_input_ids": [[0]]},
    "input_ids has sentences of 3 axes": {"input_ids": np.zeros((1, 1, 1), int), "decoder_input_ids": [[0]]},
    "input_ids has sentences of 0 axes": {"input_ids": 5, "decoder_input_ids": [[0]]},
    "input_ids has a sentence without tokens": {"input_ids": [], "decoder_input_ids": [[0]]},
    "input_ids has a sentence without tokens, expected at least one": {"input_ids": [[5], []], "decoder_input_ids": [[0], [0]]},
    "input_ids has no sentences": {"input_ids": np.zeros((0, 3), int), "decoder_input_ids": [[0]]},
    "input_ids has dtype <U1": {"input_ids": ["a", "b"], "decoder_input_ids": [[0]]},
    "input_ids has dtype object": {"input_ids": [[None]], "decoder_input_ids": [[0]]},
    "input_ids is no array": {"input_ids": [[1, [2]]], "decoder_input_ids": [[0]]},
    "the mask of input_ids is (1, 3), expected (1, 2)": {
        "input_ids": [[5, 6]],
        "attention_mask": [[1, 1, 1]],
        "decoder_input_ids": [[0]],
    },
    "the mask of input_ids has other values than 0 and 1": {
        "input_ids": [[5, 6]],
        "attention_mask": [[1, 2]],
        "decoder_input_ids": [[0]],
    },
    "the mask of input_ids has dtype float64": {
        "input_ids": [[5, 6]],
        "attention_mask": [[1.0, 0.0]],
        "decoder_input_ids": [[0]],
    },
    "decoder_input_ids has 2 sentences, expected 1": {"input_ids": [[5]], "decoder_input_ids": [[0], [0]]},
    "labels are (1, 2), expected (1, 1)": {"input_ids": [[5]], "decoder_input_ids": [[0]], "labels": [[3, 1]]},
    "labels have no word to predict": {"input_ids": [[5]], "labels": [[-100, -100]]},
    "decoder_input_ids and labels are both missing": {"input_ids": [[5]]},
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_refused_in_one_sentence(message):
    with pytest.raises(InputError) as refusal:
        small_model()(**REFUSED[message])

    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("number", [0, -1, 2.5, True, "3"])
def test_max_new_tokens_is_a_whole_number_of_one_or_more(number):
    with pytest.raises(SwitchError, match="max_new_tokens is"):
        small_model().generate([[5]], max_new_tokens=number)


def test_a_model_without_a_tokenizer_says_so():
    with pytest.raises(TokenizerError, match="no tokenizer"):
        small_model().generate("text")
    with pytest.raises(TokenizerError, match="no tokenizer"):
        small_model().trace("text")


def test_a_mask_beside_text_is_refused(numbers):
    with pytest.raises(InputError, match="attention_mask"):
        numbers.generate("say in German: 84", attention_mask=[[1]])


def test_params_that_do_not_fit_the_config_are_refused_by_name():
    config = small_config()
    params = small_params(config)
    params.encoder.blocks[1].switch.wi_edf = params.encoder.blocks[1].switch.wi_edf.transpose(0, 2, 1)

    with pytest.raises(
        ShapeError, match=r"encoder/blocks/1/switch/wi_edf is \(4, 16, 12\), but this Config makes it \(4, 12, 16\)"
    ):
        switchnp.SwitchTransformer(config, params)


@pytest.mark.parametrize("choice", [{"engine": "torch"}, {"dtype": "float16"}])
def test_load_refuses_unknown_engines_and_dtypes(choice):
    with pytest.raises(InputError, match="expected"):
        switchnp.load(ROOT / "weights/switch-numbers.h5", **choice)


def test_float64_checks_float32(numbers):
    exact = switchnp.load(ROOT / "weights/switch-numbers.h5", dtype="float64")
    given = [[3, 7, 4, 1]], None, [[0, 5]]

    assert exact(*given).logits.dtype == np.float64
    np.testing.assert_allclose(numbers(*given).logits, exact(*given).logits, atol=1e-4)


def test_config_and_routing_survive_json():
    config, routing = small_config(sparse_encoder_layers=()), Routing.huggingface("4.25")

    assert switchnp.Config.from_json(config.to_json()) == config
    assert Routing.from_json(routing.to_json()) == routing
    assert json.loads(config.to_json())["sparse_encoder_layers"] == []


def test_ragged_ids_with_a_mask_are_masked_by_both():
    model = small_model(Routing.paper())

    out = model([[5, 6, 7], [8, 9]], [[1, 0, 1], [1, 1]], [[0, 3], [0, 4]])
    by_hand = model([[5, 6, 7], [8, 9, 33]], [[1, 0, 1], [1, 1, 0]], [[0, 3], [0, 4]])

    np.testing.assert_array_equal(out.logits, by_hand.logits)


@pytest.mark.parametrize("routing", PRESETS, ids=lambda routing: routing.name)
def test_ragged_labels_are_masked_beyond_their_end(routing):
    model = small_model(routing, seed=5)

    together = model([[5, 6, 7], [8, 9, 10]], labels=[[3, 7, 1], [3] * 17])
    alone = model([[5, 6, 7]], labels=[[3, 7, 1]])

    np.testing.assert_allclose(together.logits[0, :3], alone.logits[0], atol=1e-5)


def test_a_long_answer_is_traced_whole():
    model = small_model(Routing.huggingface())
    answer = model.generate([5, 6, 7])

    trace = model.trace([5, 6, 7])

    assert answer.shape[1] > 20
    assert trace.decoder.ids_t.tolist() == answer[0, :-1].tolist()


def test_encoder_and_decoder_read_their_own_tables():
    model = small_model(tie_word_embeddings=False, separate_embeddings=True)

    trace = model.trace([5, 6], decoder_input_ids=[0, 7])

    np.testing.assert_array_equal(trace.encoder.x_td, model.params.encoder.embedding_vd[[5, 6]])
    np.testing.assert_array_equal(trace.decoder.x_td, model.params.decoder.embedding_vd[[0, 7]])


def test_under_the_paper_the_z_losses_of_layers_add_up_too():
    model = small_model(Routing.paper(), sparse_encoder_layers=(0, 1))
    trace = model.trace(IDS, decoder_input_ids=SAID)

    out = model(IDS, decoder_input_ids=SAID)

    expected = sum(switchnp.equations.router_z(block.switch.h_te) for block in trace.encoder.blocks)
    assert out.encoder_z_loss == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("choice", "T", "expected"),
    [
        ({"capacity": None}, 100, 7),
        ({"capacity": None}, 5, 5),
        ({"capacity": 3}, 100, 3),
        ({"capacity": 0}, 100, 0),
        ({"capacity": "ceil", "eval_capacity_factor": 1.0}, 9, 3),
        ({"capacity": "floor", "eval_capacity_factor": 1.0}, 11, 2),
        ({"capacity": "round", "eval_capacity_factor": 1.0}, 11, 3),
        ({"capacity": "ceil", "eval_capacity_factor": 2.0}, 9, 5),
        ({"capacity": "floor", "min_capacity": 4, "eval_capacity_factor": 1.0}, 8, 4),
        ({"capacity": "floor", "min_capacity": 0, "eval_capacity_factor": 1.0}, 3, 0),
    ],
)
def test_every_capacity_rule_gives_its_number_of_slots(choice, T, expected):
    config = small_config(expert_capacity=7)

    assert layers.capacity(switchnp.equations, config, Routing(**choice), T) == expected


@pytest.mark.parametrize("engine", ["kernels", "equations", "fast"])
@pytest.mark.parametrize("routing", PRESETS, ids=lambda routing: routing.name)
def test_no_capacity_at_all_still_gives_numbers(routing, engine):
    nothing = replace(routing, capacity=0, min_capacity=0)
    model = small_model(nothing, engine)

    out, trace = model(IDS, labels=SAID), model.trace(IDS, decoder_input_ids=SAID)

    assert np.isfinite(out.logits).all()
    assert np.isfinite(out.loss)
    assert (trace.encoder.blocks[1].switch.slot_t == -1).all()
    if routing.dropped == "zero":
        assert (trace.encoder.blocks[1].switch.y_td == 0).all()


def test_the_seats_of_several_sentences_lead_to_their_tokens():
    model = small_model(Routing.huggingface(), expert_capacity=2)
    rng = np.random.default_rng(3)

    a = model.trace(rng.integers(2, 40, (3, 6)), decoder_input_ids=[[0]] * 3).encoder.blocks[1].switch

    assert ((a.slot_t < 0) == (a.row_slot_t < 0)).all()
    assert (a.slot_t < 0).any()
    for t in np.flatnonzero(a.row_slot_t >= 0):
        np.testing.assert_array_equal(a.x_ecd[a.expert_t[t], a.row_slot_t[t]], a.n_td[t])
        expected = a.gate_t[t] * a.y_ecd[a.expert_t[t], a.row_slot_t[t]]
        np.testing.assert_allclose(a.y_td[t], expected, atol=1e-6)


def test_a_trace_names_buckets_biases_and_the_balance_of_each_layer():
    model = small_model(Routing.huggingface())
    trace = model.trace([[5, 6, 7], [8, 9, 1]], [[1, 1, 1], [1, 1, 0]], [[0], [0]])
    a = trace.encoder

    assert a.bucket_ts.shape == (6, 6)
    assert (a.bucket_ts[:3, 3:] == -1).all()
    assert a.bias_hts.shape == (3, 6, 6)
    assert (a.bias_hts[:, :3, 3:] == -np.inf).all()
    np.testing.assert_array_equal(a.bias_hts[:, 0, 2], model.params.encoder.bias_rh[a.bucket_ts[0, 2]])
    switch = a.blocks[1].switch
    each = [switchnp.equations.load_balance(switch.p_te[s], switch.expert_t[s]) for s in (slice(0, 3), slice(3, 6))]
    assert switch.balance == pytest.approx(np.mean(each), rel=1e-6)


def test_routing_may_be_changed_on_a_model():
    model = small_model(Routing.huggingface("5.23"), expert_capacity=1)
    ids = [[5, 6, 7, 8, 9, 10, 11, 1]]
    model.routing = Routing.huggingface("4.25")

    changed = model(ids, decoder_input_ids=SAID[:1]).logits

    expected = small_model(Routing.huggingface("4.25"), expert_capacity=1)(ids, decoder_input_ids=SAID[:1]).logits
    np.testing.assert_array_equal(changed, expected)


def test_a_wholly_masked_sentence_does_not_count_in_the_losses_of_a_stack():
    routing = Routing(loss_layers="concatenated", loss_tokens="sequence")
    model = small_model(routing)

    out = model([[5, 6], [7, 8]], [[0, 0], [1, 1]], labels=[[2], [3]])
    alone = model([[7, 8]], labels=[[3]])

    assert out.encoder_balance_loss == pytest.approx(alone.encoder_balance_loss)


def test_a_model_saves_as_bfloat16(tmp_path):
    model = small_model()
    model.save(tmp_path / "narrow.h5", dtype="bfloat16")

    copy = switchnp.load(tmp_path / "narrow.h5")

    np.testing.assert_allclose(copy.params.embedding_vd, model.params.embedding_vd, rtol=2**-8)
    assert (tmp_path / "narrow.h5").stat().st_size > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.trace([5], decoder_attention_mask=[[1]]), "decoder_attention_mask is given without"),
        (lambda model: model.encode(np.array([[2**63 + 5]], np.uint64)), "has the id 9223372036854775813"),
        (lambda model: model([5], labels=np.array([[2**64 - 100]], np.uint64)), "has the id 18446744073709551516"),
        (lambda model: model.generate([]), "a sentence without tokens"),
        (lambda model: model.encode({1, 2}), "sentences of 0 axes"),
        (lambda model: switchnp.SwitchTransformer(model.config, model.params, routing="paper"), "expected a switchnp.Routing"),
    ],
)
def test_more_bad_input_is_refused_in_one_sentence(call, message):
    with pytest.raises(InputError) as refusal:
        call(small_model())

    assert message in str(refusal.value)


@pytest.mark.parametrize("dtype", [np.float16, np.int64, ">f4"])
def test_weights_of_another_kind_are_refused(dtype):
    config = small_config()

    with pytest.raises(ShapeError, match="expected all float32 or all float64"):
        switchnp.SwitchTransformer(config, small_params(config).map(lambda leaf: leaf.astype(dtype)))


def test_a_tokenizer_beyond_the_vocabulary_is_refused(numbers):
    config = small_config()

    with pytest.raises(TokenizerError, match="the tokenizer has 512 tokens, expected at most 40"):
        switchnp.SwitchTransformer(config, small_params(config), tokenizer=numbers.tokenizer)


def test_threads_may_share_a_model(numbers):
    prompts = [f"say in French: {n}" for n in range(1000, 1040)]
    expected = [numbers.generate(prompt) for prompt in prompts]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(numbers.generate, prompts))

    assert answers == expected


ODD_IDS = {"pad_token_id": 3, "eos_token_id": 5, "decoder_start_token_id": 2}


def test_the_configs_own_special_ids_are_the_ones_used():
    model = small_model(Routing.huggingface(), **ODD_IDS)

    by_labels = model([[8, 9, 10], [11]], labels=[[7, -100, 8], [9, 6, 5]])
    by_hand = model([[8, 9, 10], [11, 3, 3]], [[1, 1, 1], [1, 0, 0]], [[2, 7, 3], [2, 9, 6]])

    np.testing.assert_array_equal(by_labels.logits, by_hand.logits)


def test_a_mask_of_ones_does_not_show_what_a_ragged_list_lacks():
    model = small_model(Routing.paper())

    np.testing.assert_array_equal(model.encode([[5, 6], [7]], np.ones((2, 2), int)), model.encode([[5, 6], [7]]))
    with_mask = model([[5], [6]], labels=[[7, 8], [9]], decoder_attention_mask=np.ones((2, 2), int))
    np.testing.assert_array_equal(with_mask.logits, model([[5], [6]], labels=[[7, 8], [9]]).logits)


def test_the_traced_answers_of_two_prompts_end_where_they_end(numbers):
    prompts = ["say in German: 84", "say in French: 1984"]
    lengths = [len(numbers.generate(numbers.tokenizer.encode(prompt))[0]) - 1 for prompt in prompts]

    trace = numbers.trace(prompts)

    shown = [int(trace.decoder.mask_t[trace.decoder.segment_t == b].sum()) for b in range(2)]
    assert shown == lengths


def test_words_only_where_the_decoder_is_masked_are_no_words():
    with pytest.raises(InputError, match="no word to predict"):
        small_model(Routing.paper())([[5]], None, [[0, 7]], [[1, 0]], labels=[[-100, 4]])


def test_sentences_of_one_mask_but_other_places_are_not_confused():
    model = small_model(Routing.paper())

    together = model.encode([[5, 9, 7], [5, 7, 9]], [[1, 0, 1], [1, 1, 0]])

    np.testing.assert_allclose(together[0], model.encode([5, 9, 7], [1, 0, 1])[0], atol=1e-6)
    np.testing.assert_allclose(together[1], model.encode([5, 7, 9], [1, 1, 0])[0], atol=1e-6)


def test_a_wholly_masked_batch_can_be_traced():
    trace = small_model(Routing.paper()).trace([[5, 6]], [[0, 0]], [[0, 3]])

    assert trace.encoder.memory_td.shape == (0, 12)
    assert np.isfinite(trace.decoder.logits_tv).all()


def test_one_sentences_queues_have_the_capacity_as_their_length():
    model = small_model(Routing.huggingface(), expert_capacity=4, num_experts=1)

    a = model.trace([5, 6, 7, 8, 9, 10], decoder_input_ids=[0]).encoder.blocks[1].switch
    short = small_model(Routing.huggingface(), expert_capacity=6).trace([5, 6, 7, 8, 9, 10], decoder_input_ids=[0])

    assert a.x_ecd.shape == (1, 4, 12)
    assert short.encoder.blocks[1].switch.x_ecd.shape == (4, 6, 12)


def test_saving_keeps_dtype_force_and_provenance(tmp_path):
    config = small_config()
    model = switchnp.SwitchTransformer(config, small_params(config), provenance={"source": "a test"})
    model.save(tmp_path / "m.h5")
    model.save(tmp_path / "m.h5", dtype="bfloat16", force=True)

    header, _ = switchnp.weights.read_header(tmp_path / "m.h5")

    assert header.dtype == "bfloat16"
    assert switchnp.load(tmp_path / "m.h5").provenance == {"source": "a test"}


def test_a_wrong_engine_is_noticed_before_a_file_is_looked_for():
    with pytest.raises(InputError, match="engine is 'torch'"):
        switchnp.load("nowhere.h5", engine="torch")


def test_models_trees_and_outputs_can_be_copied_and_compared(numbers):
    copied = pickle.loads(pickle.dumps(numbers))
    out = numbers([3, 4, 1], decoder_input_ids=[0])

    assert copied.generate("say in German: 84") == "vierundachtzig"
    assert out == out
    assert out != numbers([3, 4, 1], decoder_input_ids=[0])
    assert {out}


def test_every_room_can_be_reached_by_its_name():
    code = "import switchnp; switchnp.tokenizer.Tokenizer; switchnp.layers.switch; switchnp.network.Row; switchnp.kernels.slots"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert {"load", "equations", "tokenizer"} <= set(dir(switchnp))
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = switchnp.lod


@pytest.mark.parametrize(
    ("settings", "message"), [({"verify": "no"}, "verify is 'no'"), ({"verify": False, "engine": "kernels"}, "engine='fast'")]
)
def test_what_verifies_nothing_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        switchnp.load(ROOT / "weights/switch-numbers.h5", **settings)
