"""The errata museum: each bug that the paper's pseudo-code or a library has had, as a tiny router or layer, written anew.

Not here, because neither a router nor a layer can show it: losses (concatenated layers, f counted after dropping, α left out,
a literal 0), padding that takes slots although it was to be ignored, initial values, whole-model configs, and costs.
An exhibit without a name or a link is a slip of the same kind that no library is known for.
"""

import numpy as np

from switchnp import equations as eq

NOISE = np.random.default_rng(0)


def seats(p_te, C):
    """The right queue for any probabilities."""
    expert_t = eq.top1(p_te)
    return expert_t, eq.slots(expert_t, p_te.shape[1], C)


def routed(p_te, C):
    """The right answer of a router for any probabilities."""
    expert_t, slot_t = seats(p_te, C)
    return p_te, expert_t, eq.gate(p_te, expert_t), slot_t


def right(x_td, wr_de, C):
    return routed(eq.router_probs(x_td, wr_de), C)


def right_layer(x_td, wr_de, wi_edf, wo_efd, C):
    _, expert_t, gate_t, slot_t = right(x_td, wr_de, C)
    return eq.mixture(x_td, expert_t, slot_t, gate_t, wi_edf, wo_efd, C, eq.relu)


def layer_of(router):
    """The right experts behind a wrong router."""

    def layer(x_td, wr_de, wi_edf, wo_efd, C):
        _, expert_t, gate_t, slot_t = router(x_td, wr_de, C)
        answer_td = ask(x_td, expert_t, wi_edf, wo_efd)
        return np.where(slot_t[:, None] >= 0, gate_t[:, None] * answer_td, 0)

    return layer


def ask(x_td, expert_t, wi_edf, wo_efd):
    """What each token's expert says."""
    h_tf = np.maximum(np.einsum("td,tdf->tf", x_td, wi_edf[expert_t]), 0)
    return np.einsum("tf,tfd->td", h_tf, wo_efd[expert_t])


# ---- wrong probabilities ----


def noise_is_added_to_the_logits_always(x_td, wr_de, C):
    """Switch fig. 15; copied by the Keras example and FastMoE's SwitchGate, there in training only."""
    h_te = eq.router_logits(x_td, wr_de)
    return routed(eq.softmax(h_te + NOISE.uniform(0.9, 1.1, h_te.shape)), C)


def the_same_noise_is_added_every_time(x_td, wr_de, C):
    """The same with a seed inside, so that it repeats itself."""
    h_te = eq.router_logits(x_td, wr_de)
    return routed(eq.softmax(h_te + np.random.default_rng(0).uniform(0.9, 1.1, h_te.shape)), C)


def jitter_is_left_on_at_evaluation(x_td, wr_de, C):
    """https://github.com/huggingface/transformers/pull/28077"""
    return right(x_td * NOISE.uniform(0.99, 1.01, x_td.shape), wr_de, C)


def jitter_is_multiplied_in_place(x_td, wr_de, C):
    """https://github.com/huggingface/transformers/issues/33969: the experts then see it too."""
    x_td *= NOISE.uniform(0.99, 1.01, x_td.shape).astype(x_td.dtype)
    return right(x_td, wr_de, C)


def softmax_runs_over_the_tokens(x_td, wr_de, C):
    """A wrong axis."""
    return routed(eq.softmax(eq.router_logits(x_td, wr_de).T).T, C)


def softmax_runs_twice(x_td, wr_de, C):
    """https://github.com/huggingface/transformers/issues/39055: there in the auxiliary loss."""
    return routed(eq.softmax(eq.router_probs(x_td, wr_de)), C)


def softmax_takes_nothing_off(x_td, wr_de, C):
    """exp overflows."""
    exp_te = np.exp(eq.router_logits(x_td, wr_de))
    return routed(exp_te / exp_te.sum(axis=1, keepdims=True), C)


def logits_are_half_precision(x_td, wr_de, C):
    """Against Switch §2.4, selective precision."""
    return routed(eq.softmax((x_td.astype(np.float16) @ wr_de.astype(np.float16)).astype(np.float32)), C)


def the_gate_is_renormalised(x_td, wr_de, C):
    """softmax after top-k, or divided by the sum of the chosen: with k = 1 always 1 (nanoMoE, Mixtral's order)."""
    p_te, expert_t, gate_t, slot_t = right(x_td, wr_de, C)
    return p_te, expert_t, gate_t / gate_t, slot_t


def all_but_the_chosen_are_masked_before_softmax(x_td, wr_de, C):
    """The same seen from inside: p is one-hot."""
    h_te = eq.router_logits(x_td, wr_de)
    chosen_te = eq.top1(h_te)[:, None] == np.arange(h_te.shape[1])
    return routed(eq.softmax(np.where(chosen_te, h_te, -1e30)), C)


def the_gate_is_squared(x_td, wr_de, C):
    """What a router does whose combine tensor carries the gate into dispatch."""
    p_te, expert_t, gate_t, slot_t = right(x_td, wr_de, C)
    return p_te, expert_t, gate_t**2, slot_t


def the_last_of_a_tie_wins(x_td, wr_de, C):
    """An ascending sort whose last is taken."""
    p_te = eq.router_probs(x_td, wr_de)
    expert_t = np.argsort(p_te, axis=1, kind="stable")[:, -1]
    return p_te, expert_t, eq.gate(p_te, expert_t), eq.slots(expert_t, p_te.shape[1], C)


def tokens_and_experts_are_mixed_by_a_reshape(x_td, wr_de, C):
    """https://github.com/huggingface/transformers/issues/33463: a transposed mask reshaped as if it were not."""
    p_te = eq.router_probs(x_td, wr_de)
    mixed_te = (eq.top1(p_te)[:, None] == np.arange(p_te.shape[1])).T.reshape(p_te.shape)
    expert_t = mixed_te.argmax(axis=1)
    return p_te, expert_t, eq.gate(p_te, expert_t), eq.slots(expert_t, p_te.shape[1], C)


# ---- wrong queues ----


def the_cumulative_sum_is_inclusive(x_td, wr_de, C):
    """Switch fig. 15 with the cumsum of NumPy and TensorFlow; copied by the Keras example: C - 1 tokens, slot 0 empty."""
    p_te, expert_t, gate_t, _ = right(x_td, wr_de, C)
    position_te = np.cumsum(expert_t[:, None] == np.arange(p_te.shape[1]), axis=0)
    slot_t = eq.gate(position_te, expert_t)
    return p_te, expert_t, gate_t, np.where(slot_t < C, slot_t, -1)


def the_cumulative_sum_runs_over_a_singleton_axis(x_td, wr_de, C):
    """https://github.com/huggingface/transformers/issues/48293: every token is the first of its queue, none is dropped."""
    p_te, expert_t, gate_t, _ = right(x_td, wr_de, C)
    asks_t1e = (expert_t[:, None] == np.arange(p_te.shape[1]))[:, None, :]
    slot_t = eq.gate(np.cumsum(asks_t1e, axis=1)[:, 0], expert_t) - 1
    return p_te, expert_t, gate_t, np.where(slot_t < C, slot_t, -1)


def capacity_is_ignored(x_td, wr_de, C):
    """https://github.com/deepspeedai/DeepSpeed/issues/1658: top-1 without random token selection."""
    return right(x_td, wr_de, len(x_td))


def capacity_above_the_tokens_crashes(x_td, wr_de, C):
    """https://github.com/deepspeedai/DeepSpeed/pull/5353: the C largest of fewer than C."""
    if len(x_td) < C:
        raise RuntimeError("selected index k out of range")
    return right(x_td, wr_de, C)


def one_too_many_is_kept(x_td, wr_de, C):
    """<= where < was meant."""
    return right(x_td, wr_de, C + 1)


def the_overflow_shares_the_last_slot(x_td, wr_de, C):
    """Positions clamped to C - 1 instead of dropped."""
    p_te, expert_t, gate_t, slot_t = right(x_td, wr_de, len(x_td))
    return p_te, expert_t, gate_t, np.minimum(slot_t, C - 1)


def slots_count_all_experts_together(x_td, wr_de, C):
    """A cumsum over a flattened mask: one queue for all."""
    p_te, expert_t, gate_t, _ = right(x_td, wr_de, C)
    place_t = np.arange(len(x_td))
    return p_te, expert_t, gate_t, np.where(place_t < C, place_t, -1)


def slots_are_counted_in_eight_bits(x_td, wr_de, C):
    """A counter that is too small for a long group."""
    p_te, expert_t, gate_t, _ = right(x_td, wr_de, C)
    slot_t = eq.slots(expert_t, p_te.shape[1], len(x_td)).astype(np.int8)
    return p_te, expert_t, gate_t, np.where(slot_t < C, slot_t, -1)


def tokens_are_dropped_at_random(x_td, wr_de, C):
    """labml's randperm, DeepSpeed's random token selection."""
    p_te, expert_t, gate_t, _ = right(x_td, wr_de, C)
    order_t = NOISE.permutation(len(x_td))
    slot_t = np.empty(len(x_td), np.int64)
    slot_t[order_t] = eq.slots(expert_t[order_t], p_te.shape[1], C)
    return p_te, expert_t, gate_t, slot_t


def the_largest_gate_comes_first(x_td, wr_de, C):
    """Batch-prioritised routing (V-MoE): a choice, not a bug, but another order."""
    p_te, expert_t, gate_t, _ = right(x_td, wr_de, C)
    order_t = np.argsort(-gate_t, kind="stable")
    slot_t = np.empty(len(x_td), np.int64)
    slot_t[order_t] = eq.slots(expert_t[order_t], p_te.shape[1], C)
    return p_te, expert_t, gate_t, slot_t


# ---- wrong layers ----


def dropped_tokens_pass_as_identity_times_gate(x_td, wr_de, wi_edf, wo_efd, C):
    """https://github.com/huggingface/transformers/issues/37017; the same in labml."""
    _, _, gate_t, slot_t = right(x_td, wr_de, C)
    return np.where(slot_t[:, None] < 0, gate_t[:, None] * x_td, right_layer(x_td, wr_de, wi_edf, wo_efd, C))


def the_gate_is_applied_twice(x_td, wr_de, wi_edf, wo_efd, C):
    """The Keras example: a dispatch tensor cast from the gated one carries the gate in, combine applies it again."""
    gate_t1 = eq.router_probs(x_td, wr_de).max(axis=1, keepdims=True)
    return gate_t1 * right_layer(x_td, wr_de, wi_edf, wo_efd, C)


def the_gate_is_forgotten(x_td, wr_de, wi_edf, wo_efd, C):
    """FFN(x) where p FFN(x) was meant: the router gets no gradient."""
    gate_t1 = eq.router_probs(x_td, wr_de).max(axis=1, keepdims=True)
    return right_layer(x_td, wr_de, wi_edf, wo_efd, C) / gate_t1


def the_gate_scales_the_experts_input(x_td, wr_de, wi_edf, wo_efd, C):
    """https://github.com/labmlai/annotated_deep_learning_paper_implementations/issues/95, and renatoviolin's: with bias-free
    ReLU experts it is the same function, so it must pass; with GELU it is another."""
    gate_t1 = eq.router_probs(x_td, wr_de).max(axis=1, keepdims=True)
    _, expert_t, _, slot_t = right(x_td, wr_de, C)
    return np.where(slot_t[:, None] >= 0, ask(gate_t1 * x_td, expert_t, wi_edf, wo_efd), 0)


def answers_come_back_in_the_experts_order(x_td, wr_de, wi_edf, wo_efd, C):
    """renatoviolin's Switch: concatenated expert by expert, never scattered back."""
    y_td = right_layer(x_td, wr_de, wi_edf, wo_efd, C)
    return y_td[np.argsort(eq.top1(eq.router_probs(x_td, wr_de)), kind="stable")]


def combine_sums_over_the_tokens(x_td, wr_de, wi_edf, wo_efd, C):
    """Switch fig. 16: reduce_dims=[tokens] where experts and slots were meant."""
    _, expert_t, gate_t, slot_t = right(x_td, wr_de, C)
    seat_tec = eq.seating(expert_t, slot_t, len(wi_edf), C).astype(x_td.dtype)
    x_ecd = eq.dispatch(x_td, expert_t, slot_t, len(wi_edf), C)
    return np.einsum("tec,t,ecd->ecd", seat_tec, gate_t, eq.expert_ffn(x_ecd, wi_edf, wo_efd, eq.relu))


def idle_experts_are_skipped_and_the_rest_renumbered(x_td, wr_de, wi_edf, wo_efd, C):
    """A loop over the experts that were hit, which counts them instead of naming them."""
    _, expert_t, gate_t, slot_t = right(x_td, wr_de, C)
    rank_t = np.unique(expert_t, return_inverse=True)[1]
    return np.where(slot_t[:, None] >= 0, gate_t[:, None] * ask(x_td, rank_t, wi_edf, wo_efd), 0)


def the_overflow_overwrites_the_last_slot(x_td, wr_de, wi_edf, wo_efd, C):
    """Positions clamped to C - 1: whoever comes last is answered for all of them."""
    _, expert_t, gate_t, slot_t = right(x_td, wr_de, len(x_td))
    seat_t = list(zip(expert_t, np.minimum(slot_t, C - 1), strict=True))
    last = {seat: t for t, seat in enumerate(seat_t)}
    return gate_t[:, None] * ask(x_td, expert_t, wi_edf, wo_efd)[[last[seat] for seat in seat_t]]


def the_residual_is_added_already(x_td, wr_de, wi_edf, wo_efd, C):
    """The block's output where the layer's was asked for."""
    return x_td + right_layer(x_td, wr_de, wi_edf, wo_efd, C)


def every_expert_answers_every_token(x_td, wr_de, wi_edf, wo_efd, C):
    """A soft mixture: no routing at all."""
    h_tef = np.maximum(np.einsum("td,edf->tef", x_td, wi_edf), 0)
    return np.einsum("te,tef,efd->td", eq.router_probs(x_td, wr_de), h_tef, wo_efd)


def all_experts_are_the_first(x_td, wr_de, wi_edf, wo_efd, C):
    """An index that is never used."""
    return right_layer(x_td, wr_de, wi_edf[:1].repeat(len(wi_edf), 0), wo_efd[:1].repeat(len(wo_efd), 0), C)


def experts_noise_their_input_in_place(x_td, wr_de, wi_edf, wo_efd, C):
    """https://github.com/huggingface/transformers/issues/33969, as a layer."""
    x_td *= NOISE.uniform(0.99, 1.01, x_td.shape).astype(x_td.dtype)
    return right_layer(x_td, wr_de, wi_edf, wo_efd, C)


ROUTERS = [
    (noise_is_added_to_the_logits_always, {"E11"}),
    (the_same_noise_is_added_every_time, {"1"}),
    (jitter_is_left_on_at_evaluation, {"E11"}),
    (jitter_is_multiplied_in_place, {"E11", "pure"}),
    (softmax_runs_over_the_tokens, {"1", "1a", "1d", "2d"}),
    (softmax_runs_twice, {"1"}),
    (softmax_takes_nothing_off, {"1e"}),
    (logits_are_half_precision, {"1"}),
    (the_gate_is_renormalised, {"1g"}),
    (all_but_the_chosen_are_masked_before_softmax, {"1", "1g"}),
    (the_gate_is_squared, {"1g"}),
    (the_last_of_a_tie_wins, {"1f"}),
    (tokens_and_experts_are_mixed_by_a_reshape, {"1c", "2d"}),
    (the_cumulative_sum_is_inclusive, {"3a", "3d", "3f"}),
    (the_cumulative_sum_runs_over_a_singleton_axis, {"3a", "3b"}),
    (capacity_is_ignored, {"3a", "3b"}),
    (capacity_above_the_tokens_crashes, {"3d"}),
    (one_too_many_is_kept, {"3a", "3b"}),
    (the_overflow_shares_the_last_slot, {"3a", "3b", "7b"}),
    (slots_count_all_experts_together, {"3a", "3f"}),
    (slots_are_counted_in_eight_bits, {"3b"}),
    (tokens_are_dropped_at_random, {"E11", "order"}),
    (the_largest_gate_comes_first, {"order"}),
]
LAYERS = [
    (dropped_tokens_pass_as_identity_times_gate, {"2f", "2h"}),
    (the_gate_is_applied_twice, {"2b", "2j"}),
    (the_gate_is_forgotten, {"2b", "2c", "2j", "2k"}),
    (answers_come_back_in_the_experts_order, {"2d", "2e"}),
    (combine_sums_over_the_tokens, {"call"}),
    (idle_experts_are_skipped_and_the_rest_renumbered, {"2d"}),
    (the_overflow_overwrites_the_last_slot, {"2g", "3a"}),
    (the_residual_is_added_already, {"2a", "2f", "2h"}),
    (every_expert_answers_every_token, {"2", "2c", "2h", "2l", "3a"}),
    (all_experts_are_the_first, {"2", "2e"}),
    (experts_noise_their_input_in_place, {"E11", "pure"}),
]
LAYERS_OF_ROUTERS = [
    (noise_is_added_to_the_logits_always, {"E11"}),
    (the_gate_is_renormalised, {"2b", "2c", "2j", "2k"}),
    (the_gate_is_squared, {"2b", "2j"}),
    (the_last_of_a_tie_wins, {"2c"}),
    (softmax_takes_nothing_off, {"1e"}),
    (tokens_and_experts_are_mixed_by_a_reshape, {"2d"}),
    (the_cumulative_sum_is_inclusive, {"3a", "3d"}),
    (the_cumulative_sum_runs_over_a_singleton_axis, {"3a", "3b"}),
    (capacity_is_ignored, {"3a", "3b"}),
    (one_too_many_is_kept, {"2h", "3a", "3b"}),
    (tokens_are_dropped_at_random, {"E11"}),
    (the_largest_gate_comes_first, {"order"}),
]
