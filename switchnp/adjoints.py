"""Layers walked backwards: from the gradient of what a layer answered to those of what went in and of its weights.

As for equations, `layer_vjp` stands to `layer` as a mirror: the gradient of its answer, the arrays `a` that it named on its way,
and its own arguments. Gradients of weights are a Tree of the weights' shape.
"""

from functools import reduce

import numpy as np

from .config import ACTIVATIONS
from .layers import EVALUATION, entering, routed
from .routers import ROUTERS, columns
from .tree import Tree

__all__ = ["cross_attention_vjp", "dense_vjp", "self_attention_vjp", "switch_vjp"]


def self_attention_vjp(ops, dx_td, a, config, p, x_td, sight):
    """Gradients of x_td, of the weights, and of each sentence's bias_hts."""
    dq_thk, dk_shk, dv_shk, dp, dbiases = _look_vjp(ops, dx_td, a, p, sight)
    dn_td, dp.wq_dhk = ops.split_heads_vjp(dq_thk, a.q_thk, a.n_td, p.wq_dhk)
    for d_shk, y_shk, name in ((dk_shk, a.k_shk, "wk_dhk"), (dv_shk, a.v_shk, "wv_dhk")):
        more_td, dw_dhk = ops.split_heads_vjp(d_shk, y_shk, a.n_td, p[name])
        dn_td = dn_td + more_td
        setattr(dp, name, dw_dhk)
    return _through_the_norm(ops, config, dx_td, dn_td, a, p, dp, x_td), dp, dbiases


def cross_attention_vjp(ops, dx_td, a, config, p, x_td, memory_sd, sight):
    """Gradients of x_td, of memory_sd, and of the weights."""
    dq_thk, dk_shk, dv_shk, dp, _ = _look_vjp(ops, dx_td, a, p, sight)
    dn_td, dp.wq_dhk = ops.split_heads_vjp(dq_thk, a.q_thk, a.n_td, p.wq_dhk)
    dmemory_sd, dp.wk_dhk = ops.split_heads_vjp(dk_shk, a.k_shk, memory_sd, p.wk_dhk)
    more_sd, dp.wv_dhk = ops.split_heads_vjp(dv_shk, a.v_shk, memory_sd, p.wv_dhk)
    return _through_the_norm(ops, config, dx_td, dn_td, a, p, dp, x_td), dmemory_sd + more_sd, dp


def dense_vjp(ops, dx_td, a, config, p, x_td):
    """Gradients of x_td and of the weights."""
    dy_td, activation, keep = _forgetting(dx_td, a), getattr(ops, ACTIVATIONS[config.dense_act_fn]), _hidden(a)
    names = ("wi0_df", "wi1_df", "wo_fd") if config.is_gated_act else ("wi_df", "wo_fd")
    mirror = ops.gated_ffn_vjp if config.is_gated_act else ops.ffn_vjp
    dn_td, *dweights = mirror(dy_td, a.y_td, a.n_td, *(p[name] for name in names), activation, *keep)
    dp = Tree(**dict(zip(names, dweights, strict=True)))
    return _through_the_norm(ops, config, dx_td, dn_td, a, p, dp, x_td), dp


def switch_vjp(ops, dx_td, dp_te, dh_te, a, config, routing, p, x_td, groups, mode=EVALUATION):
    """Gradients of x_td and of the weights.

    The router hears by the gates of what was kept, and by its own losses: dp_te and dh_te are the gradients of those.
    """
    dy_td = _with_added(_forgetting(dx_td, a), groups)
    dn_td, dgate_tn, dp = _answers_vjp(ops, dy_td, a, config, routing, p, groups)
    dp_te = dp_te + ROUTERS[routing.router].gates_vjp(ops, a, columns(a, "expert"), dgate_tn)
    dh_te = dh_te + ops.softmax_vjp(dp_te, a.p_te, a.h_te)[0]
    br_e = p.br_e if config.router_bias and routing.router != "bias" else None
    dheard_td, dp.wr_de, dbr_e = ops.router_logits_vjp(dh_te, a.h_te, a.heard_td, p.wr_de, br_e)
    if config.router_bias:
        dp.br_e = np.zeros_like(p.br_e) if dbr_e is None else dbr_e
    dn_td = _entering_vjp(ops, dn_td, dheard_td, a, config, routing, p, x_td, groups, mode)
    return _through_the_norm(ops, config, dx_td, dn_td, a, p, dp, x_td), dp


def _look_vjp(ops, dx_td, a, p, sight):
    """Back through merged heads and attention, to queries, keys, values and biases."""
    do_thk, dwo_hkd = ops.merge_heads_vjp(_forgetting(dx_td, a), a.y_td, a.o_thk, p.wo_hkd)
    keeps = (a.keeps,) if "keeps" in a else ()
    *dqkv, dbiases = ops.attend_within_vjp(do_thk, a.o_thk, a.q_thk, a.k_shk, a.v_shk, sight.biases, *keeps)
    return *dqkv, Tree(wo_hkd=dwo_hkd), dbiases


def _through_the_norm(ops, config, dx_td, dn_td, a, p, dp, x_td):
    """Past the layer, and through its norm; the norm's own gradient is put with the others."""
    through_td, dp.norm_d = ops.rms_norm_vjp(dn_td, None, x_td, p.norm_d, config.layer_norm_epsilon)
    return dx_td + through_td


def _forgetting(dx_td, a):
    return dx_td * a.keep_td if "keep_td" in a else dx_td


def _hidden(a):
    return (a.keep_tf,) if "keep_tf" in a else ()


def _with_added(dy_td, groups):
    """Nothing is asked of the zeros that were added."""
    return np.concatenate([dy_td, np.zeros((groups.added, dy_td.shape[1]), dy_td.dtype)]) if groups.added else dy_td


def _answers_vjp(ops, dy_td, a, config, routing, p, groups):
    """Gradients of what the experts saw, of each gate, and of the experts' weights."""
    expert_tn, gate_tn, row_slot_tn = (columns(a, name) for name in ("expert", "gate", "row_slot"))
    dn_td, dgate_tn = np.zeros_like(a.n_td), np.zeros_like(gate_tn)
    if routing.dropped == "identity":
        passed = a.y_td, a.n_td, np.where(routed(routing, groups), a.slot_t, 0), a.gate_t
        dy_td, dn_td, dgate_tn[:, 0] = ops.pass_dropped_vjp(dy_td, a.y_td, *passed)
    names = ("wi0_edf", "wi1_edf", "wo_efd") if config.is_gated_act else ("wi_edf", "wo_efd")
    mirror, row_C = (ops.gated_mixture_vjp if config.is_gated_act else ops.mixture_vjp), int(row_slot_tn.max(initial=-1)) + 1
    experts, activation = tuple(p[name] for name in names), getattr(ops, ACTIVATIONS[config.dense_act_fn])
    choices = [tuple(map(np.ascontiguousarray, choice)) for choice in zip(expert_tn.T, row_slot_tn.T, gate_tn.T, strict=True)]
    answers = [mirror(dy_td, None, a.n_td, *choice, *experts, row_C, activation, *_hidden(a)) for choice in choices]
    more_td, dgate_t, *dweights = zip(*answers, strict=True)
    total = {name: reduce(np.add, dw) for name, dw in zip(names, dweights, strict=True)}
    return reduce(np.add, more_td, dn_td), dgate_tn + np.stack(dgate_t, axis=1), Tree(**total)


def _entering_vjp(ops, dn_td, dheard_td, a, config, routing, p, x_td, groups, mode):
    """From what experts saw and what the router heard back to the normed stream, without what was added or zeroed."""
    policy = routing.train_policy if mode.training else "argmax"
    if policy == "leaking jitter":
        clean_td = entering(routing, ops.rms_norm(x_td, p.norm_d, config.layer_norm_epsilon), groups)
        (dn_td,) = ops.input_jitter_vjp(dn_td + dheard_td, a.heard_td, clean_td, None, None)
    elif policy == "input jitter":
        dn_td = dn_td + ops.input_jitter_vjp(dheard_td, a.heard_td, a.n_td, None, None)[0]
    elif policy == "input dropout":
        dn_td = dn_td + ops.input_dropout_vjp(dheard_td, a.heard_td, a.n_td, routing.input_dropout, None)[0]
    else:
        dn_td = dn_td + dheard_td
    dn_td = dn_td[: len(x_td)]
    real_t = groups.real_t[: len(x_td)]
    return dn_td if routing.pads != "zeroed" or real_t.all() else np.where(real_t[:, None], dn_td, 0)
