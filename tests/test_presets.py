"""Routing: what each preset says, what is refused, and how the command line and a file name it."""

import dataclasses
import json

import pytest

from switchnp import Routing
from switchnp.catalogue import ORIGINS, SOURCES, table
from switchnp.equations.capacity import CAPACITIES
from switchnp.errors import ConfigError
from switchnp.routing import PRESETS, WORDS

FIELDS = {field.name: field for field in dataclasses.fields(Routing)}


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"capacity": "up"}, "Routing.capacity is 'up'"),
        ({"capacity": -1}, "Routing.capacity is -1"),
        ({"capacity": True}, "capacity is True"),
        ({"pads": "ignored"}, "Routing.pads is 'ignored', expected one of 'removed', 'routed'"),
        ({"dropped": None}, "dropped is None, expected a text"),
        ({"eval_capacity_factor": 0.0}, "Routing.eval_capacity_factor is 0.0"),
        ({"eval_capacity_factor": float("nan")}, "expected a finite number"),
        ({"min_capacity": -1}, "Routing.min_capacity is -1"),
        ({"choices": 0}, "Routing.choices is 0, expected at least 1"),
        ({"temperature": -0.5}, "Routing.temperature is -0.5, expected at least 0"),
        ({"jitter": 1.0}, "Routing.jitter is 1.0, expected 0 or more and below 1"),
        ({"input_dropout": 1}, "Routing.input_dropout is 1, expected 0 or more and below 1"),
        ({"capacity": 2**63 - 1}, "expected a text or a whole number below 10^15"),
        ({"name": "x\x1b[31m"}, "expected at most 80 printable characters"),
        ({"router": "top 3"}, "Routing.router is 'top 3', expected one of 'top 1', 'top k'"),
        ({"decoder_router": ""}, "Routing.decoder_router is '', expected one of 'top 1'"),
        ({"decoder_order": "last"}, "Routing.decoder_order is 'last'"),
        ({"precision": "float16"}, "Routing.precision is 'float16'"),
        ({"group": "packed"}, "Routing.group_tokens is None, expected a number of 1 or more for the group 'packed'"),
        ({"group": "packed", "group_tokens": 0}, "Routing.group_tokens is 0, expected a number of 1 or more"),
        ({"group_tokens": 8}, "Routing.group_tokens is 8, expected None for the group 'sequence'"),
        ({"group": "flaxformer", "group_tokens": 8}, "Routing.pads is 'removed', expected pads that stay"),
    ],
)
def test_an_impossible_routing_is_refused_in_one_sentence(choice, message):
    with pytest.raises(ConfigError) as refusal:
        Routing(**choice)

    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


AHEAD = [
    *({"router": router} for router in ("top k", "gshard", "no token left behind", "expert choice")),
    *({"order": order} for order in ("by gate", "random")),
]


@pytest.mark.parametrize("choice", AHEAD)
def test_a_decoder_that_would_see_the_future_is_refused_and_told_what_to_do(choice):
    (name, value), *_ = choice.items()

    with pytest.raises(ConfigError) as refusal:
        Routing(**choice)

    assert f"{value!r} would let the decoder see the future, expected decoder_{name}" in str(refusal.value)
    with pytest.raises(ConfigError, match="would let the decoder see the future"):
        Routing(**{f"decoder_{name}": value})
    causal = WORDS[name][0]
    fine = [Routing(**choice, **{f"decoder_{name}": causal})]
    if name == "router":
        fine.append(Routing(**choice, capacity="unlimited"))
    assert all(getattr(routing.of("encoder"), name) == value for routing in fine)
    with pytest.raises(ConfigError, match="would let the decoder see the future"):
        Routing(**choice, capacity=None)
    assert getattr(Routing(**choice, **{f"decoder_{name}": causal}).of("decoder"), name) == causal


HALF = {"decoder_router": "top 1", "decoder_order": "first come"}


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"router": "top k", "eval_policy": "sample"}, "Routing.eval_policy is 'sample', which the router 'top k' passes over"),
        ({"router": "hash", "train_policy": "sample"}, "Routing.train_policy is 'sample', which the router 'hash' passes over"),
        ({"router": "gshard", "dropped": "identity"}, "Routing.dropped is 'identity', which the router 'gshard' passes over"),
        ({"router": "top k", "dropped_counts": "expert 0"}, "Routing.dropped_counts is 'expert 0', which the router 'top k'"),
        ({"router": "expert choice", "order": "by gate"}, "Routing.order is 'by gate', which the router 'expert choice'"),
        ({"order": "random", "capacity": "unlimited"}, "Routing.order is 'random', which capacity 'unlimited' passes over"),
    ],
)
def test_what_a_router_would_pass_over_is_refused(choice, message):
    with pytest.raises(ConfigError) as refusal:
        Routing(**HALF | choice)

    assert message in str(refusal.value)


@pytest.mark.parametrize("router", ["hash", "bias"])
def test_a_router_that_asks_each_token_alone_may_serve_a_decoder(router):
    assert Routing(router=router).of("decoder").router == router


def test_the_papers_numbers_are_the_papers():
    paper = Routing.paper()

    assert (paper.capacity, paper.min_capacity, paper.group) == ("ceil", 1, "sequence")
    assert (paper.train_capacity_factor, paper.eval_capacity_factor, paper.balance_coef) == (1.25, 2.0, 0.01)
    assert (paper.pads, paper.dropped, paper.loss_layers, paper.loss_tokens) == ("removed", "zero", "sum", "batch")
    assert (paper.train_policy, paper.jitter, paper.eval_policy) == ("input jitter", 0.01, "argmax")


def test_the_originals_numbers_are_theirs():
    mesh, flax = Routing.mesh_tf(), Routing.flaxformer(group_tokens=4096)

    assert (mesh.capacity, mesh.min_capacity, mesh.group_tokens, mesh.jitter) == ("floor up to T", 4, 1024, 0.01)
    assert (mesh.pads, mesh.loss_pads, mesh.loss_layers, mesh.balance_coef) == ("unseated", "weighted", "sum", 0.01)
    assert (flax.capacity, flax.min_capacity, flax.group_tokens, flax.train_policy) == ("round", 4, 4096, "argmax")
    assert (flax.pads, flax.loss_layers, flax.balance_coef, flax.logit_z_coef) == ("zeroed", "mean", 0.01, 1e-4)


def test_an_unknown_version_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"expected one of 5.23, 5.0, 4.57, 4.25"):
        Routing.huggingface("3.0")


def test_what_draws_at_random_says_so():
    calm = dataclasses.replace(Routing.paper(), jitter=0.0).draws(True)
    silent = [Routing.flaxformer().draws(True), Routing.paper().draws(False), calm]
    drawing = {
        "policy 'input jitter'": Routing.paper().draws(True),
        "policy 'leaking jitter'": Routing.huggingface().draws(True),
        "policy 'sample'": Routing(eval_policy="sample").draws(False),
        "order 'random'": Routing(order="random", decoder_order="first come").draws(False),
        "router 'gshard'": Routing(router="gshard", decoder_router="top 1").draws(True),
    }

    assert silent == [None, None, None]
    assert all(said == draws for said, draws in drawing.items())


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_json(name):
    routing = PRESETS[name]()

    assert Routing.from_json(routing.to_json()) == routing
    assert Routing.named(name) == routing


@pytest.mark.parametrize(("scope", "layers", "tokens"), [("layer", "sum", "batch"), ("stack", "concatenated", "sequence")])
def test_a_routing_of_an_older_file_still_means_what_it_meant(scope, layers, tokens):
    older = json.dumps({"name": "old", "pads": "routed", "loss_scope": scope})

    routing = Routing.from_json(older)

    assert (routing.loss_layers, routing.loss_tokens, routing.pads) == (layers, tokens, "routed")
    preset = Routing.from_json('{"name": "huggingface 4.25", "loss_scope": "stack"}')
    assert (preset.train_policy, preset.dropped) == ("leaking jitter", "identity")
    with pytest.raises(ConfigError, match="unknown field"):
        Routing.from_json('{"loss_scope": []}')
    with pytest.raises(ConfigError, match="unknown field"):
        Routing.from_json('{"loss_scope": "everything"}')


def test_changes_behind_a_preset_are_json_or_words():
    routing = Routing.named("paper,capacity=1,order=by gate,decoder_order=first come,jitter=0.5,all_sparse_loss=false")

    assert (routing.capacity, routing.order, routing.jitter, routing.all_sparse_loss) == (1, "by gate", 0.5, False)
    assert routing.name.startswith("paper,capacity=1")
    assert Routing.named("paper,capacity=null,name=mine").name == "mine"
    assert Routing.named("paper,capacity=null").capacity is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("papers", "'papers' is no routing, expected one of paper, mesh-tf, flaxformer"),
        ("", "'' is no routing"),
        ("paper,capacity", "not all of the form field=value"),
        ("paper,size=3", "a Routing has no field 'size'"),
        ("paper,pads=never", "Routing.pads is 'never'"),
        ("paper,jitter=1e999", "jitter is inf"),
        (None, "a routing is None, expected a text"),
        ([], "a routing is [], expected a text"),
        ("paper,capacity=1,capacity=2", "name a field twice"),
        ("paper,capacity=" + "[" * 5000, "Routing.capacity is "),
        ("paper,group_tokens=" + '{"a":' * 985 + "1" + "}" * 985, "group_tokens is "),
    ],
)
def test_a_name_that_is_none_is_refused_in_one_sentence(text, message):
    with pytest.raises(ConfigError) as refusal:
        Routing.named(text)

    assert message in str(refusal.value)


def test_a_change_in_a_long_name_is_still_a_name():
    routing = Routing.named("paper,balance_coef=0.125,z_coef=0.125,logit_z_coef=0.125,min_capacity=3,eval_capacity_factor=2.5")

    assert routing.min_capacity == 3
    assert len(routing.name) <= 80


def test_the_table_has_every_choice_of_every_preset_and_its_source():
    rows = {row["choice"]: row for row in table()}

    assert set(rows) == set(SOURCES) == set(FIELDS) - {"name"}
    assert all(set(row) == {"choice", "source", *ORIGINS} and all(row.values()) for row in rows.values())
    assert set(ORIGINS) == set(PRESETS) - {"huggingface"}
    assert rows["capacity"]["flaxformer"] == "round"
    assert rows["min_capacity"]["huggingface:5.23"] == "-"
    assert rows["balance_coef"]["huggingface:5.23"] == "the Config's"
    assert rows["all_sparse_loss"]["paper"] == "yes"


def test_every_rule_of_eq_3_may_be_asked_for():
    for rule in (*CAPACITIES, "unlimited", 3, None):
        assert Routing(capacity=rule).capacity == rule
