"""Switch, eq. 1 and the gate of eq. 2: who is asked, and how strongly."""

from dataclasses import replace

import numpy as np

from .. import equations as eq
from .property import BOTH, Property, best_gate, choice, entering, probs, same

__all__ = ["PROPERTIES"]

PROPERTIES: list[Property] = []
claim = entering(PROPERTIES)


@claim("1", "p = softmax(x W_r)", "router")
def _follows_the_formula(router, case, rng):
    same("p_te", router(case)["p_te"], probs(case), "softmax(x W_r) is")


@claim("1a", "a token's probabilities are not negative and sum to 1", "router")
def _shares_out_one(router, case, rng):
    p_te = router(case)["p_te"]
    same("p_te", p_te, np.maximum(p_te, 0), "no probability is below", tolerance=0)
    same("sum_t", p_te.sum(axis=1), np.ones(case.T), "a token's probabilities sum to")


@claim("1b", "a constant added to all logits of a token changes nothing", "router")
def _ignores_shifts(router, case, rng):
    p_te = router(case)["p_te"]
    shifted = replace(case, wr_de=case.wr_de + 3 * rng.normal(size=(len(case.wr_de), 1)))
    same("p_te", router(shifted)["p_te"], p_te, "before a constant was added to the token's logits it was")


@claim("1c", "the expert is the argmax of p and of the logits, with a gate from 1/N to 1", "router")
def _chooses_the_loudest(router, case, rng):
    p_te, expert_t, gate_t, _ = router(case).values()
    same("expert_t", expert_t, p_te.argmax(axis=1), "argmax p is")
    same("expert_t", expert_t, choice(case), "argmax x W_r is")
    same("gate_t", gate_t, np.clip(gate_t, 1 / case.E, 1), "a gate from 1/N to 1 is at the nearest")


@claim("1d", "a single expert gets everything: p = 1", "router")
def _gives_a_single_expert_everything(router, case, rng):
    same("p_te", router(replace(case, wr_de=case.wr_de[:, :1]))["p_te"], np.ones((case.T, 1)), "with one expert it is")


@claim("1e", "logits of 10,000 do not overflow", *BOTH)
def _survives_loud_logits(subject, case, rng):
    loudest = np.abs(eq.router_logits(case.x_td, case.wr_de)).max()
    answer = subject(replace(case, wr_de=case.wr_de * (1e4 / loudest), C=case.T))
    if "p_te" in answer:
        same("sum_t", answer["p_te"].sum(axis=1), np.ones(case.T), "a token's probabilities sum to")


@claim("1f", "a router of zeros gives p = 1/N, and the tie to expert 0", "router")
def _breaks_ties_low(router, case, rng):
    p_te, expert_t, _, _ = router(replace(case, wr_de=0 * case.wr_de)).values()
    same("p_te", p_te, np.full(p_te.shape, 1 / case.E), "all logits being equal it should be")
    same("expert_t", expert_t, np.zeros(case.T, int), "the lowest number of a tie is")


@claim("1g", "the gate is the probability itself, not renormalised over the chosen", "router")
def _gates_by_the_probability(router, case, rng):
    p_te, expert_t, gate_t, _ = router(case).values()
    same("gate_t", gate_t, eq.gate(p_te, expert_t), "p of the chosen expert is")
    if case.E > 1 and (gate_t == 1).all():
        same("gate_t", gate_t, best_gate(case), "softmax(x W_r) over all experts is")
