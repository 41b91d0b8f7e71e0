"""Every router in a whole model: what it promises, on every engine, alone and among batch mates."""

from dataclasses import replace

import numpy as np
import pytest
from draw import seeds
from hypothesis import given
from hypothesis import strategies as st
from small import small_config, small_model, small_params

from switchnp import Routing, SwitchTransformer, equations, kernels, layers, network
from switchnp.errors import ConfigError, InputError
from switchnp.network import Row
from switchnp.routers import ROUTERS, Mode
from switchnp.routing import WORDS

ENGINES = ["kernels", "equations", "fast"]
IDS, SAID = [[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 15, 16]], [[0, 2, 3], [0, 4, 5]]


def encoder_only(**choices):
    """A Routing whose choices hold for the encoder, with the paper's for the decoder."""
    return replace(Routing.paper(), name="tried", decoder_router="top 1", decoder_order="first come", **choices)


def a_switch(model, ids=IDS, **more):
    """The arrays of the encoder's Switch layer."""
    return model.trace(ids, decoder_input_ids=SAID[: len(ids)], **more).encoder.blocks[1].switch


def test_every_router_that_may_be_asked_for_is_there():
    assert tuple(ROUTERS) == WORDS["router"]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("router", ROUTERS)
def test_every_router_says_the_same_on_every_engine(router, training):
    models = [small_model(encoder_only(router=router), engine, router_bias=True) for engine in ENGINES]

    outs = [model(IDS, decoder_input_ids=SAID, labels=SAID, training=training, rng=rng()) for model in models]

    for out in outs[1:]:
        np.testing.assert_allclose(outs[0].logits, out.logits, atol=1e-5)
        assert outs[0].loss == pytest.approx(out.loss, abs=1e-5)
    assert np.isfinite(outs[0].loss)


def rng(seed=0):
    return np.random.default_rng(seed)


@given(seed=seeds)
def test_top_k_of_one_is_switch(seed):
    ids = rng(seed).integers(2, 40, (2, 6))
    model, same = small_model(seed=seed), small_model(encoder_only(router="top k", choices=1), seed=seed)

    np.testing.assert_array_equal(model.encode(ids), same.encode(ids))


@pytest.mark.parametrize("router", ["top k", "no token left behind", "expert choice"])
def test_with_room_for_all_the_answer_is_the_sum_of_what_each_choice_answers(router):
    model = small_model(encoder_only(router=router, choices=3, capacity="unlimited"), "equations")
    p = model.params.encoder.blocks[1].switch
    a = a_switch(model)

    expected_td = np.zeros_like(a.n_td)
    chosen = {"top k": 3, "no token left behind": 1, "expert choice": 4}[router]
    for t, n_d in enumerate(a.n_td):
        for e in np.argsort(-a.p_te[t], kind="stable")[:chosen]:
            expected_td[t] += a.p_te[t, e] * (np.maximum(n_d @ p.wi_edf[e], 0) @ p.wo_efd[e])

    np.testing.assert_allclose(a.y_td, expected_td, atol=1e-5)


def test_gshards_gates_share_out_one_and_its_second_choices_are_drawn_in_training():
    model = small_model(encoder_only(router="gshard", capacity="unlimited", train_policy="argmax"))

    evaluated, trained = a_switch(model), [a_switch(model, training=True, rng=rng(seed)) for seed in range(20)]

    np.testing.assert_allclose(evaluated.gate_tn.sum(axis=1), 1, rtol=1e-6)
    assert (evaluated.slot_tn >= 0).all()
    assert all((a.slot_tn[:, 0] >= 0).all() for a in trained)
    surely = evaluated.gate_tn[:, 1] >= 0.2
    assert all((a.slot_tn[surely, 1] >= 0).all() for a in trained)
    faint = evaluated.gate_tn[:, 1] < 0.1
    assert faint.any()
    assert sum((a.slot_tn[faint, 1] < 0).sum() for a in trained) > 0


def test_no_token_is_left_behind_that_a_lesser_choice_has_room_for():
    switch = a_switch(small_model(encoder_only(capacity=2), num_experts=4))
    rescued = a_switch(small_model(encoder_only(router="no token left behind", choices=4, capacity=2), num_experts=4))

    assert (switch.slot_t < 0).any()
    assert (rescued.slot_tn >= 0).any(axis=1).all()


def test_expert_choice_fills_every_queue_and_costs_no_balance():
    model = small_model(encoder_only(router="expert choice", capacity=2))

    a, out = a_switch(model), model(IDS, labels=SAID)

    for sentence in (slice(0, 6), slice(6, 12)):
        assert ((a.slot_tn[sentence] >= 0).sum(axis=0) == 2).all()
    assert out.encoder_balance_loss == 0
    assert out.decoder_balance_loss > 0


def test_a_hash_router_goes_by_the_word_alone_with_a_gate_of_one():
    model = small_model(encoder_only(router="hash"))

    a = a_switch(model, [[5, 6, 5, 5, 8, 6]])

    np.testing.assert_array_equal(a.expert_t, equations.hashed_expert(np.array([5, 6, 5, 5, 8, 6]), 4))
    assert (a.gate_t == 1).all()


def test_a_bias_moves_the_choice_and_not_the_gate():
    config = small_config(router_bias=True)
    params = small_params(config)
    params.encoder.blocks[1].switch.br_e[:] = [0, 0, 5, 0]
    model = SwitchTransformer(config, params, encoder_only(router="bias", capacity="unlimited"))

    a = a_switch(model)

    assert (a.expert_t == 2).all()
    np.testing.assert_allclose(a.p_te, equations.router_probs(a.n_td, params.encoder.blocks[1].switch.wr_de), atol=1e-6)
    np.testing.assert_array_equal(a.gate_t, a.p_te[:, 2])
    with pytest.raises(InputError, match="the router is 'bias', expected a Config with router_bias"):
        small_model(Routing(router="bias"))


@given(seed=seeds)
def test_a_shift_of_all_biases_changes_nothing(seed):
    config = small_config(router_bias=True)
    ids = rng(seed).integers(2, 40, (2, 6))
    answers = []
    for shift in (0.0, 3.0):
        params = small_params(config, seed)
        params.encoder.blocks[1].switch.br_e[:] += np.float32(shift)
        answers.append(SwitchTransformer(config, params, encoder_only(router="bias")).encode(ids))

    np.testing.assert_allclose(answers[0], answers[1], atol=1e-6)


@given(seed=seeds)
def test_the_surest_are_kept_whatever_their_place(seed):
    ids = rng(seed).integers(2, 40, (1, 8))
    a = a_switch(small_model(encoder_only(order="by gate", capacity=1), seed=seed), ids)

    for e in range(4):
        asked = np.flatnonzero(a.expert_t == e)
        if len(asked):
            assert (a.slot_t[asked] == 0).sum() == 1
            assert a.gate_t[asked[a.slot_t[asked] == 0]] == a.gate_t[asked].max()


def test_a_random_order_keeps_another_token_another_time_and_the_same_for_a_seed():
    model = small_model(encoder_only(order="random", capacity=1))
    kept = [tuple(a_switch(model, rng=rng(seed)).slot_t >= 0) for seed in (*range(8), 0)]

    assert kept[0] == kept[-1]
    assert len(set(kept)) > 1
    assert len({sum(each) for each in kept}) == 1


# ---- groups ----


def row(B, T, real=None):
    """A padded batch as a row that keeps its padding."""
    real = np.ones((B, T), bool) if real is None else real
    return Row(np.arange(2, 2 + B * T), np.repeat(np.arange(B), T), np.tile(np.arange(T), B), real.ravel(), B)


@pytest.mark.parametrize(
    ("choices", "sizes"),
    [
        ({"group": "sequence"}, [6, 6]),
        ({"group": "everything"}, [12]),
        ({"group": "packed", "group_tokens": 5}, [5, 5, 2]),
        ({"group": "packed", "group_tokens": 50}, [12]),
        ({"group": "mesh-tf", "group_tokens": 5, "pads": "unseated"}, [6, 6]),
        ({"group": "mesh-tf", "group_tokens": 50, "pads": "unseated"}, [12]),
        ({"group": "flaxformer", "group_tokens": 50, "pads": "zeroed"}, [3, 3, 3, 3]),
    ],
)
def test_a_row_is_cut_into_groups_of_these_sizes(choices, sizes):
    groups = network.groups_of(equations, small_config(), Routing(**choices), row(2, 6))

    members = [np.arange(12)[group].tolist() for group in groups.members]
    assert [len(group) for group in members] == sizes
    np.testing.assert_array_equal(np.concatenate(members), np.arange(12))


def test_flaxformers_groups_are_filled_with_zeros_where_the_batch_does_not_divide():
    routing = Routing.flaxformer()

    groups = network.groups_of(equations, small_config(num_experts=4), routing, row(3, 5))

    assert groups.added == 5  # a fourth sentence, for three more words in each would be nine
    assert sorted(np.concatenate(groups.members).tolist()) == list(range(20))
    assert groups.real_t.tolist() == [True] * 15 + [False] * 5
    longer = network.groups_of(equations, small_config(num_experts=6), routing, row(3, 5))
    assert longer.added == 3
    assert longer.members[0].tolist() == [0, 1, 2]
    assert longer.members[1].tolist() == [3, 4, 15]  # a place behind each sentence of five


def test_added_zeros_change_no_answer_of_a_sentence_where_there_is_room():
    model = small_model(replace(Routing.flaxformer(), capacity="unlimited"))
    plain = small_model(Routing(capacity="unlimited"))

    ids = [[5, 6, 7, 8, 9], [5, 9, 3, 2, 4], [7, 7, 8, 3, 2]]
    trace = model.trace(ids, decoder_input_ids=[[0]] * 3)

    np.testing.assert_allclose(model.encode(ids), plain.encode(ids), atol=1e-6)
    assert len(trace.encoder.blocks[1].switch.p_te) == 20
    np.testing.assert_allclose(trace.encoder.blocks[1].switch.p_te[15:], 0.25)
    assert trace.encoder.blocks[1].switch.y_td.shape == (15, 12)


@given(seed=seeds, size=st.integers(1, 7))
def test_groups_of_a_packed_row_see_what_stands_before_them_and_no_pads(seed, size):
    ids = rng(seed).integers(2, 40, (2, 6))
    mask = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    routing = encoder_only(group="packed", group_tokens=size, capacity=1)

    a = small_model(routing).trace(ids, mask, [[0], [0]]).encoder.blocks[1].switch

    assert len(a.expert_t) == 10
    for start in range(0, 10, size):
        group = slice(start, start + size)
        np.testing.assert_array_equal(a.slot_t[group], equations.slots(a.expert_t[group], 4, 1))


def test_unseated_padding_takes_no_slot_and_still_makes_room():
    routing = Routing(pads="unseated", capacity="ceil", eval_capacity_factor=2.0)

    a = a_switch(small_model(routing), [[5, 6, 7, 8, 0, 0]], attention_mask=[[1, 1, 1, 1, 0, 0]])

    assert (a.slot_t[4:] == -1).all()
    np.testing.assert_array_equal(a.slot_t[:4], equations.slots(a.expert_t[:4], 4, 3))
    assert (a.y_td[4:] == 0).all()


def test_zeroed_padding_asks_expert_0_and_takes_its_slots():
    routing = Routing(pads="zeroed", capacity=1)

    a = a_switch(small_model(routing), [[0, 0, 5, 6]], attention_mask=[[0, 0, 1, 1]])

    assert a.expert_t[:2].tolist() == [0, 0]
    assert a.slot_t[:2].tolist() == [0, -1]
    np.testing.assert_allclose(a.p_te[:2], 0.25)
    assert (a.n_td[:2] == 0).all()


# ---- training ----


def test_training_has_a_capacity_factor_of_its_own():
    config = small_config()

    rooms = [layers.capacity(equations, config, Routing.paper(), 16, Mode(training)) for training in (False, True)]

    assert rooms == [8, 5]


@pytest.mark.parametrize("engine", [equations, kernels], ids=["equations", "kernels"])
def test_exploration_is_for_training_and_only_leaking_jitter_reaches_the_experts(engine):
    x_td = rng().normal(size=(6, 12)).astype(np.float32)
    config, ids = small_config(), row(1, 6)
    p = small_params(config).encoder.blocks[1].switch
    for policy in WORDS["train_policy"]:
        routing = Routing(train_policy=policy, jitter=0.5, capacity="unlimited")
        groups = network.groups_of(engine, config, routing, ids)

        _, evaluated = layers.switch(engine, config, routing, p, x_td, groups)
        _, trained = layers.switch(engine, config, routing, p, x_td, groups, mode=Mode(True, rng()))

        clean_td = engine.rms_norm(x_td, p.norm_d, 1e-6)
        heard = np.array_equal(trained.h_te, evaluated.h_te)
        assert np.array_equal(evaluated.n_td, clean_td)
        assert np.array_equal(trained.n_td, clean_td) == (policy != "leaking jitter"), policy
        assert heard == (policy in ("argmax", "sample")), policy


def test_the_configs_jitter_is_used_where_the_routing_has_none():
    model = small_model(replace(Routing.huggingface(), jitter=None), router_jitter_noise=0.0)

    trained, evaluated = model(IDS, labels=SAID, training=True, rng=rng()), model(IDS, labels=SAID)

    np.testing.assert_array_equal(trained.logits, evaluated.logits)


def test_a_sampled_expert_has_the_gate_of_its_own_probability():
    model = small_model(Routing(eval_policy="sample", temperature=5.0, capacity="unlimited"))

    a = a_switch(model, rng=rng())

    assert (a.expert_t != a.p_te.argmax(axis=1)).any()
    np.testing.assert_array_equal(a.gate_t, equations.gate(a.p_te, a.expert_t))


def test_what_draws_at_random_needs_a_generator_and_repeats_itself_for_a_seed():
    model = small_model(Routing.paper())

    for call in (model, model.encode, model.trace):
        with pytest.raises(InputError, match=r"draws at random \(policy 'input jitter'\), expected rng="):
            call(IDS, training=True)
    with pytest.raises(InputError, match="rng is 3, expected a generator"):
        model(IDS, labels=SAID, training=True, rng=3)
    first, again, other = (model(IDS, labels=SAID, training=True, rng=rng(seed)).logits for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    with pytest.raises(InputError, match="training is 'yes', expected True or False"):
        model(IDS, labels=SAID, training="yes", rng=rng())
    sampler = small_model(Routing(eval_policy="sample"))
    with pytest.raises(InputError, match="policy 'sample'"):
        sampler.generate(IDS)
    assert sampler.generate(IDS, max_new_tokens=2, rng=rng()).shape[0] == 2


# ---- the future ----


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("router", ["top 1", "hash", "bias"])
@given(seed=seeds, cut=st.integers(1, 5))
def test_what_a_decoder_says_does_not_depend_on_what_comes_later(router, engine, seed, cut):
    model = small_model(Routing(router=router, capacity=1), engine, router_bias=True)
    said = rng(seed).integers(2, 40, (1, 6))
    other = np.concatenate([said[:, :cut], rng(seed + 1).integers(2, 40, (1, 6 - cut))], axis=1)

    one, two = (model(IDS[:1], decoder_input_ids=words).logits[:, :cut] for words in (said, other))

    np.testing.assert_allclose(one, two, atol=1e-5)


@pytest.mark.parametrize(
    "choice", [{"router": "top k"}, {"router": "no token left behind"}, {"router": "expert choice"}, {"order": "by gate"}]
)
def test_what_is_refused_in_a_decoder_does_let_a_token_see_the_ones_behind_it(choice):
    """The encoder's Switch layer stands for a decoder's: its tokens' logits are the same, and who is kept is not."""
    p_te = equations.softmax(rng(3).normal(size=(200, 6, 4)))
    routing = encoder_only(**choice)

    seen = 0
    for case_te in p_te:
        whole, prefix = (seated(routing, part_te) for part_te in (case_te, case_te[:4]))
        seen += not np.array_equal(whole[:4], prefix)

    assert seen > 0


def seated(routing, p_te, C=1):
    """The slots of one group of these probabilities."""
    from switchnp import Tree, routers

    everyone = slice(0, len(p_te))
    groups = routers.Groups([everyone], [everyone], np.arange(len(p_te)), np.ones(len(p_te), bool))
    return routers.route(equations, routing, Tree(p_te=p_te, h_te=np.log(p_te)), groups, lambda T: C, Mode()).slot_tn


def test_unlimited_capacity_lets_any_router_serve_a_decoder_for_nobody_waits():
    for router in ("top k", "no token left behind", "expert choice", "gshard"):
        model = small_model(Routing(router=router, capacity="unlimited"))
        said = [[0, 2, 3, 4]]

        whole, prefix = (model(IDS[:1], decoder_input_ids=words).logits for words in (said, [said[0][:2]]))

        np.testing.assert_allclose(whole[:, :2], prefix, atol=1e-5)


def test_the_error_of_a_decoder_that_sees_ahead_names_the_way_out():
    with pytest.raises(ConfigError, match="expected decoder_router 'top 1', 'hash' or 'bias'"):
        Routing(router="expert choice")


# ---- what each stack, and each mode, has of its own ----


def decoder_switch(model, **more):
    """The arrays of the decoder's Switch layer."""
    return model.trace(IDS, decoder_input_ids=SAID, **more).decoder.blocks[1].switch


def test_a_decoder_has_the_router_that_is_named_for_it_and_the_encoder_its_own():
    hashed, other = Routing(decoder_router="hash"), Routing(router="hash", decoder_router="top 1")

    for routing, stacks in ((hashed, (False, True)), (other, (True, False))):
        model = small_model(routing)
        for a, is_hashed in zip((a_switch(model), decoder_switch(model)), stacks, strict=True):
            assert (a.gate_t == 1).all() == is_hashed
        balances = model(IDS, labels=SAID)
        assert [balances.encoder_balance_loss == 0, balances.decoder_balance_loss == 0] == list(stacks)
        assert [balances.encoder_z_loss == 0, balances.decoder_z_loss == 0] == list(stacks)
    np.testing.assert_array_equal(decoder_switch(small_model(hashed)).expert_t, equations.hashed_expert(np.ravel(SAID), 4))


def test_what_is_for_training_stays_there_though_there_is_a_generator():
    for routing in (encoder_only(router="gshard", capacity="unlimited"), Routing(train_policy="logit jitter", jitter=0.5)):
        model = small_model(routing)

        with_rng, without = (model(IDS, labels=SAID, rng=each) for each in (rng(), None))

        np.testing.assert_array_equal(with_rng.logits, without.logits)


def test_a_training_trace_answers_as_in_evaluation_and_needs_a_generator_if_that_draws():
    model = small_model(Routing(eval_policy="sample"))

    with pytest.raises(InputError, match="policy 'sample'"):
        model.trace(IDS, training=True)
    jittered = small_model(Routing(train_policy="input jitter", jitter=0.9))
    spoken = jittered.generate(IDS)
    assert jittered.trace(IDS, training=True, rng=rng()).decoder.ids_t[: spoken.shape[1] - 1].tolist() == spoken[0, :-1].tolist()


@pytest.mark.parametrize(
    ("policy", "amounts"), [("input dropout", ("input_dropout", 0.0, 0.5)), ("logit jitter", ("jitter", 0.0, 0.9))]
)
def test_the_amount_of_exploration_is_the_routings(policy, amounts):
    name, none, much = amounts
    calm, wild = (small_model(Routing(train_policy=policy, **{name: amount})) for amount in (none, much))

    h_te = a_switch(calm).h_te
    heard = [a_switch(model, training=True, rng=rng()).h_te for model in (calm, wild)]

    shift_te = heard[0] - h_te
    np.testing.assert_allclose(shift_te - shift_te.mean(axis=1, keepdims=True), 0, atol=1e-5)
    assert np.abs(heard[1] - h_te - shift_te).max() > 0.3


def test_gshard_takes_two_experts_and_counts_the_first_in_its_loss():
    model = small_model(encoder_only(router="gshard", choices=3, capacity="unlimited"))

    a, out = a_switch(model), model(IDS, labels=SAID)

    assert a.expert_tn.shape[1] == 2
    assert out.encoder_balance_loss == pytest.approx(float(equations.load_balance(a.p_te, a.expert_tn[:, 0])))


def test_each_router_counts_its_choices_as_its_paper_does():
    for router, choices, weights in (("top k", 2, (1, 1)), ("no token left behind", 2, (0.5, 0.5)), ("bias", 2, ())):
        model = small_model(encoder_only(router=router, choices=choices), router_bias=True)
        a = a_switch(model)

        expected = sum(weight * equations.load_balance(a.p_te, a.expert_tn[:, n]) for n, weight in enumerate(weights))

        assert model(IDS, labels=SAID).encoder_balance_loss == pytest.approx(float(expected))


@pytest.mark.parametrize(("loss_pads", "power"), [("counted", None), ("left out", 0), ("zeroed", 2), ("weighted", None)])
def test_padding_counts_in_the_losses_as_the_routing_says(loss_pads, power):
    model = small_model(Routing(pads="routed", loss_pads=loss_pads, loss_tokens="sequence", capacity="unlimited"))
    ids, mask = [[5, 6, 7, 0], [8, 9, 0, 0], [0, 0, 0, 0]], np.array([[1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]])

    a = model.trace(ids, mask, [[0]] * 3).encoder.blocks[1].switch
    out = model(ids, mask, [[0]] * 3)

    each = []
    for b in range(3):
        s, real_t = slice(4 * b, 4 * b + 4), mask[b] > 0
        share = real_t.mean()
        if power is None:
            each.append(equations.load_balance(a.p_te[s], a.expert_t[s]) * (share if loss_pads == "weighted" else 1))
        elif real_t.any():
            each.append(equations.load_balance(a.p_te[s][real_t], a.expert_t[s][real_t]) * share**power)
        elif power:
            each.append(0.0)
    assert out.encoder_balance_loss == pytest.approx(np.mean(each), rel=1e-5)
    h_te = np.where(mask.ravel()[:, None] > 0, a.h_te, 0) if loss_pads == "zeroed" else a.h_te
    h_te = h_te[mask.ravel() > 0] if loss_pads in ("left out", "weighted") else h_te
    assert out.encoder_z_loss == pytest.approx(float(equations.router_z(h_te)), rel=1e-5)


def test_an_exact_capacity_seats_its_last_part_too():
    config, routing = small_config(num_experts=4), Routing(capacity="exact", eval_capacity_factor=1.0)

    assert layers.capacity(equations, config, routing, 10) == 3


def test_queues_of_several_groups_lie_without_gaps_and_hold_every_choice():
    a = a_switch(small_model(encoder_only(router="top k", choices=2, capacity=2)))

    kept_tn = a.slot_tn >= 0
    assert a.x_ecd.shape[1] == np.bincount(a.expert_tn[kept_tn]).max()
    for t, n in np.argwhere(kept_tn):
        np.testing.assert_array_equal(a.x_ecd[a.expert_tn[t, n], a.row_slot_tn[t, n]], a.n_td[t])


def test_unseated_padding_gets_nothing_where_others_pass_as_identity():
    a = a_switch(
        small_model(Routing(pads="unseated", dropped="identity", capacity=1)), [[5, 6, 7, 0]], attention_mask=[[1, 1, 1, 0]]
    )

    assert (a.y_td[3] == 0).all()
    assert (a.slot_t[:3] < 0).any()
    for t in np.flatnonzero(a.slot_t[:3] < 0):
        np.testing.assert_allclose(a.y_td[t], a.gate_t[t] * a.n_td[t], rtol=1e-6)


def test_unseated_padding_is_taken_by_no_expert():
    routing = replace(encoder_only(router="expert choice", capacity=3), pads="unseated")

    a = a_switch(small_model(routing), [[5, 6, 0, 0]], attention_mask=[[1, 1, 0, 0]])

    assert (a.slot_tn[2:] == -1).all()
    assert (a.slot_tn[:2] >= 0).all()


@pytest.mark.parametrize("group", ["everything", "packed"])
def test_a_row_without_tokens_has_groups_without_tokens(group):
    routing = Routing(group=group, group_tokens=4 if group == "packed" else None)

    out = small_model(routing)([[0, 0]], [[0, 0]], [[0, 3]])

    assert np.isfinite(out.logits).all()
