"""What the equations of a Switch layer, of embedding and of the head ask for, on packed matrices."""

import numpy as np

from ..kernels.experts import sorted_by_expert
from ..kernels.jit import jit
from . import blocks, pool
from .elementary import ACTIVATIONS, dot, log_total
from .instructions import BLOCK, INT8, address_of, keep
from .rooms import operand_room, own_rooms, room

__all__ = ["embed", "gated_mixture", "head", "log_softmax", "mixture", "router_logits", "unembed"]


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


def router_logits(x_td, wr_de, br_e=None):
    """See equations.router_logits. Sums run in lanes over d; a token's do not depend on who is routed beside it."""
    h_te = _dots(np.ascontiguousarray(x_td), np.ascontiguousarray(wr_de.T))
    return h_te if br_e is None else h_te + br_e


def log_softmax(h_te):
    """See equations.log_softmax. Registers at a time."""
    return _log_softmax(np.ascontiguousarray(h_te, np.float32))


def logprobs(logits_bv, word_b):
    """The logarithm of the probability of one word of each row."""
    return _logprobs(np.ascontiguousarray(logits_bv, np.float32), np.asarray(word_b, np.int64))


@jit()
def _log_softmax(h_te):
    T, E = h_te.shape
    y_te = np.empty_like(h_te)
    line, nought = np.empty(E + BLOCK, np.float32), np.zeros(E + BLOCK, np.float32)
    for t in range(T):
        level = _level(h_te[t], line, nought)
        for e in range(E):
            y_te[t, e] = h_te[t, e] - level
    return y_te


@jit()
def _logprobs(logits_bv, word_b):
    B, V = logits_bv.shape
    logprob_b = np.empty(B, np.float32)
    line, nought = np.empty(V + BLOCK, np.float32), np.zeros(V + BLOCK, np.float32)
    for b in range(B):
        logprob_b[b] = logits_bv[b, word_b[b]] - _level(logits_bv[b], line, nought)
    return logprob_b


@jit()
def _level(h_e, line, nought):
    """log sum e^h; NaN where it is none, as for h that are not numbers, infinite, or all -infinity."""
    sound, some = True, False
    for e in range(len(h_e)):
        line[e] = h_e[e]
        sound &= h_e[e] < np.inf
        some |= h_e[e] > -np.inf
    level = log_total(address_of(line), address_of(nought), len(h_e))
    keep(line)
    keep(nought)
    return level if sound and some else np.float32(np.nan)


@jit()
def _dots(x_td, w_ed):
    h_te = np.empty((len(x_td), len(w_ed)), np.float32)
    for t in range(len(x_td)):
        for e in range(len(w_ed)):
            h_te[t, e] = dot(x_td[t], w_ed[e])
    return h_te


@own_rooms()
def _head(x_td, factor, table_vd):
    T, V = len(x_td), len(table_vd.array)
    logits_tv = np.empty((T, V), np.float32)
    x_td = np.ascontiguousarray(x_td * np.float32(factor))
    bytes_ = operand_room(T, x_td.shape[1])
    pool.POOL.run(table_vd.crew(T), blocks.head, table_vd.kind, x_td, table_vd.weight, logits_tv, bytes_)
    return logits_tv


@own_rooms()
def _mixed(x_td, expert_t, slot_t, gate_t, wi_edf, wi_linear_edf, wo_efd, gated, activation):
    token_i, start_e = sorted_by_expert(expert_t, slot_t, len(wi_edf.array))
    count, D, F = len(token_i), x_td.shape[1], wi_edf.shape[2]
    code = ACTIVATIONS.index(activation.__name__)
    experts = blocks.Experts(wi_edf.weight, wi_linear_edf.weight, wo_efd.weight, gated, code)
    rooms = room("n", count, D), room("h", count, F), room("g", count if gated else 0, F), room("y", count, D)
    y_td, gate_i = np.zeros_like(x_td), gate_t[token_i].astype(np.float32)
    inputs = wi_edf.kind, np.ascontiguousarray(x_td), token_i, start_e, gate_i, experts
    pool.POOL.run(wi_edf.crew(count), blocks.mixture, *inputs, *rooms, y_td, operand_room(count, max(D, F)))
    return y_td
