"""What each expert answers."""

import numpy as np

from .capacity import combine, combine_vjp, dispatch, dispatch_vjp
from .feedforward import ffn, ffn_vjp, gated_ffn, gated_ffn_vjp

__all__ = [
    "expert_ffn",
    "expert_ffn_vjp",
    "gated_expert_ffn",
    "gated_expert_ffn_vjp",
    "gated_mixture",
    "gated_mixture_vjp",
    "mixture",
    "mixture_vjp",
]


def expert_ffn(x_ecd, wi_edf, wo_efd, activation, keep_ecf=None):
    """Every expert is a dense layer with weights of its own, and answers its own queue.

        E_i(x) = act(x W_in,i) W_out,i

    Source: Switch, §2.1.
    """
    experts = zip(x_ecd, wi_edf, wo_efd, _each(keep_ecf, x_ecd), strict=True)
    return np.stack([ffn(x_cd, wi_df, wo_fd, activation, keep_cf) for x_cd, wi_df, wo_fd, keep_cf in experts])


def expert_ffn_vjp(dy_ecd, y_ecd, x_ecd, wi_edf, wo_efd, activation, keep_ecf=None):
    """ffn_vjp for each expert."""
    experts = zip(dy_ecd, x_ecd, wi_edf, wo_efd, _each(keep_ecf, x_ecd), strict=True)
    mirrored = (ffn_vjp(dy, None, x, wi, wo, activation, keep) for dy, x, wi, wo, keep in experts)
    return tuple(map(np.stack, zip(*mirrored, strict=True)))


def gated_expert_ffn(x_ecd, wi0_edf, wi1_edf, wo_efd, activation, keep_ecf=None):
    """The same for gated experts, as Switch-XXL has them.

        E_i(x) = (act(x W_0,i) * (x W_1,i)) W_out,i

    Source: Shazeer 2020, eq. 6; Switch, table 9.
    """
    experts = zip(x_ecd, wi0_edf, wi1_edf, wo_efd, _each(keep_ecf, x_ecd), strict=True)
    return np.stack([gated_ffn(x, wi0, wi1, wo, activation, keep) for x, wi0, wi1, wo, keep in experts])


def gated_expert_ffn_vjp(dy_ecd, y_ecd, x_ecd, wi0_edf, wi1_edf, wo_efd, activation, keep_ecf=None):
    """gated_ffn_vjp for each expert."""
    experts = zip(dy_ecd, x_ecd, wi0_edf, wi1_edf, wo_efd, _each(keep_ecf, x_ecd), strict=True)
    mirrored = (gated_ffn_vjp(dy, None, x, wi0, wi1, wo, activation, keep) for dy, x, wi0, wi1, wo, keep in experts)
    return tuple(map(np.stack, zip(*mirrored, strict=True)))


def mixture(x_td, expert_t, slot_t, gate_t, wi_edf, wo_efd, C, activation, keep_tf=None):
    """The Switch layer's answer: out to the experts, and home again.

        y = p_i(x) E_i(x),    i = argmax p(x);    0 where token x was dropped

    Source: Switch, eq. 2 with k = 1.
    """
    seats = expert_t, slot_t
    x_ecd, keep_ecf = _queued(x_td, seats, len(wi_edf), C), _queued(keep_tf, seats, len(wi_edf), C)
    return combine(expert_ffn(x_ecd, wi_edf, wo_efd, activation, keep_ecf), *seats, gate_t)


def mixture_vjp(dy_td, y_td, x_td, expert_t, slot_t, gate_t, wi_edf, wo_efd, C, activation, keep_tf=None):
    """Home again backwards, through the experts, and out backwards; an expert without tokens has a gradient of exactly 0."""
    seats = expert_t, slot_t
    x_ecd, keep_ecf = _queued(x_td, seats, len(wi_edf), C), _queued(keep_tf, seats, len(wi_edf), C)
    y_ecd = expert_ffn(x_ecd, wi_edf, wo_efd, activation, keep_ecf)
    dy_ecd, dgate_t = combine_vjp(dy_td, y_td, y_ecd, *seats, gate_t)
    dx_ecd, dwi_edf, dwo_efd = expert_ffn_vjp(dy_ecd, y_ecd, x_ecd, wi_edf, wo_efd, activation, keep_ecf)
    (dx_td,) = dispatch_vjp(dx_ecd, x_ecd, x_td, *seats, len(wi_edf), C)
    return dx_td, dgate_t, dwi_edf, dwo_efd


def gated_mixture(x_td, expert_t, slot_t, gate_t, wi0_edf, wi1_edf, wo_efd, C, activation, keep_tf=None):
    """The same with gated experts.

    Source: Switch, eq. 2 with k = 1.
    """
    seats = expert_t, slot_t
    x_ecd, keep_ecf = _queued(x_td, seats, len(wi0_edf), C), _queued(keep_tf, seats, len(wi0_edf), C)
    return combine(gated_expert_ffn(x_ecd, wi0_edf, wi1_edf, wo_efd, activation, keep_ecf), *seats, gate_t)


def gated_mixture_vjp(dy_td, y_td, x_td, expert_t, slot_t, gate_t, wi0_edf, wi1_edf, wo_efd, C, activation, keep_tf=None):
    """The same with gated experts."""
    seats, weights = (expert_t, slot_t), (wi0_edf, wi1_edf, wo_efd)
    x_ecd, keep_ecf = _queued(x_td, seats, len(wi0_edf), C), _queued(keep_tf, seats, len(wi0_edf), C)
    y_ecd = gated_expert_ffn(x_ecd, *weights, activation, keep_ecf)
    dy_ecd, dgate_t = combine_vjp(dy_td, y_td, y_ecd, *seats, gate_t)
    dx_ecd, *dweights = gated_expert_ffn_vjp(dy_ecd, y_ecd, x_ecd, *weights, activation, keep_ecf)
    (dx_td,) = dispatch_vjp(dx_ecd, x_ecd, x_td, *seats, len(wi0_edf), C)
    return dx_td, dgate_t, *dweights


def _each(keep_ecf, x_ecd):
    return [None] * len(x_ecd) if keep_ecf is None else keep_ecf


def _queued(x_td, seats, E, C):
    return None if x_td is None else dispatch(x_td, *seats, E, C)
