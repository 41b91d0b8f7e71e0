"""Switch eq. 2, the layer's answer, and its gradients by central differences."""

import numpy as np
from draw import arguments, array, seeds, sizes, slope
from hypothesis import given
from hypothesis import strategies as st

from switchnp import equations as eq

small = st.integers(1, 4)


def answer(h_te, x_td, wi_edf, wo_efd, C, activation):
    """Equations 1, 3, 7 and 2 in a row, from the router's logits on."""
    p_te = eq.softmax(h_te)
    expert_t = eq.top1(p_te)
    slot_t = eq.slots(expert_t, len(wi_edf), C)
    return eq.mixture(x_td, expert_t, slot_t, eq.gate(p_te, expert_t), wi_edf, wo_efd, C, activation)


def layer(x_td, wr_de, wi_edf, wo_efd, C, activation):
    """The same from the tokens on."""
    return answer(eq.router_logits(x_td, wr_de), x_td, wi_edf, wo_efd, C, activation)


def roomy(size, seed):
    """A layer with room for all."""
    drawn = arguments(layer, size, seed)
    return drawn | {"C": len(drawn["x_td"])}


def experts_of(wi_edf, wo_efd, activation):
    """Each expert as a dense layer."""
    return [lambda x_td, e=e: eq.ffn(x_td, wi_edf[e], wo_efd[e], activation) for e in range(len(wi_edf))]


def token_by_token(x_td, expert_t, slot_t, gate_t, experts):
    """Equation 2 without queues: each kept token asks its expert alone."""
    y_td = np.zeros_like(x_td)
    for t in np.flatnonzero(slot_t >= 0):
        y_td[t] = gate_t[t] * experts[expert_t[t]](x_td[t : t + 1])[0]
    return y_td


def decided(h_te):
    """The same choices with a margin that no step below 0.05 can cross."""
    return h_te + 0.1 * (h_te.argmax(axis=1)[:, None] == np.arange(h_te.shape[1]))


@given(sizes, seeds)
def test_one_expert_is_the_dense_layer(size, seed):
    """2a: bit for bit."""
    x_td, wr_de, wi_edf, wo_efd, C, activation = roomy(size, seed).values()

    y_td = layer(x_td, wr_de[:, :1], wi_edf[:1], wo_efd[:1], C, activation)

    np.testing.assert_array_equal(y_td, eq.ffn(x_td, wi_edf[0], wo_efd[0], activation))


@given(sizes, seeds)
def test_identical_experts_answer_the_dense_layer_times_the_gate(size, seed):
    """2b: y = p_max FFN(x), not FFN(x)."""
    x_td, wr_de, wi_edf, wo_efd, C, activation = roomy(size, seed).values()
    wi_edf[:], wo_efd[:] = wi_edf[0], wo_efd[0]

    y_td = layer(x_td, wr_de, wi_edf, wo_efd, C, activation)

    gate_t1 = eq.router_probs(x_td, wr_de).max(axis=1, keepdims=True)
    expected_td = gate_t1 * eq.ffn(x_td, wi_edf[0], wo_efd[0], activation)
    np.testing.assert_allclose(y_td, expected_td, rtol=1e-12, atol=1e-12)


@given(sizes, seeds)
def test_a_router_of_zeros_gives_an_nth_of_expert_0(size, seed):
    """2c: y = FFN_0(x) / N."""
    x_td, wr_de, wi_edf, wo_efd, C, activation = roomy(size, seed).values()

    y_td = layer(x_td, 0 * wr_de, wi_edf, wo_efd, C, activation)

    expected_td = eq.ffn(x_td, wi_edf[0], wo_efd[0], activation) / len(wi_edf)
    np.testing.assert_allclose(y_td, expected_td, rtol=1e-12, atol=1e-12)


@given(sizes, seeds)
def test_with_room_for_all_the_order_of_tokens_does_not_matter(size, seed):
    """2d: permutation equivariant."""
    drawn = roomy(size, seed)
    order_t = np.random.default_rng(seed).permutation(len(drawn["x_td"]))

    shuffled_td = layer(**drawn | {"x_td": drawn["x_td"][order_t]})

    np.testing.assert_allclose(shuffled_td, layer(**drawn)[order_t], rtol=1e-12, atol=1e-12)


@given(sizes, seeds, st.data())
def test_with_room_for_all_a_token_does_not_see_its_neighbours(size, seed, data):
    """2d: independent of batch mates."""
    drawn = roomy(size, seed)
    T = data.draw(st.integers(1, len(drawn["x_td"])))

    alone_td = layer(**drawn | {"x_td": drawn["x_td"][:T]})

    np.testing.assert_allclose(alone_td, layer(**drawn)[:T], rtol=1e-12, atol=1e-12)


@given(sizes, seeds, sizes)
def test_with_room_for_all_padding_does_not_matter(size, seed, pads):
    """2d: not even in front."""
    drawn = roomy(size, seed)
    x_td = drawn["x_td"]
    padded_td = np.concatenate([np.zeros((pads, x_td.shape[1])), x_td])

    y_td = layer(**drawn | {"x_td": padded_td, "C": len(padded_td)})

    np.testing.assert_allclose(y_td[pads:], layer(**drawn), rtol=1e-12, atol=1e-12)


@given(sizes, seeds)
def test_the_experts_numbers_are_only_names(size, seed):
    """2e: permute the router's columns and the experts together, and y is the same, capacity and all."""
    drawn = arguments(layer, size, seed)
    x_td, wr_de, wi_edf, wo_efd, C, activation = drawn.values()
    order_e = np.random.default_rng(seed).permutation(len(wi_edf))

    y_td = layer(x_td, wr_de[:, order_e], wi_edf[order_e], wo_efd[order_e], C, activation)

    np.testing.assert_allclose(y_td, layer(**drawn), rtol=1e-12, atol=1e-12)


@given(sizes, seeds)
def test_a_dropped_token_passes_by_the_residual_alone(size, seed):
    """2f: its row of y is exactly 0, so the block's x + y is exactly x."""
    drawn = arguments(eq.mixture, size, seed)
    x_td, slot_t = drawn["x_td"], drawn["slot_t"]

    y_td = eq.mixture(**drawn)

    assert (y_td[slot_t < 0] == 0).all()
    np.testing.assert_array_equal((x_td + y_td)[slot_t < 0], x_td[slot_t < 0])


@given(sizes, seeds)
def test_a_kept_tokens_answer_does_not_depend_on_the_capacity(size, seed):
    """2g: y_C[kept] = y_inf[kept]."""
    drawn = arguments(layer, size, seed)
    expert_t = eq.top1(eq.router_probs(drawn["x_td"], drawn["wr_de"]))
    kept_t = eq.slots(expert_t, len(drawn["wi_edf"]), drawn["C"]) >= 0

    y_td, unlimited_td = layer(**drawn), layer(**drawn | {"C": len(expert_t)})

    np.testing.assert_allclose(y_td[kept_t], unlimited_td[kept_t], rtol=1e-12, atol=1e-12)


@given(sizes, seeds)
def test_without_room_the_layer_answers_nothing(size, seed):
    """2h: capacity 0 makes y exactly 0."""
    drawn = roomy(size, seed) | {"C": 0}

    y_td = layer(**drawn)

    np.testing.assert_array_equal(y_td, np.zeros_like(drawn["x_td"]))


@given(sizes, seeds)
def test_queues_answer_as_if_each_token_asked_alone(size, seed):
    """2i: the masked einsum is a gather, an expert and a scatter."""
    drawn = arguments(eq.mixture, size, seed) | {"keep_tf": None}
    x_td, expert_t, slot_t, gate_t, wi_edf, wo_efd, _, activation, _ = drawn.values()

    y_td = eq.mixture(**drawn)

    expected_td = token_by_token(x_td, expert_t, slot_t, gate_t, experts_of(wi_edf, wo_efd, activation))
    np.testing.assert_allclose(y_td, expected_td, rtol=1e-12, atol=1e-12)


@given(sizes, seeds)
def test_queues_of_gated_experts_answer_as_if_each_token_asked_alone(size, seed):
    """2i: the same with Switch-XXL's experts."""
    drawn = arguments(eq.gated_mixture, size, seed) | {"keep_tf": None}
    x_td, expert_t, slot_t, gate_t, wi0_edf, wi1_edf, wo_efd, _, activation, _ = drawn.values()
    weights = list(zip(wi0_edf, wi1_edf, wo_efd, strict=True))

    y_td = eq.gated_mixture(**drawn)

    experts = [lambda x_td, w=w: eq.gated_ffn(x_td, *w, activation) for w in weights]
    expected_td = token_by_token(x_td, expert_t, slot_t, gate_t, experts)
    np.testing.assert_allclose(y_td, expected_td, rtol=1e-12, atol=1e-12)


@given(sizes, seeds)
def test_each_expert_answers_its_own_queue(size, seed):
    """2: E_i is a dense layer with weights of its own."""
    drawn = arguments(eq.expert_ffn, size, seed) | {"keep_ecf": None}
    x_ecd, wi_edf, wo_efd, activation, _ = drawn.values()

    y_ecd = eq.expert_ffn(**drawn)

    for x_cd, y_cd, expert in zip(x_ecd, y_ecd, experts_of(wi_edf, wo_efd, activation), strict=True):
        np.testing.assert_allclose(y_cd, expert(x_cd), rtol=1e-12, atol=1e-12)


@given(sizes, seeds)
def test_the_gate_scales_the_answer_once(size, seed):
    """2j: a gate twice as large makes exactly twice the answer; through a GELU on the input, or squared, it would not."""
    drawn = arguments(eq.mixture, size, seed) | {"activation": eq.gelu}

    y_td = eq.mixture(**drawn)
    doubled_td = eq.mixture(**drawn | {"gate_t": 2 * drawn["gate_t"]})

    np.testing.assert_array_equal(doubled_td, 2 * y_td)


@given(sizes, seeds)
def test_a_gate_of_nothing_still_shows_the_expert_the_clean_token(size, seed):
    """2j: y / p is E(x) however small p is, so the expert's input was not scaled."""
    drawn = arguments(eq.mixture, size, seed) | {"activation": eq.gelu}
    T = len(drawn["x_td"])

    whole_td = eq.mixture(**drawn | {"gate_t": np.ones(T)})
    faint_td = eq.mixture(**drawn | {"gate_t": np.full(T, 2.0**-20)})

    np.testing.assert_array_equal(faint_td * 2**20, whole_td)


@given(small, seeds)
def test_every_logit_feels_the_chosen_experts_answer(size, seed):
    """2k: dL/dh_j = <g, E_i(x)> p_i (delta_ij - p_j), also where expert j was never asked; rows sum to 0."""
    h_te, x_td, wi_edf, wo_efd, _, activation = arguments(answer, size, seed).values()
    h_te, T = decided(h_te), len(x_td)
    g_td = np.random.default_rng(seed).normal(size=x_td.shape)

    dh_te = slope(lambda h_te: np.sum(g_td * answer(h_te, x_td, wi_edf, wo_efd, T, activation)), h_te)

    p_te, expert_t = eq.softmax(h_te), h_te.argmax(axis=1)
    experts = experts_of(wi_edf, wo_efd, activation)
    useful_t = [g_td[t] @ experts[e](x_td[t : t + 1])[0] for t, e in enumerate(expert_t)]
    chosen_te = expert_t[:, None] == np.arange(len(experts))
    expected_te = np.reshape(useful_t, (-1, 1)) * p_te.max(axis=1, keepdims=True) * (chosen_te - p_te)
    np.testing.assert_allclose(dh_te, expected_te, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(dh_te.sum(axis=1), 0, atol=1e-6)


@given(small, seeds)
def test_an_expert_learns_only_from_the_tokens_it_kept(size, seed):
    """2l: dL/dW_out,i = sum over kept tokens of p_i h^T g; exactly 0 for an expert that kept none."""
    h_te, x_td, wi_edf, wo_efd, C, activation = arguments(answer, size, seed).values()
    g_td = np.random.default_rng(seed).normal(size=x_td.shape)

    dwo_efd = slope(lambda wo_efd: np.sum(g_td * answer(h_te, x_td, wi_edf, wo_efd, C, activation)), wo_efd)

    p_te, expert_t = eq.softmax(h_te), h_te.argmax(axis=1)
    kept_t = eq.slots(expert_t, len(wi_edf), C) >= 0
    expected_efd = np.zeros_like(wo_efd)
    for t in np.flatnonzero(kept_t):
        e = expert_t[t]
        expected_efd[e] += p_te[t, e] * np.outer(activation(x_td[t] @ wi_edf[e]), g_td[t])
    np.testing.assert_allclose(dwo_efd, expected_efd, rtol=1e-6, atol=1e-6)
    idle_e = ~np.isin(np.arange(len(wi_edf)), expert_t[kept_t])
    assert (dwo_efd[idle_e] == 0).all()


@given(sizes, seeds)
def test_an_expert_that_nobody_sits_with_may_be_anything(size, seed):
    """2l: none of its parameters moves y by a single bit."""
    drawn = arguments(answer, size, seed)
    expert_t = drawn["h_te"].argmax(axis=1)
    idle_e = np.bincount(expert_t, minlength=len(drawn["wi_edf"])) == 0
    other = {name: np.where(idle_e[:, None, None], -3 * drawn[name], drawn[name]) for name in ("wi_edf", "wo_efd")}

    y_td = answer(**drawn | other)

    np.testing.assert_array_equal(y_td, answer(**drawn))


@given(small, seeds, st.integers(2, 4))
def test_a_dropped_token_teaches_the_router_only_through_the_losses(size, seed, E):
    """2m: exactly no task gradient; that of the auxiliary loss is there all the same."""
    rng = np.random.default_rng(seed)
    T, C = size + 1, 1
    lengths = {"t": T, "e": E, "d": size, "f": size}
    x_td, g_td, h_te, wi_edf, wo_efd = (array(name, lengths, rng) for name in ("x_td", "g_td", "h_te", "wi_edf", "wo_efd"))
    h_te[:, 0] = h_te.max(axis=1) + 0.1

    task_te = slope(lambda h_te: np.sum(g_td * answer(h_te, x_td, wi_edf, wo_efd, C, eq.gelu)), h_te)
    loss_te = slope(lambda h_te: eq.load_balance(eq.softmax(h_te), h_te.argmax(axis=1)), h_te)

    p_t = eq.softmax(h_te)[:, 0]
    assert (task_te[1:] == 0).all()
    assert (task_te[0] != 0).any()
    np.testing.assert_allclose(loss_te[:, 0], E / T * p_t * (1 - p_t), rtol=1e-6, atol=1e-8)


@given(sizes, seeds)
def test_a_dropped_token_teaches_no_expert(size, seed):
    """2m: whatever it says, the kept tokens' answers stay the same bit for bit."""
    drawn = arguments(eq.mixture, size, seed)
    kept_t1 = drawn["slot_t"][:, None] >= 0

    y_td = eq.mixture(**drawn | {"x_td": np.where(kept_t1, drawn["x_td"], 7.0)})

    np.testing.assert_array_equal(y_td, eq.mixture(**drawn))


@given(small, seeds)
def test_a_step_across_a_routing_boundary_is_no_gradient(size, seed):
    """2n: the choice jumps and carries none; with a margin above the step the differences agree with 2k again."""
    rng = np.random.default_rng(seed)
    lengths = {"t": 1, "e": 2, "d": size, "f": size}
    x_td, wi_edf, wo_efd = (array(name, lengths, rng) for name in ("x_td", "wi_edf", "wo_efd"))
    first_td, second_td = (expert(x_td) for expert in experts_of(wi_edf, wo_efd, eq.gelu))
    g_td = (second_td - first_td) / np.sum(np.square(second_td - first_td))

    def scalar(h_te):
        return np.sum(g_td * answer(h_te, x_td, wi_edf, wo_efd, 1, eq.gelu))

    near_te, clear_te = np.array([[1e-6, 0.0]]), np.array([[1e-3, 0.0]])
    across = slope(scalar, near_te, step=1e-4)[0, 1]
    within = slope(scalar, clear_te, step=1e-4)[0, 1]

    p_e = eq.softmax(clear_te)[0]
    formula = -np.sum(g_td * first_td) * p_e[0] * p_e[1]
    np.testing.assert_allclose(within, formula, rtol=1e-5, atol=1e-6)
    assert across - formula > 1000  # the jump is about p / (2 step) = 2500
