"""What training makes small: the router losses in every scope that implementations have, and the total."""

from typing import NamedTuple

import numpy as np

from .routers import ROUTERS

__all__ = ["RouterLosses", "router_losses", "stack_loss", "total_loss"]

_SHARE_POWER = {"counted": 0, "left out": 0, "zeroed": 2, "weighted": 1}


class RouterLosses(NamedTuple):
    """Before their coefficients: one number a Switch layer, or a single one where layers are concatenated."""

    balances: list
    zs: list


def router_losses(ops, routing, switches, groups):
    """The RouterLosses of the arrays of a stack's Switch layers.

    Source: Switch, eq. 4, "for each Switch layer"; transformers 5.23, one product over a stack's layers (concatenated);
    flaxformer, a mean over groups; mesh-tf, each group weighted by its share of real tokens.
    """
    if not switches or len(groups.real_t) == 0:
        return RouterLosses([], [])
    units = [switches] if routing.loss_layers == "concatenated" else [[a] for a in switches]
    scopes = {"batch": [slice(None)], "group": groups.members, "sequence": groups.sentences}[routing.loss_tokens]
    scopes = [scope for scope in scopes if _counts(routing, groups.real_t[scope])]
    if not scopes:
        return RouterLosses([0.0 for _ in units], [0.0 for _ in units])
    balances = [np.mean([_balance_loss(ops, routing, layers, groups.real_t, scope) for scope in scopes]) for layers in units]
    return RouterLosses(balances, [_z_loss(ops, routing, layers, groups.real_t) for layers in units])


def _balance_loss(ops, routing, layers, real_t, scope):
    """The load-balancing loss of some tokens of these layers; a router with several choices says how they count."""
    counted_t = real_t[scope]
    share = counted_t.mean()
    if routing.loss_pads in ("counted", "weighted"):
        counted_t = np.ones_like(counted_t)
    if not counted_t.any():
        return 0.0
    p_te = np.concatenate([a.p_te[scope][counted_t] for a in layers])
    expert_tn = np.concatenate([_counted_at(routing, a)[scope][counted_t] for a in layers])
    weights = ROUTERS[routing.router].counts(expert_tn.shape[1])
    losses = [weight * ops.load_balance(p_te, expert_tn[:, n]) for n, weight in enumerate(weights) if weight]
    return float(sum(losses) * share ** _SHARE_POWER[routing.loss_pads])


def stack_loss(routing, losses):
    """One number for a stack's layers."""
    if not losses:
        return 0.0
    return float(np.mean(losses) if routing.loss_layers == "mean" else np.sum(losses))


def total_loss(config, routing, cross_entropy, logit_z, encoder, decoder):
    """The cross-entropy plus the other losses, each times its coefficient. A mean over layers runs over both stacks.

    Source: Switch, §2.2 (added to the total loss); transformers 5.23; T5X with flaxformer.
    """
    balance_coef = config.router_aux_loss_coef if routing.balance_coef is None else routing.balance_coef
    z_coef = config.router_z_loss_coef if routing.z_coef is None else routing.z_coef
    balance = stack_loss(routing, encoder.balances + decoder.balances)
    z = stack_loss(routing, encoder.zs + decoder.zs)
    return cross_entropy + routing.logit_z_coef * logit_z + balance_coef * balance + z_coef * z


def _counts(routing, real_t):
    """Is there a token in this scope that the loss looks at?"""
    return real_t.any() if routing.loss_pads == "left out" else len(real_t) > 0


def _z_loss(ops, routing, layers, real_t):
    if not ROUTERS[routing.router].listens:
        return 0.0
    h_te = np.concatenate([a.h_te for a in layers])
    real_t = np.concatenate([real_t for _ in layers])
    if routing.loss_pads == "counted":
        return float(ops.router_z(h_te))
    if routing.loss_pads == "zeroed":
        return float(ops.router_z(np.where(real_t[:, None], h_te, h_te.dtype.type(0))))
    return float(ops.router_z(h_te[real_t])) if real_t.any() else 0.0


def _counted_at(routing, a):
    """The experts at which the loss counts a token: transformers 4.25 to 4.57 see a dropped one at expert 0."""
    if "expert_tn" in a:
        return a.expert_tn
    expert_t = a.expert_t if routing.dropped_counts == "choice" else np.where(a.slot_t < 0, 0, a.expert_t)
    return expert_t[:, None]
