"""What flaxformer's and mesh-tf's routers and layers computed: every case, on every engine.

Choices, queues and drops are identical; numbers are within 1e-5, layers within 3e-5, as the fixtures' README has it.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
from references import TESTS
from small import small_config

from switchnp import Routing, Tree, engine, equations, kernels, layers, network, objective, routers
from switchnp.engine.matrices import packed
from switchnp.network import Row
from switchnp.routers import Groups, Mode

FOLDER = TESTS / "parity/flaxformer"
ENGINES = {"equations": equations, "kernels": kernels, "fast": engine}


def cases(name):
    """Settings of every case of a fixture."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def arrays_of(name, case):
    """The arrays of one case by name."""
    with np.load(FOLDER / f"{name}.npz") as file:
        return {key.removeprefix(f"{case}/"): file[key] for key in file.files if key.startswith(f"{case}/")}


class Recorded:
    """A generator that draws what the original code drew."""

    def __init__(self, draws):
        self.draws = draws

    def uniform(self, low=0.0, high=1.0, size=None):
        return self.draws.reshape(size)


def rows(arrays):
    """The tokens of all groups end to end, and their Groups; padding is said by name or is a vector of zeros."""
    G, T, D = arrays["inputs"].shape
    real = arrays.get("nonpadding", arrays.get("importance", np.ones((G, T)))) > 0
    members = [slice(g * T, (g + 1) * T) for g in range(G)]
    return arrays["inputs"].reshape(G * T, D), Groups(members, members, np.zeros(G * T, np.int64), real.ravel())


def routed(ops, routing, arrays, settings, noise):
    """Everything that a router answers for these groups, as a Switch layer asks it."""
    x_td, groups = rows(arrays)
    mode = Mode(settings.get("train", True), Recorded(noise) if noise is not None else None)
    config = small_config(d_model=x_td.shape[1], num_experts=settings["experts"])
    a = Tree(n_td=x_td)
    a.n_td, a.heard_td = layers._explored(ops, config, routing, layers.entering(routing, x_td, groups), mode)
    layers._ask(ops, config, routing, Tree(wr_de=arrays["kernel"]), a, mode)
    seats = routers.route(ops, routing, a, groups, lambda T: settings["capacity"], mode)
    for name, it_tn in seats._asdict().items():
        setattr(a, name, it_tn)
    return a, groups


def seated(a, C, weight_tn=None):
    """The dispatch tensor (T, E, C), or with weights the combine tensor."""
    T, E = a.p_te.shape
    tensor_tec = np.zeros((T, E, C), np.float32)
    for n in range(a.expert_tn.shape[1]):
        kept_t = np.flatnonzero(a.slot_tn[:, n] >= 0)
        weight_t = 1 if weight_tn is None else weight_tn[kept_t, n]
        tensor_tec[kept_t, a.expert_tn[kept_t, n], a.slot_tn[kept_t, n]] += weight_t
    return tensor_tec


def flaxformer_routing(settings):
    """The Routing that a case of router.npz or moe_layer.npz asks for."""
    changes = {"pads": "zeroed"}
    if settings.get("ignore_pad"):
        changes |= {"pads": "unseated", "loss_pads": "zeroed"}
    if settings.get("k", 1) > 1:
        changes |= {"router": "top k", "choices": settings["k"], "decoder_router": "top 1"}
    if settings.get("kind") == "experts_choose_masked":
        changes |= {"router": "expert choice", "decoder_router": "top 1"}
    if settings.get("bpr"):
        changes |= {"order": "by gate", "decoder_order": "first come"}
    if settings.get("jitter") and settings.get("apply_jitter", True):
        changes |= {"train_policy": "input jitter", "jitter": settings["jitter"]}
    return replace(Routing.flaxformer(), group="sequence", group_tokens=None, **changes)


ROUTER = cases("router")
QUIRKS = {"scatter_top1_pad_ignored", "expert_choice_pad_ignored"}  # probabilities zeroed before the choice


@pytest.mark.parametrize("ops", ENGINES.values(), ids=ENGINES)
@pytest.mark.parametrize("case", sorted(set(ROUTER) - QUIRKS))
def test_a_router_of_flaxformer_seats_and_weighs_every_token_alike(case, ops):
    settings, arrays = ROUTER[case], arrays_of("router", case)
    routing, C = flaxformer_routing(settings), settings["capacity"]

    a, groups = routed(ops, routing, arrays, settings, arrays.get("noise"))
    balance = objective.router_losses(ops, routing, [a], groups).balances

    assert_same_router(a, arrays, groups, balance, routing, C, settings.get("dtype"))
    z = objective.router_losses(ops, routing, [a], groups).zs
    np.testing.assert_allclose(z, [arrays["z_loss"]], rtol=1e-5, atol=1e-5)


def assert_same_router(a, arrays, groups, balance, routing, C, dtype=None):
    shape = arrays["probs"].shape
    tolerance = 4e-3 if dtype == "bfloat16" else 1e-5
    np.testing.assert_allclose(a.h_te.reshape(shape), arrays["logits"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(a.p_te.reshape(shape), arrays["probs"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(balance, [arrays["aux_loss"]], rtol=1e-5, atol=1e-6)
    if "dispatch_mask" in arrays:
        np.testing.assert_array_equal(seated(a, C).reshape(arrays["dispatch_mask"].shape), arrays["dispatch_mask"])
        combined = seated(a, C, a.gate_tn).reshape(arrays["combine_array"].shape)
        np.testing.assert_allclose(combined, arrays["combine_array"], rtol=0, atol=tolerance)
    else:
        assert_same_indices(a, arrays, C)


def assert_same_indices(a, arrays, C):
    """The scatter router names expert and slot; what lies beyond the capacity is cut later."""
    expert_tn, slot_tn = arrays["dispatch_indices"].reshape(-1, a.expert_tn.shape[1], 2).transpose(2, 0, 1)
    np.testing.assert_array_equal(a.expert_tn, expert_tn)
    np.testing.assert_array_equal(a.slot_tn, np.where(slot_tn < C, slot_tn, -1))
    weights = np.where(a.slot_tn >= 0, a.gate_tn, 0)
    np.testing.assert_allclose(weights, arrays["combine_weights"].reshape(weights.shape), rtol=0, atol=1e-5)


@pytest.mark.parametrize("ops", ENGINES.values(), ids=ENGINES)
@pytest.mark.parametrize("case", sorted(QUIRKS))
def test_padding_whose_probabilities_are_zeroed_first_still_takes_slots(case, ops):
    settings, arrays = ROUTER[case], arrays_of("router", case)
    x_td, groups = rows(arrays)
    p_te = ops.router_probs(x_td, arrays["kernel"]) * groups.real_t[:, None]
    routing = replace(flaxformer_routing(settings), pads="routed", loss_pads="counted")
    a = Tree(h_te=np.where(groups.real_t[:, None], ops.router_logits(x_td, arrays["kernel"]), 0), p_te=p_te)

    seats = routers.route(ops, routing, a, groups, lambda T: settings["capacity"], Mode())
    for name, it_tn in seats._asdict().items():
        setattr(a, name, it_tn)

    losses = objective.router_losses(ops, routing, [a], groups)
    real_te = groups.real_t[:, None] * np.ones(p_te.shape)
    arrays["probs"] = arrays["probs"] * real_te.reshape(arrays["probs"].shape)
    arrays["logits"] = arrays["logits"] * real_te.reshape(arrays["probs"].shape)
    assert_same_router(a, arrays, groups, losses.balances, routing, settings["capacity"])
    np.testing.assert_allclose(losses.zs, [arrays["z_loss"]], rtol=1e-5)


def plain_switch(ops, routing, inputs, groups, p, training, noise, gated):
    """layers.switch on tokens as they are: a norm that divides by 10^7 and multiplies by it again changes nothing."""
    x_td, activation = inputs.reshape(-1, inputs.shape[-1]), "gelu_new" if gated else "relu"
    config = small_config(
        d_model=x_td.shape[1], num_experts=p.wr_de.shape[1], layer_norm_epsilon=1e14, dense_act_fn=activation, is_gated_act=gated
    )
    p.norm_d = np.full(x_td.shape[1], 1e7, np.float32)
    mode = Mode(training, Recorded(noise) if noise is not None else None)
    p = packed(p, None, threads=2) if ops is engine else p
    _, a = layers.switch(ops, config, routing, p, x_td, groups, mode=mode)
    if "expert_t" in a:
        a.expert_tn, a.gate_tn, a.slot_tn = a.expert_t[:, None], a.gate_t[:, None], a.slot_t[:, None]
    return config, a


def padded_row(inputs, real):
    """A batch that keeps its padding, as one Row."""
    B, S, _ = inputs.shape
    return Row(np.zeros(B * S, np.int64), np.repeat(np.arange(B), S), np.tile(np.arange(S), B), real.ravel(), B)


def experts_of(arrays, router, expert):
    """Weights under our names."""
    names = {"wi": "wi_edf", "wi_0": "wi0_edf", "wi_1": "wi1_edf", "wo": "wo_efd"}
    leaves = {
        ours: arrays[f"param/{expert}{name}/kernel"] for name, ours in names.items() if f"param/{expert}{name}/kernel" in arrays
    }
    return Tree(wr_de=arrays[f"param/{router}/kernel"], **leaves)


LAYERS = cases("moe_layer")


@pytest.mark.parametrize("ops", ENGINES.values(), ids=ENGINES)
@pytest.mark.parametrize("case", sorted(LAYERS))
def test_a_layer_of_flaxformer_answers_and_costs_alike(case, ops):
    settings, arrays = LAYERS[case], arrays_of("moe_layer", case)
    inputs = arrays["inputs"]
    real = np.abs(inputs).sum(axis=-1) > 0
    routing = replace(
        flaxformer_routing(settings),
        group="flaxformer",
        group_tokens=settings["max_group_size"],
        train_capacity_factor=settings["train_cf"],
        eval_capacity_factor=settings["eval_cf"],
        min_capacity=settings["min_capacity"],
    )
    gated = "activations" in settings

    config = small_config(num_experts=settings["experts"])
    groups = network.groups_of(ops, config, routing, padded_row(inputs, real))
    p = experts_of(arrays, "router/router_weights/w", "expert/")
    config, a = plain_switch(ops, routing, inputs, groups, p, settings["train"], arrays.get("noise"), gated)

    assert [len(a.p_te[group]) for group in groups.members] == [settings["group_size"]] * settings["num_groups"]
    room = layers.capacity(ops, config, routing, settings["group_size"], Mode(settings["train"]))
    assert room == min(settings["expert_capacity"], settings["group_size"])
    np.testing.assert_allclose(a.y_td.reshape(inputs.shape), arrays["outputs"], rtol=0, atol=3e-5)
    losses = objective.router_losses(ops, routing, [a], groups)
    np.testing.assert_allclose(losses.balances, [arrays["metric_auxiliary_loss"]], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(losses.zs, [arrays["metric_router_z_loss"]], rtol=1e-5, atol=1e-6)
    order = np.concatenate([np.arange(len(a.p_te))[group] for group in groups.members])
    np.testing.assert_allclose(a.p_te[order].reshape(arrays["probs"].shape), arrays["probs"], rtol=0, atol=1e-5)
    if "dispatch_mask" in arrays:
        C = settings["expert_capacity"]
        np.testing.assert_array_equal(seated(a, C)[order].reshape(arrays["dispatch_mask"].shape), arrays["dispatch_mask"])


def test_groups_padding_and_capacity_are_those_of_flaxformer():
    for row in cases("groups_capacity"):
        multiple = row["experts"] * row["expert_replicas"]

        B, S = equations.filled_batch(row["batch"], row["seq"], multiple)
        G = equations.group_count(B * S, row["max_group_size"], multiple)
        C = equations.expert_capacity(B * S // G, row["experts"], row["capacity_factor"], "round", row["min_expert_capacity"])

        assert (row["padded_batch"], row["padded_seq"]) == (B, S), row
        assert (row["num_groups"], row["group_size"]) == (G, B * S // G), row
        assert row["expert_capacity"] == C, row


MESH = cases("mesh_tf")
POLICIES = {"argmax": "argmax", "sample": "sample", "input_dropout": "input dropout", "input_jitter": "input jitter"}
GATES = {
    "switch": {},
    "ntlb": {"router": "no token left behind", "decoder_router": "top 1"},
    "switch_max": {"order": "by gate", "decoder_order": "first come"},
}


def mesh_routing(settings):
    """The Routing that a case of mesh_tf.npz asks for."""
    given = settings.get("hp", {})
    changes = dict(GATES[settings.get("gate", "switch")])
    train, evaluation = given.get("moe_switch_policy_train", "input_jitter"), given.get("moe_switch_policy_eval", "input_jitter")
    changes |= {
        "train_policy": POLICIES[train],
        "eval_policy": "sample" if evaluation == "sample" else "argmax",
        "jitter": given.get("moe_switch_jitter", 0.01),
        "temperature": given.get("moe_switch_temperature", 1.0),
        "choices": given.get("moe_ntlb_top_k", 4),
        "min_capacity": given.get("moe_min_expert_capacity", 4),
        "train_capacity_factor": given.get("moe_capacity_factor_train", 1.25),
        "eval_capacity_factor": given.get("moe_capacity_factor_eval", 2.0),
        "z_coef": 0.01 * given.get("moe_z_loss", 0.0) if settings["train"] else 0.0,
    }
    return replace(Routing.mesh_tf(given.get("moe_group_size", 1024)), **changes)


def mesh_loss(ops, routing, a, groups):
    losses = objective.router_losses(ops, routing, [a], groups)
    return routing.balance_coef * losses.balances[0] + routing.z_coef * losses.zs[0]


@pytest.mark.parametrize("ops", ENGINES.values(), ids=ENGINES)
@pytest.mark.parametrize("case", sorted(case for case in MESH if not case.startswith("layer")))
def test_a_router_of_mesh_tf_seats_weighs_and_costs_alike(case, ops):
    settings, arrays = MESH[case], arrays_of("mesh_tf", case)
    routing = mesh_routing(settings)

    a, groups = routed(ops, routing, arrays, settings, arrays.get("noise0"))

    C = settings["capacity"]
    np.testing.assert_array_equal(seated(a, C).reshape(arrays["dispatch"].shape), arrays["dispatch"])
    combined = seated(a, C, a.gate_tn).reshape(arrays["combine"].shape)
    np.testing.assert_allclose(combined, arrays["combine"], rtol=0, atol=1e-5)
    expected = arrays["loss"] * 0.01 * settings.get("microbatches", 1)
    np.testing.assert_allclose(mesh_loss(ops, routing, a, groups), expected, rtol=1e-5)


@pytest.mark.parametrize("ops", ENGINES.values(), ids=ENGINES)
@pytest.mark.parametrize("case", sorted(case for case in MESH if case.startswith("layer")))
def test_a_layer_of_mesh_tf_answers_and_costs_alike(case, ops):
    settings, arrays = MESH[case], arrays_of("mesh_tf", case)
    routing, inputs = mesh_routing(settings), arrays["inputs"]
    gated = "activation" in settings
    p = experts_of(arrays, "switch_gating", "")

    config = small_config(num_experts=settings["experts"])
    groups = network.groups_of(ops, config, routing, padded_row(inputs, arrays["nonpadding"] > 0))
    config, a = plain_switch(ops, routing, inputs, groups, p, settings["train"], arrays.get("noise0"), gated)

    assert len(groups.members) == settings["groups"]
    assert layers.capacity(ops, config, routing, settings["group_size"], Mode(settings["train"])) == settings["capacity"]
    np.testing.assert_allclose(a.y_td.reshape(inputs.shape), arrays["outputs"], rtol=0, atol=3e-5)
    np.testing.assert_allclose(mesh_loss(ops, routing, a, groups), arrays["weighted_loss"], rtol=1e-5)
