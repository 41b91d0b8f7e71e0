"""What each expert answers."""

import numpy as np

from .capacity import combine, dispatch
from .feedforward import ffn, gated_ffn

__all__ = ["expert_ffn", "gated_expert_ffn", "gated_mixture", "mixture"]


def expert_ffn(x_ecd, wi_edf, wo_efd, activation):
    """Every expert is a dense layer with weights of its own, and answers its own queue.

        E_i(x) = act(x W_in,i) W_out,i

    Source: Switch, §2.1.
    """
    return np.stack([ffn(x_cd, wi_df, wo_fd, activation) for x_cd, wi_df, wo_fd in zip(x_ecd, wi_edf, wo_efd, strict=True)])


def gated_expert_ffn(x_ecd, wi0_edf, wi1_edf, wo_efd, activation):
    """The same for gated experts, as Switch-XXL has them.

        E_i(x) = (act(x W_0,i) * (x W_1,i)) W_out,i

    Source: Shazeer 2020, eq. 6; Switch, table 9.
    """
    experts = zip(x_ecd, wi0_edf, wi1_edf, wo_efd, strict=True)
    return np.stack([gated_ffn(x_cd, wi0_df, wi1_df, wo_fd, activation) for x_cd, wi0_df, wi1_df, wo_fd in experts])


def mixture(x_td, expert_t, slot_t, gate_t, wi_edf, wo_efd, C, activation):
    """The Switch layer's answer: out to the experts, and home again.

        y = p_i(x) E_i(x),    i = argmax p(x);    0 where token x was dropped

    Source: Switch, eq. 2 with k = 1.
    """
    x_ecd = dispatch(x_td, expert_t, slot_t, len(wi_edf), C)
    return combine(expert_ffn(x_ecd, wi_edf, wo_efd, activation), expert_t, slot_t, gate_t)


def gated_mixture(x_td, expert_t, slot_t, gate_t, wi0_edf, wi1_edf, wo_efd, C, activation):
    """The same with gated experts.

    Source: Switch, eq. 2 with k = 1.
    """
    x_ecd = dispatch(x_td, expert_t, slot_t, len(wi0_edf), C)
    return combine(gated_expert_ffn(x_ecd, wi0_edf, wi1_edf, wo_efd, activation), expert_t, slot_t, gate_t)
