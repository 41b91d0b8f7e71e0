"""Switch, eq. 2: what the layer answers."""

from dataclasses import replace

import numpy as np

from .. import equations as eq
from .case import MARGIN
from .property import BOTH, Property, answered, best_gate, choice, entering, expert_answer, probs, same

__all__ = ["PROPERTIES"]

PROPERTIES: list[Property] = []
claim = entering(PROPERTIES)


@claim("2", "y = p_i(x) E_i(x), written out token by token", "layer")
def _follows_the_sum(layer, case, rng):
    expected_td = best_gate(case)[:, None] * expert_answer(case)
    same("y_td", layer(case.roomy())["y_td"], expected_td, "p_i(x) E_i(x) is")


@claim("2a", "a layer of one expert is the dense layer", "layer")
def _is_dense_with_one_expert(layer, case, rng):
    one = replace(case.roomy(), wr_de=case.wr_de[:, :1], wi_edf=case.wi_edf[:1], wo_efd=case.wo_efd[:1])
    same("y_td", layer(one)["y_td"], expert_answer(one), "FFN(x) is")


@claim("2b", "identical experts answer p_max FFN(x), not FFN(x)", "layer")
def _scales_identical_experts(layer, case, rng):
    one = {name: np.repeat(getattr(case, name)[:1], case.E, axis=0) for name in ("wi_edf", "wo_efd")}
    alike = replace(case.roomy(), **one)
    same("y_td", layer(alike)["y_td"], best_gate(case)[:, None] * expert_answer(alike), "p_max FFN(x) is")


@claim("2c", "a router of zeros gives FFN_0(x) / N", "layer")
def _asks_expert_0_by_default(layer, case, rng):
    deaf = replace(case.roomy(), wr_de=0 * case.wr_de)
    same("y_td", layer(deaf)["y_td"], expert_answer(deaf) / case.E, "FFN_0(x) / N is")


@claim("2d", "with room for all, a token depends on no other: not on order, neighbours or padding", *BOTH)
def _ignores_other_tokens(subject, case, rng):
    whole = {name: it for name, it in subject(case.roomy()).items() if name != "slot_t"}
    order_t, pads, everything = rng.permutation(case.T), int(rng.integers(1, 4)), slice(None)
    some_t = np.sort(order_t[: rng.integers(1, case.T + 1)])
    padded_td = np.pad(case.x_td, [(pads, 0), (0, 0)])
    for words, x_td, rows, tokens in [
        ("in the order before", case.x_td[order_t], everything, order_t),
        ("among its neighbours", case.x_td[some_t], everything, some_t),
        ("without padding in front", padded_td, slice(pads, None), everything),
    ]:
        answer = subject(replace(case, x_td=x_td, C=len(x_td)))
        for name, it in whole.items():
            same(name, answer[name][rows], it[tokens], f"{words} it was")


@claim("2e", "the experts' numbers are only names", *BOTH)
def _ignores_names(subject, case, rng):
    order_e = rng.permutation(case.E)
    expected = subject(case)
    if subject.name == "router":
        expected |= {"p_te": expected["p_te"][:, order_e], "expert_t": np.argsort(order_e)[expected["expert_t"]]}
    renamed = replace(case, wr_de=case.wr_de[:, order_e], wi_edf=case.wi_edf[order_e], wo_efd=case.wo_efd[order_e])
    for name, it in subject(renamed).items():
        same(name, it, expected[name], "before the experts were renumbered it was, but for its name,")


@claim("2f", "a dropped token adds exactly 0 to the residual", "layer")
def _adds_nothing_for_the_dropped(layer, case, rng):
    y_td, kept_t = answered(layer, case.echo(1))
    same("y_td", y_td, np.where(kept_t[:, None], y_td, 0), "no expert answered, so it should be", tolerance=0)


@claim("2g", "a kept token's answer does not depend on the capacity", "layer")
def _answers_alike_at_any_capacity(layer, case, rng):
    echo = case.echo(1)
    y_td, kept_t = answered(layer, echo)
    roomy_td = layer(echo.roomy())["y_td"]
    same("y_td", y_td, np.where(kept_t[:, None], roomy_td, y_td), f"it was kept, and with C = {case.T} it is")


@claim("2h", "without room nobody is kept, and the layer adds exactly 0", *BOTH)
def _is_silent_without_room(subject, case, rng):
    for name, it in subject(replace(case, C=0)).items():
        if name in ("slot_t", "y_td"):
            same(name, it, np.full_like(it, -1 if name == "slot_t" else 0), "with C = 0 it should be", tolerance=0)


@claim("2i", "dispatch, experts and combine are a gather, an expert and a scatter", "layer")
def _gathers_and_scatters(layer, case, rng):
    y_td, kept_t = answered(layer, case.echo(1))
    alone_td = best_gate(case)[:, None] * expert_answer(case.echo(1))
    same("y_td", y_td, np.where(kept_t[:, None], alone_td, 0), "asking its expert alone gives")


@claim("2j", "the gate scales the expert's answer once (before or after ReLU experts is the same)", "layer")
def _applies_the_gate_once(layer, case, rng):
    echo = case.echo(1).roomy()
    answer_td = expert_answer(echo)
    scale_t = np.sum(layer(echo)["y_td"] * answer_td, axis=1) / np.sum(answer_td**2, axis=1)
    same("scale_t", scale_t, best_gate(case), "the gate is")


@claim("2k", "every logit moves the gate, also one of an expert that was not asked: dp_i/dh_j = p_i (delta_ij - p_j)", "layer")
def _lets_the_router_learn(layer, case, rng):
    roomy, along_de = case.roomy(), rng.normal(size=case.wr_de.shape)
    dh_te = case.x_td @ along_de
    step = MARGIN / (8 * np.abs(dh_te).max())
    up_td, down_td = (layer(replace(roomy, wr_de=case.wr_de + sign * step * along_de))["y_td"] for sign in (1, -1))
    chosen_t = eq.gate(dh_te, choice(case))
    dgate_t = best_gate(case) * (chosen_t - np.sum(probs(case) * dh_te, axis=1))
    expected_td = dgate_t[:, None] * expert_answer(case)
    same("dy_td", (up_td - down_td) / (2 * step), expected_td, "p_i (v_i - sum_j p_j v_j) E_i(x) is", tolerance=1e-2)


@claim("2l", "an expert that nobody asks moves nothing, so it gets no gradient", "layer")
def _ignores_idle_experts(layer, case, rng):
    idle_e = np.bincount(choice(case), minlength=case.E) == 0
    other = {
        name: np.where(idle_e[:, None, None], 5 - 3 * it, it) for name, it in vars(case).items() if name in ("wi_edf", "wo_efd")
    }
    y_td = layer(case)["y_td"]
    same("y_td", layer(replace(case, **other))["y_td"], y_td, "before experts that nobody asks were changed it was")


@claim("2m", "a dropped token moves nothing, so it teaches no expert and no router", "layer")
def _learns_nothing_from_the_dropped(layer, case, rng):
    y_td, kept_t = answered(layer, case.echo(1))
    fainter = replace(case.echo(1), x_td=np.where(kept_t[:, None], case.x_td, case.x_td / 2))
    same("y_td", layer(fainter)["y_td"], y_td, "before dropped tokens were halved it was")
