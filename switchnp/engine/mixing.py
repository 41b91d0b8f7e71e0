"""What the equations of a Switch layer, of embedding and of the head ask for, on packed matrices."""

import numpy as np

from ..kernels.experts import sorted_by_expert
from . import blocks, pool
from .elementary import ACTIVATIONS
from .instructions import INT8
from .operands import room_for

__all__ = ["embed", "gated_mixture", "head", "mixture", "unembed"]


def embed(ids_t, table_vd):
    """See equations.embed. Rows are widened as they are looked up."""
    x_td = table_vd.array[ids_t]
    if table_vd.kind == INT8:
        return x_td.astype(np.float32) * table_vd.scale[ids_t, None]
    return x_td.astype(np.float32)


def unembed(x_td, embedding_vd):
    """See equations.unembed. One program."""
    return _head(x_td, x_td.shape[1] ** -0.5, embedding_vd)


def head(x_td, head_vd):
    """See equations.head. One program."""
    return _head(x_td, 1.0, head_vd)


def mixture(x_td, expert_t, slot_t, gate_t, wi_edf, wo_efd, C, activation):
    """See equations.mixture. One program for all experts."""
    return _mixed(x_td, expert_t, slot_t, gate_t, wi_edf, wi_edf, wo_efd, False, activation)


def gated_mixture(x_td, expert_t, slot_t, gate_t, wi0_edf, wi1_edf, wo_efd, C, activation):
    """See equations.gated_mixture. One program for all experts."""
    return _mixed(x_td, expert_t, slot_t, gate_t, wi0_edf, wi1_edf, wo_efd, True, activation)


def _head(x_td, factor, table_vd):
    T, V = len(x_td), len(table_vd.array)
    logits_tv, room = np.empty((T, V), np.float32), room_of(T, x_td.shape[1])
    x_td = np.ascontiguousarray(x_td * np.float32(factor))
    pool.POOL.run(table_vd.threads, blocks.head, table_vd.kind, x_td, table_vd.weight, logits_tv, room.ctypes.data)
    return logits_tv


def room_of(T, K):
    """Bytes for an Operand."""
    return np.empty(room_for(T, K), np.uint8)


def _mixed(x_td, expert_t, slot_t, gate_t, wi_edf, wi_linear_edf, wo_efd, gated, activation):
    token_i, start_e = sorted_by_expert(expert_t, slot_t, len(wi_edf.array))
    I, D, F = len(token_i), x_td.shape[1], wi_edf.shape[2]
    n_id, y_id = np.empty((I, D), np.float32), np.empty((I, D), np.float32)
    h_if, g_if = np.empty((I, F), np.float32), np.empty((I if gated else 0, F), np.float32)
    y_td = np.zeros_like(x_td)
    experts = wi_edf.weight, wi_linear_edf.weight, wo_efd.weight
    room = room_of(I, max(D, F))
    rooms = n_id, h_if, g_if, y_id, y_td, room.ctypes.data
    gate_i = gate_t[token_i].astype(np.float32)
    code = ACTIVATIONS.index(activation.__name__)
    inputs = wi_edf.kind, np.ascontiguousarray(x_td), token_i, start_e, gate_i
    pool.POOL.run(wi_edf.threads, blocks.mixture, *inputs, *experts, gated, code, *rooms)
    return y_td
