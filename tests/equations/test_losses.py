"""Switch eqs. 4, 5 and 6, the z-loss, and the cross entropy."""

import math

import numpy as np
import pytest
from draw import arguments, array, seeds, sizes, slope
from hypothesis import given
from hypothesis import strategies as st

from switchnp import equations as eq

small = st.integers(1, 4)


def one_hot(expert_t, E):
    """Routers that are certain."""
    return (expert_t[:, None] == np.arange(E)).astype(float)


def balanced(E, each, seed):
    """Tokens of which every expert is asked by `each`."""
    return np.random.default_rng(seed).permutation(np.arange(E * each) % E)


def load_balance_slope(p_te, expert_t):
    """4f, written out: N/T p_tj (f_j - sum_i f_i p_ti)."""
    T, E = p_te.shape
    f_e = np.bincount(expert_t, minlength=E) / T
    return E / T * p_te * (f_e - (p_te @ f_e)[:, None])


@given(sizes, seeds)
def test_the_share_counts_every_token_that_asks(size, seed):
    """5: f_i = 1/T sum_x [argmax p(x) = i], before any is dropped for want of room."""
    expert_t, E, _ = arguments(eq.expert_share, size, seed).values()

    f_e = eq.expert_share(expert_t, E)

    assert f_e.tolist() == [expert_t.tolist().count(e) / len(expert_t) for e in range(E)]


@given(sizes, seeds)
def test_the_mean_probability_is_a_mean_over_tokens(size, seed):
    """6: P_i = 1/T sum_x p_i(x)."""
    p_te = arguments(eq.mean_probs, size, seed)["p_te"]

    P_e = eq.mean_probs(p_te)

    expected_e = [math.fsum(column) / len(p_te) for column in p_te.T]
    np.testing.assert_allclose(P_e, expected_e, rtol=1e-14)


@given(sizes, seeds)
def test_the_loss_is_the_formula_written_out(size, seed):
    """4: N sum_i f_i P_i, one number at a time."""
    p_te, expert_t = arguments(eq.load_balance, size, seed).values()
    T, E = p_te.shape

    loss = eq.load_balance(p_te, expert_t)

    expected = E * sum((expert_t == e).sum() / T * p_te[:, e].sum() / T for e in range(E))
    np.testing.assert_allclose(loss, expected, rtol=1e-12)


@given(sizes, seeds)
def test_shares_and_mean_probabilities_sum_to_one(size, seed):
    """4a: f and P lie on the simplex."""
    p_te, expert_t = arguments(eq.load_balance, size, seed).values()

    f_e, P_e = eq.expert_share(expert_t, p_te.shape[1]), eq.mean_probs(p_te)

    for share_e in (f_e, P_e):
        assert (share_e >= 0).all()
        np.testing.assert_allclose(share_e.sum(), 1, rtol=1e-14)


@given(sizes, sizes, seeds)
def test_equal_shares_cost_one_whatever_the_probabilities(E, each, seed):
    """4a: f = 1/N gives loss 1 for any P."""
    expert_t = balanced(E, each, seed)
    p_te = array("p_te", {"t": E * each, "e": E}, np.random.default_rng(seed))

    loss = eq.load_balance(p_te, expert_t)

    np.testing.assert_allclose(loss, 1, rtol=1e-13)


@given(sizes, seeds)
def test_equal_probabilities_cost_one_whatever_the_shares(E, seed):
    """4a: P = 1/N gives loss 1 for any f; here P is the mean of one row in all its rotations."""
    rng = np.random.default_rng(seed)
    p_e = array("p_e", {"e": E}, rng)
    p_te = np.stack([np.roll(p_e, e) for e in range(E)])

    loss = eq.load_balance(p_te, rng.integers(E, size=E))

    np.testing.assert_allclose(loss, 1, rtol=1e-13)


@given(sizes, seeds)
def test_a_certain_router_pays_least_when_it_is_fair(size, seed):
    """4b: f = P makes the loss N sum f^2 >= 1, with equality only where f is uniform."""
    expert_t, E, _ = arguments(eq.expert_share, size, seed).values()

    loss = eq.load_balance(one_hot(expert_t, E), expert_t)

    asked_e = np.bincount(expert_t, minlength=E)
    np.testing.assert_allclose(loss, E * np.sum(np.square(asked_e / len(expert_t))), rtol=1e-14)
    if len(set(asked_e)) == 1:
        np.testing.assert_allclose(loss, 1, rtol=1e-14)
    else:
        assert loss > 1 + 1e-3  # at T, N <= 9 the nearest unfair f is farther than this


@given(st.integers(2, 9), sizes, seeds)
def test_only_certain_collapse_costs_as_much_as_there_are_experts(E, T, seed):
    """4c: the bound N is reached by one-hot rows on one expert, and by nothing less."""
    rng = np.random.default_rng(seed)
    p_te = array("p_te", {"t": T, "e": E}, rng)
    collapsed_t = np.full(T, rng.integers(E))

    certain = eq.load_balance(one_hot(collapsed_t, E), collapsed_t)

    assert certain == E
    assert eq.load_balance(p_te, collapsed_t) < E
    assert eq.load_balance(p_te, p_te.argmax(axis=1)) < E


def test_one_is_not_the_minimum():
    """4d: three tokens barely prefer one expert and a fourth is certain of the other; exactly 7/8."""
    p_te = np.array([[0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.0, 1.0]])

    loss = eq.load_balance(p_te, eq.top1(p_te))

    assert loss == 0.875


@given(st.integers(3, 20))
def test_half_the_experts_dead_is_cheaper_than_balance(E):
    """4d: 4N/(N+1)^2 for odd N and 4/(N+2) for even; each live expert's token spreads itself over all dead ones."""
    live = (E + 1) // 2
    p_te = np.concatenate([np.eye(live), np.ones((live, E - live))], axis=1) / (E - live + 1)

    loss = eq.load_balance(p_te, eq.top1(p_te))

    assert eq.expert_share(eq.top1(p_te), E).tolist() == [1 / live] * live + [0] * (E - live)
    np.testing.assert_allclose(loss, 4 * E / (E + 1) ** 2 if E % 2 else 4 / (E + 2), rtol=1e-13)
    assert loss < 1


@given(sizes, seeds)
def test_a_router_of_zeros_costs_as_little_as_balance(size, seed):
    """4e: loss 1 while every token goes to expert 0."""
    p_te, _ = arguments(eq.load_balance, size, seed).values()
    p_te = eq.softmax(0 * p_te)

    loss = eq.load_balance(p_te, eq.top1(p_te))

    assert eq.expert_share(eq.top1(p_te), p_te.shape[1])[0] == 1
    np.testing.assert_allclose(loss, 1, rtol=1e-14)


@given(sizes, seeds)
def test_the_loss_pushes_each_logit_by_how_much_its_expert_is_overasked(size, seed):
    """4f: dL/dh_tj = N/T p_tj (f_j - sum_i f_i p_ti), with rows that sum to 0."""
    h_te, expert_t = arguments(lambda h_te, expert_t: None, size, seed).values()

    dh_te = slope(lambda h_te: eq.load_balance(eq.softmax(h_te), expert_t), h_te)

    np.testing.assert_allclose(dh_te, load_balance_slope(eq.softmax(h_te), expert_t), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(dh_te.sum(axis=1), 0, atol=1e-8)


@given(small, small, seeds)
def test_where_the_shares_are_equal_the_loss_is_content(E, each, seed):
    """4f: no gradient at all once f is uniform."""
    expert_t = balanced(E, each, seed)
    h_te = array("h_te", {"t": E * each, "e": E}, np.random.default_rng(seed))

    dh_te = slope(lambda h_te: eq.load_balance(eq.softmax(h_te), expert_t), h_te)

    np.testing.assert_allclose(dh_te, 0, atol=1e-9)


@given(sizes, seeds)
def test_the_loss_cannot_rescue_a_confidently_collapsed_router(size, seed):
    """4f: at logits 1000 apart the gradient is exactly 0, though the loss is as large as it gets."""
    h_te, expert_t = arguments(lambda h_te, expert_t: None, size, seed).values()
    expert_t[:] = expert_t[0]
    E = h_te.shape[1]
    sure_te = 1000 * one_hot(expert_t, E)

    dh_te = slope(lambda h_te: eq.load_balance(eq.softmax(h_te), expert_t), sure_te)

    assert eq.load_balance(eq.softmax(sure_te), expert_t) == E
    assert (dh_te == 0).all()


@given(sizes, seeds)
def test_a_small_step_down_the_gradient_makes_the_loss_smaller(size, seed):
    """4g: with f held, by at least half of what the slope promises."""
    h_te, expert_t = arguments(lambda h_te, expert_t: None, size, seed).values()
    p_te = eq.softmax(h_te)
    dh_te = load_balance_slope(p_te, expert_t)

    after = eq.load_balance(eq.softmax(h_te - 0.01 * dh_te), expert_t)

    promised = 0.01 * np.sum(np.square(dh_te))
    assert after <= eq.load_balance(p_te, expert_t) - promised / 2 + 1e-14


@given(sizes, seeds, st.integers(1, 4))
def test_the_loss_knows_no_order_no_names_and_no_batch_size(size, seed, times):
    """4h: invariant to permuting tokens, relabelling experts and repeating the batch."""
    p_te, expert_t = arguments(eq.load_balance, size, seed).values()
    rng = np.random.default_rng(seed)
    order_t, order_e = rng.permutation(p_te.shape[0]), rng.permutation(p_te.shape[1])

    shuffled = eq.load_balance(p_te[order_t], expert_t[order_t])
    renamed = eq.load_balance(p_te[:, order_e], np.argsort(order_e)[expert_t])
    repeated = eq.load_balance(np.tile(p_te, (times, 1)), np.tile(expert_t, times))

    loss = eq.load_balance(p_te, expert_t)
    np.testing.assert_allclose([shuffled, renamed, repeated], loss, rtol=1e-12)


@given(st.integers(1, 64), sizes, seeds)
def test_balance_costs_the_same_among_few_experts_and_many(E, each, seed):
    """4h: 1 for every N."""
    expert_t = balanced(E, each, seed)

    loss = eq.load_balance(one_hot(expert_t, E), expert_t)

    np.testing.assert_allclose(loss, 1, rtol=1e-13)


@given(st.integers(2, 9), sizes)
def test_groups_that_each_collapse_look_balanced_together(E, T):
    """4i: the mean over groups of their losses is N, and the loss of the union is 1."""
    groups = [np.full(T, e) for e in range(E)]
    union_t = np.concatenate(groups)

    separate = np.mean([eq.load_balance(one_hot(group_t, E), group_t) for group_t in groups])
    together = eq.load_balance(one_hot(union_t, E), union_t)

    assert separate == E
    np.testing.assert_allclose(together, 1, rtol=1e-13)


def test_four_collapsed_layers_look_balanced_when_they_are_concatenated():
    """4i: 3.999 each by the paper's sum over layers, 1.0 by Hugging Face's concatenation."""
    layers = [np.full(50, e) for e in range(4)]
    probs = [eq.softmax(10 * one_hot(layer_t, 4)) for layer_t in layers]

    each = [eq.load_balance(p_te, layer_t) for p_te, layer_t in zip(probs, layers, strict=True)]
    concatenated = eq.load_balance(np.concatenate(probs), np.concatenate(layers))

    assert each == pytest.approx([3.999] * 4, abs=1e-3)
    assert concatenated == pytest.approx(1.0, abs=1e-13)


@given(sizes, seeds, st.integers(0, 9))
def test_dividing_by_the_padding_too_shrinks_the_loss_by_the_square(size, seed, pads):
    """4j: masked pads (no probability, no expert) left in T cost a factor (real/T)^2."""
    p_te, expert_t = arguments(eq.load_balance, size, seed).values()
    real, E = p_te.shape
    padded_te = np.concatenate([p_te, np.zeros((pads, E))])
    padded_t = np.concatenate([expert_t, np.full(pads, -1)])

    padded = eq.load_balance(padded_te, padded_t)

    shrunk = (real / (real + pads)) ** 2
    np.testing.assert_allclose(padded, shrunk * eq.load_balance(p_te, expert_t), rtol=1e-12)


@given(sizes, seeds, st.data())
def test_with_k_choices_balance_costs_k(E, seed, data):
    """4k: the shares of first, second, ... choices sum to k, and so does the loss at P = 1/N unless divided by k."""
    k = data.draw(st.integers(1, E))
    p_te = np.stack([np.roll(array("p_e", {"e": E}, np.random.default_rng(seed)), e) for e in range(E)])
    choices = np.argsort(-p_te, axis=1)[:, :k].T

    share_e = sum(eq.expert_share(choice_t, E) for choice_t in choices)
    loss = sum(eq.load_balance(p_te, choice_t) for choice_t in choices)

    np.testing.assert_allclose(share_e.sum(), k, rtol=1e-13)
    np.testing.assert_allclose(loss, k, rtol=1e-13)


@given(sizes, seeds)
def test_the_shares_do_not_move_with_the_logits(size, seed):
    """2n: f is flat between routing boundaries, so that it carries no gradient."""
    h_te = arguments(eq.softmax, size, seed)["h_te"]
    E = h_te.shape[1]
    h_te += 0.1 * one_hot(h_te.argmax(axis=1), E)
    nudge_te = np.random.default_rng(seed).uniform(-0.04, 0.04, size=h_te.shape)

    f_e, nudged_e = (eq.expert_share(eq.top1(eq.softmax(logits)), E) for logits in (h_te, h_te + nudge_te))

    np.testing.assert_array_equal(nudged_e, f_e)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(size=sizes, seed=seeds)
def test_the_loss_stays_in_the_routers_precision(dtype, size, seed):
    """§2.4: a float32 router has a float32 loss."""
    drawn = arguments(eq.load_balance, size, seed, dtype)

    loss = eq.load_balance(**drawn)

    assert loss.dtype == dtype


@given(sizes, seeds)
def test_the_z_loss_is_the_formula_written_out(size, seed):
    """E12: 1/T sum_t (log sum_j exp h_tj)^2, which is never negative."""
    h_te = arguments(eq.router_z, size, seed)["h_te"]

    z = eq.router_z(h_te)

    expected = sum(math.log(sum(map(math.exp, h_e))) ** 2 for h_e in h_te) / len(h_te)
    np.testing.assert_allclose(z, expected, rtol=1e-10, atol=1e-14)
    assert z >= 0


@given(sizes, seeds)
def test_the_z_loss_sees_the_shift_that_probabilities_do_not(size, seed):
    """E12: it fixes the gauge of 1b, since log sum exp (h + c) = c + log sum exp h."""
    h_te, c_t1 = arguments(lambda h_te, c_t1: None, size, seed).values()

    z = eq.router_z(h_te + c_t1)

    expected = np.mean(np.square(np.log(np.exp(h_te).sum(axis=1)) + c_t1[:, 0]))
    np.testing.assert_allclose(z, expected, rtol=1e-10, atol=1e-14)


@given(sizes, seeds)
def test_the_z_loss_is_zero_where_the_exponentials_sum_to_one(size, seed):
    """E12: and only there; logits that are log-probabilities cost nothing, raised by 1 they cost 1."""
    p_te, _ = arguments(eq.gate, size, seed).values()

    nothing, raised = eq.router_z(np.log(p_te)), eq.router_z(np.log(p_te) + 1)

    assert nothing < 1e-28
    np.testing.assert_allclose(raised, 1, rtol=1e-13)


@given(sizes, st.integers(1, 64))
def test_silent_logits_cost_the_squared_log_of_the_number_of_experts(T, E):
    """E12: (log N)^2 at zero."""
    z = eq.router_z(np.zeros((T, E)))

    np.testing.assert_allclose(z, math.log(E) ** 2, rtol=1e-14)


@given(sizes, seeds)
def test_the_z_loss_of_ten_thousand_does_not_overflow(size, seed):
    """E12: the largest logit is taken off first; a warning would fail this test."""
    h_te = arguments(eq.router_z, size, seed, np.float32)["h_te"]
    loudest_t = np.float32(1e4) + 0 * h_te[:, 0]
    h_te[:, 0] = loudest_t

    z = eq.router_z(h_te)

    np.testing.assert_allclose(z, 1e8, rtol=1e-6)


def test_the_load_balance_of_transformers_unit_test_is_reproduced():
    """4: transformers' own test of its load balancing loss, in float32."""
    p_te = np.array(
        [
            [0.35490513, 0.60419905],
            [0.4275843, 0.23061597],
            [0.32985854, 0.43953657],
            [0.25099766, 0.27730572],
            [0.7678207, 0.71474564],
        ],
        np.float32,
    )

    loss = eq.load_balance(p_te, np.array([0, 1, 1, 0, 0]))

    assert loss == pytest.approx(0.8741044, abs=1e-6)


def test_the_z_loss_of_transformers_unit_test_is_reproduced():
    """E12: transformers' own test of its z-loss, in float32."""
    h_te = np.array(
        [
            [-4.2124424, 3.891939, -3.6481273, 1.8849981],
            [0.32625437, 2.918651, 0.84758997, -4.556842],
            [-3.32062, 4.6977115, -0.15439987, 0.44086337],
            [3.4467149, 4.3436565, -4.7224274, -4.264637],
            [-2.224406, -2.5318158, -1.3832569, 1.1891162],
            [-2.320062, -0.44705987, 4.289819, -0.00662684],
            [0.99470854, -0.6992364, 0.25503993, 4.2952085],
            [3.5937333, -3.2408535, -4.298278, 4.426601],
            [0.7669008, 2.6588762, 2.4505413, 4.6051874],
            [0.23330331, -3.0845237, 0.6262374, -2.9865491],
            [0.7595146, -2.1099675, -4.155346, -2.8326452],
            [2.3771453, 1.004138, -3.1781673, 0.7581556],
        ],
        np.float32,
    )

    z = eq.router_z(h_te)

    assert z == pytest.approx(13.786717, abs=5e-6)


def test_the_router_of_transformers_unit_test_is_reproduced():
    """4, E12: two sentences of three tokens, two experts; the mean over sentences, in float32."""
    wr_de = np.array(
        [[0.02008116, 0.00620062], [-0.00811031, -0.00031623], [-0.03542127, 0.02703803], [0.02335377, -0.02971946]], np.float32
    )
    sentences = np.array(
        [
            [
                [0.6433916, 0.18188512, 0.02240455, 0.563781],
                [0.5526401, 0.0958724, 0.34253013, 0.03644359],
                [0.08744538, 0.7909105, 0.35205448, 0.53364205],
            ],
            [
                [0.02900076, 0.4168595, 0.5802449, 0.91486526],
                [0.27414513, 0.14991808, 0.9383501, 0.5209162],
                [0.51207185, 0.90618336, 0.7309413, 0.95533276],
            ],
        ],
        np.float32,
    )

    probs = [eq.router_probs(x_td, wr_de) for x_td in sentences]
    loss = np.mean([eq.load_balance(p_te, eq.top1(p_te)) for p_te in probs])
    z = np.mean([eq.router_z(eq.router_logits(x_td, wr_de)) for x_td in sentences])

    assert loss == pytest.approx(1.000309, abs=2e-6)
    assert z == pytest.approx(0.4789799, abs=1e-6)


@given(sizes, seeds)
def test_cross_entropy_is_the_surprise_per_word(size, seed):
    """§2.3: -mean log softmax[target] in nats, one word at a time; -100 is nothing to predict."""
    logits_tv, target_t = arguments(eq.cross_entropy, size, seed).values()
    target_t[1:][np.random.default_rng(seed).integers(2, size=len(target_t) - 1) == 1] = -100

    loss = eq.cross_entropy(logits_tv, target_t)

    surprises = [
        math.log(sum(map(math.exp, logits_v))) - logits_v[target]
        for logits_v, target in zip(logits_tv, target_t, strict=True)
        if target != -100
    ]
    np.testing.assert_allclose(loss, sum(surprises) / len(surprises), rtol=1e-10, atol=1e-14)


@given(sizes, seeds)
def test_what_is_not_to_be_predicted_may_be_predicted_anyhow(size, seed):
    """§2.3: the logits at -100 do not move the loss by a bit, nor does it matter how many there are."""
    logits_tv, target_t = arguments(eq.cross_entropy, size, seed).values()
    padded_tv = np.concatenate([logits_tv, 100 * logits_tv])
    padded_t = np.concatenate([target_t, np.full(len(target_t), -100)])

    loss = eq.cross_entropy(padded_tv, padded_t)

    assert loss == eq.cross_entropy(logits_tv, target_t)


@given(sizes, st.integers(1, 64), seeds)
def test_knowing_nothing_costs_the_log_of_the_vocabulary(T, V, seed):
    """§2.3: log V at equal logits, whatever they are."""
    rng = np.random.default_rng(seed)

    loss = eq.cross_entropy(np.full((T, V), rng.normal()), rng.integers(V, size=T))

    np.testing.assert_allclose(loss, math.log(V), rtol=1e-12, atol=1e-14)


@given(sizes, seeds)
def test_being_very_sure_does_not_overflow(size, seed):
    """§2.3: logits of 10000 on every right word cost nothing; a warning would fail this test."""
    logits_tv, target_t = arguments(eq.cross_entropy, size, seed, np.float32).values()
    logits_tv[np.arange(len(target_t)), np.maximum(target_t, 0)] = 1e4

    loss = eq.cross_entropy(logits_tv, target_t)

    assert loss == 0


def pseudo_code(p_gte, asks_gte):
    """What Fig. 14 computes of all cores g at once."""
    share_ge, mean_ge = asks_gte.mean(axis=1), p_gte.mean(axis=1)
    return (share_ge * mean_ge).mean() * p_gte.shape[2] ** 2


@given(sizes, sizes, seeds)
def test_the_pseudo_code_is_the_mean_of_what_each_core_loses(size, cores, seed):
    """E16: reduce_mean(P f) N^2 over [cores, experts] = mean over cores of N sum_i f_i P_i."""
    p_te, _ = arguments(eq.load_balance, size, seed).values()
    T, E = p_te.shape
    rng = np.random.default_rng(seed)
    probs = [array("p_te", {"t": T, "e": E}, rng) for _ in range(cores)]
    experts = [rng.integers(E, size=T) for _ in range(cores)]

    loss = pseudo_code(np.stack(probs), np.stack([one_hot(expert_t, E) for expert_t in experts]))

    each = [eq.load_balance(p_te, expert_t) for p_te, expert_t in zip(probs, experts, strict=True)]
    np.testing.assert_allclose(loss, np.mean(each), rtol=1e-12)


def test_the_pseudo_code_is_not_the_loss_of_all_tokens_together():
    """E16: two cores of which each insists on an expert of its own lose 2 each, but their union is balanced and loses 1."""
    mask = np.array([[[1.0, 0.0]] * 3, [[0.0, 1.0]] * 3])

    loss = pseudo_code(mask, mask)

    union_te = mask.reshape(6, 2)
    assert loss == 2
    assert eq.load_balance(union_te, eq.top1(union_te)) == 1


@given(sizes, sizes, sizes, seeds)
def test_cores_that_ask_alike_may_be_counted_together(E, each, cores, seed):
    """E16: where all cores have the same f, the pseudo-code is the loss of the union, for any P."""
    rng = np.random.default_rng(seed)
    expert_t = rng.integers(E, size=each)
    probs = [array("p_te", {"t": each, "e": E}, rng) for _ in range(cores)]

    loss = pseudo_code(np.stack(probs), np.stack([one_hot(expert_t, E)] * cores))

    union = eq.load_balance(np.concatenate(probs), np.tile(expert_t, cores))
    np.testing.assert_allclose(loss, union, rtol=1e-12)


@given(sizes, seeds)
def test_the_logarithm_of_softmax_is_its_logarithm_and_does_not_overflow(size, seed):
    """§2.3: rows of any height, each by itself."""
    logits_tv, _ = arguments(eq.cross_entropy, size, seed).values()

    logp_tv = eq.log_softmax(logits_tv)

    np.testing.assert_allclose(logp_tv, np.log(eq.softmax(logits_tv)), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(eq.log_softmax(1e4 * logits_tv).max(axis=1), 0, atol=math.log(size) + 1e-9)
