"""One text under two routings: who parts, by how much, and why."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from references import ROOT
from small import small_model

import switchnp
from switchnp import Routing
from switchnp.comparison import compare, seats
from switchnp.errors import InputError

PAPER = Routing.paper()
TIGHT = replace(PAPER, name="tight", capacity=1)
IDS = [5, 6, 7, 8, 9, 10, 5, 6]


def of(comparison, stack):
    """The tokens of one stack."""
    return [token for token in comparison.tokens if token.stack == stack]


def test_a_routing_compared_with_itself_differs_in_nothing():
    comparison = compare(small_model(), PAPER, replace(PAPER, name="again"), IDS)

    assert comparison.settings == {}
    assert comparison.parted == ()
    assert (comparison.logits, comparison.gate_error, comparison.flips) == (0, 0, 0)
    assert "0 of " in str(comparison)
    assert "stack" not in str(comparison)


def test_the_tokens_that_one_routing_drops_are_named_with_their_expert_and_the_reason():
    model = small_model()
    comparison = compare(model, replace(PAPER, capacity="unlimited"), TIGHT, IDS)
    traced = small_model(TIGHT).trace(IDS, decoder_input_ids=[0]).encoder.blocks[1].switch

    encoder = of(comparison, "encoder")
    dropped = [token.place for token in encoder if not token.b.kept]
    assert dropped == np.flatnonzero(traced.slot_t < 0).tolist() != []
    for token in encoder:
        assert token.a.kept == token.a.experts == token.b.experts
        expected = f"expert {token.a.experts[0]} is full under tight" if token.place in dropped else ""
        assert token.why == expected
        assert (token.moved > 1e-5) == (token.place in dropped)
    assert comparison.settings["capacity"] == ("unlimited", 1)
    assert comparison.dropped[0] == 0
    assert comparison.dropped[1] >= len(dropped)
    assert comparison.logits > 1e-3


def test_what_is_passed_on_instead_of_dropped_is_said():
    passing = replace(TIGHT, name="passing", dropped="identity")

    comparison = compare(small_model(), TIGHT, passing, IDS)

    reasons = {token.why for token in of(comparison, "encoder") if not token.a.kept}
    assert reasons == {"no room, but one passes it on times its gate"}
    assert all(token.why == "" for token in of(comparison, "encoder") if token.a.kept)


def test_a_difference_from_below_is_told_from_one_of_the_layer_itself():
    roomy = replace(PAPER, capacity="unlimited")
    blind = replace(roomy, name="blind", position_bias="block 0")

    comparison = compare(small_model(sparse_encoder_layers=(0, 1)), roomy, blind, IDS)

    first, second = ([token for token in of(comparison, "encoder") if token.layer == layer] for layer in (0, 1))
    assert all(token.why == "" for token in first)
    assert all("its input is off by" in token.why for token in second)


def test_routers_of_several_choices_name_them_all():
    both = replace(PAPER, name="two", router="top k", choices=2, decoder_router="top 1", capacity="unlimited")
    chosen = replace(PAPER, name="chosen", router="expert choice", decoder_router="top 1", capacity=2)

    comparison = compare(small_model(), both, chosen, IDS)

    for token in of(comparison, "encoder"):
        assert len(token.a.experts) == 2
        assert token.b.experts == token.b.kept
    assert any(token.b.experts == () and str(token.b) == "none" for token in of(comparison, "encoder"))
    assert "goes to " in str(comparison)


def test_a_second_choice_that_rescues_a_token_is_told_from_a_full_expert():
    tried = replace(PAPER, name="tried", router="no token left behind", choices=2, decoder_router="top 1", capacity=1)

    comparison = compare(small_model(), replace(TIGHT, capacity="unlimited"), tried, IDS)

    encoder = of(comparison, "encoder")
    moved = [token for token in encoder if token.why]
    assert moved
    for token in encoder:
        assert (token.why == "") == (token.a.kept == token.b.kept)
        if token.why:
            assert token.why.startswith(f"expert {token.a.experts[0]} is full under tried")
        if len(token.b.kept) == 1:
            gate = token.b.gates[token.b.experts.index(token.b.kept[0])]
            assert str(token.b) == f"{token.b.kept[0]} ({gate:.3f})"


def test_differences_are_not_measured_in_the_precision_that_is_simulated():
    narrow = replace(PAPER, name="narrow", precision="bfloat16")
    model = small_model()

    there, back = compare(model, PAPER, narrow, IDS), compare(model, narrow, PAPER, IDS)

    assert there.logits == back.logits > 0
    assert there.logits != float(np.float32(there.logits).astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("paper", PAPER, IDS), "a routing is 'paper', expected a switchnp.Routing"),
        ((PAPER, None, IDS), "a routing is None, expected a switchnp.Routing"),
        ((PAPER, TIGHT, [[3, 4], [5, 6]]), "several sentences are compared at once"),
        ((PAPER, TIGHT, ["one", "two"]), "several sentences are compared at once"),
        ((PAPER, TIGHT, IDS, -1), "seed is -1, expected a whole number of 0 or more"),
        ((PAPER, TIGHT, IDS, None), "seed is None"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_sentence(arguments, message):
    with pytest.raises(InputError, match=message):
        compare(small_model(), *arguments)


def test_zeros_that_a_routing_adds_are_no_tokens():
    comparison = compare(small_model(num_experts=5), PAPER, Routing.flaxformer(), IDS[:7])

    assert len(of(comparison, "encoder")) == 7
    assert comparison.ties == 0


def test_half_precision_shows_flips_and_gate_errors():
    narrow = replace(PAPER, name="narrow", precision="bfloat16")

    comparison = compare(small_model(), PAPER, narrow, IDS)

    assert 0 < comparison.gate_error < 0.1
    assert comparison.parted == comparison.tokens


def test_random_draws_are_those_of_the_seed():
    drawing = replace(PAPER, name="drawing", order="random", decoder_order="first come", capacity=1)
    model = small_model()

    first, again = (compare(model, TIGHT, drawing, IDS, seed=3) for _ in range(2))
    others = {tuple(token.b for token in compare(model, TIGHT, drawing, IDS, seed=seed).tokens) for seed in range(6)}

    assert first.tokens == again.tokens
    assert len(others) > 1


def test_a_text_is_shown_in_its_pieces_and_its_answers():
    model = switchnp.load(ROOT / "weights/switch-numbers.h5")

    comparison = compare(model, Routing.huggingface(), TIGHT, "say in French: 1984")

    assert comparison.answers == ("mille neuf cent quatre-vingt-quatre",) * 2
    assert [token.token for token in of(comparison, "encoder")][:2] == ["▁", "sa"]
    assert "huggingface 5.23 answers: mille neuf cent quatre-vingt-quatre" in str(comparison)


@pytest.mark.parametrize("router", ["top 1", "top k"])
def test_seats_are_those_of_the_trace(router):
    routing = replace(PAPER, router=router, decoder_router="top 1", capacity=1)
    a = small_model(routing).trace(IDS, decoder_input_ids=[0]).encoder.blocks[1].switch

    found = seats(a, 8, routing)

    slot_tn = a.slot_tn if router == "top k" else a.slot_t[:, None]
    assert [seat.slots for seat in found] == [tuple(slots) for slots in slot_tn.tolist()]
    assert [len(seat.kept) for seat in found] == (slot_tn >= 0).sum(axis=1).tolist()


def test_ties_are_counted_in_the_second_and_flips_between_the_two():
    model = small_model()
    for stack in ("encoder", "decoder"):
        wr_de = model.params[stack].blocks[1].switch.wr_de
        wr_de[:, 1] = wr_de[:, 0]
    alike = compare(model, PAPER, replace(PAPER, name="again"), IDS)
    a = model.trace(IDS, decoder_input_ids=[0]).encoder.blocks[1].switch
    first = compare(small_model(), PAPER, replace(PAPER, name="blind", position_bias="block 0"), IDS)

    assert alike.flips == 0
    assert alike.ties >= (a.p_te.argmax(axis=1) == 0).sum() > 0
    there, back = (
        small_model(routing).trace(IDS, decoder_input_ids=[0]) for routing in (PAPER, replace(PAPER, position_bias="block 0"))
    )
    flips = (there.encoder.blocks[1].switch.expert_t != back.encoder.blocks[1].switch.expert_t).sum()
    assert first.flips >= flips
    assert first.ties == 0


def test_gates_that_differ_are_the_reason_where_nothing_else_does():
    two = replace(PAPER, name="two", router="top k", choices=2, decoder_router="top 1", capacity="unlimited")
    shared = replace(two, name="shared", router="gshard")

    comparison = compare(small_model(), two, shared, IDS)

    for token in of(comparison, "encoder"):
        assert token.why == f"its gate is {token.b.gates[0]:.3f} instead of {token.a.gates[0]:.3f}"
    assert comparison.gate_error == pytest.approx(
        max(abs(x - y) for token in comparison.tokens for x, y in zip(token.a.gates, token.b.gates, strict=True))
    )


def test_an_expert_that_is_drawn_is_no_other_router():
    drawing = replace(PAPER, name="drawing", eval_policy="sample", temperature=9.0)

    comparison = compare(small_model(), PAPER, drawing, IDS)

    elsewhere = [
        token for token in of(comparison, "encoder") if token.a.experts != token.b.experts and token.a.kept and token.b.kept
    ]
    assert elsewhere
    assert all("for an expert is drawn at random" in token.why or "is full" in token.why for token in elsewhere)
