"""What training makes small: the router losses in every scope that implementations have, and the total."""

from typing import NamedTuple

import numpy as np

from .routers import ROUTERS

__all__ = ["RouterLosses", "coefficients", "router_losses", "router_losses_vjp", "stack_loss", "total_loss"]

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
    units, scopes = _units(routing, switches), _scopes(routing, groups)
    balances = [_balance_loss(ops, routing, layers, *scopes) for layers in units]
    return RouterLosses(balances, [_z_loss(ops, routing, layers, groups.real_t) for layers in units])


def router_losses_vjp(ops, routing, switches, groups, dbalance, dz):
    """What every one of the `router_losses` says of each layer's probabilities and logits: a list of (dp_te, dh_te).

    dbalance, dz    how much each balance loss and each z-loss counts
    """
    gradients = [(np.zeros_like(a.p_te), np.zeros_like(a.h_te)) for a in switches]
    if switches and len(groups.real_t):
        scopes = _scopes(routing, groups)
        for layers, own in zip(_units(routing, switches), _units(routing, gradients), strict=True):
            _balance_loss_vjp(ops, routing, layers, *scopes, dbalance, [dp_te for dp_te, _ in own])
            _z_loss_vjp(ops, routing, layers, groups.real_t, dz, [dh_te for _, dh_te in own])
    return gradients


def _units(routing, layers):
    """Which layers have a loss together."""
    return [layers] if routing.loss_layers == "concatenated" else [[a] for a in layers]


def _scopes(routing, groups):
    """Which tokens have a balance loss together, -1 for those that none counts, and how much each such loss counts."""
    scopes = {"batch": [slice(None)], "group": groups.members, "sequence": groups.sentences}[routing.loss_tokens]
    scope_t, shares, silent = np.full(len(groups.real_t), -1), [], 0
    for scope in scopes:
        real_t = groups.real_t[scope]
        counted_t = np.ones_like(real_t) if routing.loss_pads in ("counted", "weighted") else real_t
        if counted_t.any():
            scope_t[scope] = np.where(counted_t, len(shares), -1)
            shares.append(real_t.mean() ** _SHARE_POWER[routing.loss_pads])
        elif len(real_t) and routing.loss_pads == "zeroed":
            silent += 1
    return scope_t, np.array(shares) / max(len(shares) + silent, 1)


def _balance_loss(ops, routing, layers, scope_t, share_g):
    """The load-balancing loss of these layers, a mean over scopes; a router with several choices says how they count."""
    if not len(share_g):
        return 0.0
    p_te, scopes = np.concatenate([a.p_te for a in layers]), (np.tile(scope_t, len(layers)), len(share_g))
    losses = [weight * ops.load_balances(p_te, expert_t, *scopes) for expert_t, weight in _asked(routing, layers)]
    return float(sum(np.sum(loss_g * share_g) for loss_g in losses))


def _balance_loss_vjp(ops, routing, layers, scope_t, share_g, dbalance, gradients):
    """Add to each layer's dp_te."""
    p_te, scopes = np.concatenate([a.p_te for a in layers]), (np.tile(scope_t, len(layers)), len(share_g))
    for expert_t, weight in _asked(routing, layers) if len(share_g) and dbalance else ():
        (dp_te,) = ops.load_balances_vjp((dbalance * weight * share_g).astype(p_te.dtype), None, p_te, expert_t, *scopes)
        for own_te, part_te in zip(gradients, np.split(dp_te, len(layers)), strict=True):
            own_te += part_te


def _asked(routing, layers):
    """Each choice's experts that the balance loss counts, and how much it counts them."""
    expert_tn = np.concatenate([_counted_at(routing, a) for a in layers])
    weights = ROUTERS[routing.router].counts(expert_tn.shape[1])
    return [(np.ascontiguousarray(expert_tn[:, n]), weight) for n, weight in enumerate(weights) if weight]


def stack_loss(routing, losses):
    """One number for a stack's layers."""
    if not losses:
        return 0.0
    return float(np.mean(losses) if routing.loss_layers == "mean" else np.sum(losses))


def total_loss(config, routing, cross_entropy, logit_z, encoder, decoder):
    """The cross-entropy plus the other losses, each times its coefficient. A mean over layers runs over both stacks.

    Source: Switch, §2.2 (added to the total loss); transformers 5.23; T5X with flaxformer.
    """
    balance_coef, z_coef = coefficients(config, routing)
    balance = stack_loss(routing, encoder.balances + decoder.balances)
    z = stack_loss(routing, encoder.zs + decoder.zs)
    return cross_entropy + routing.logit_z_coef * logit_z + balance_coef * balance + z_coef * z


def coefficients(config, routing, losses=1):
    """How much a balance loss and a z-loss count, where there are so many of each."""
    balance_coef = config.router_aux_loss_coef if routing.balance_coef is None else routing.balance_coef
    z_coef = config.router_z_loss_coef if routing.z_coef is None else routing.z_coef
    share = max(losses, 1) if routing.loss_layers == "mean" else 1
    return balance_coef / share, z_coef / share


def _z_loss(ops, routing, layers, real_t):
    h_te = _heard(routing, layers, real_t)
    return 0.0 if h_te is None else float(ops.router_z(h_te))


def _z_loss_vjp(ops, routing, layers, real_t, dz, gradients):
    """Add to each layer's dh_te."""
    h_te = _heard(routing, layers, real_t) if dz else None
    if h_te is None:
        return
    (dh_te,) = ops.router_z_vjp(dz, None, h_te)
    for own_te, part_te in zip(gradients, np.split(dh_te, len(layers)), strict=True):
        if routing.loss_pads == "counted":
            own_te += part_te
        else:
            own_te[real_t] += part_te[real_t] if routing.loss_pads == "zeroed" else part_te


def _heard(routing, layers, real_t):
    """The logits that the z-loss is of; None where there are none."""
    if not ROUTERS[routing.router].listens:
        return None
    if routing.loss_pads == "counted":
        return np.concatenate([a.h_te for a in layers])
    if routing.loss_pads == "zeroed":
        return np.concatenate([np.where(real_t[:, None], a.h_te, a.h_te.dtype.type(0)) for a in layers])
    return np.concatenate([a.h_te[real_t] for a in layers]) if real_t.any() else None


def _counted_at(routing, a):
    """The experts at which the loss counts a token: transformers 4.25 to 4.57 see a dropped one at expert 0."""
    if "expert_tn" in a:
        return a.expert_tn
    expert_t = a.expert_t if routing.dropped_counts == "choice" else np.where(a.slot_t < 0, 0, a.expert_t)
    return expert_t[:, None]
