"""T5's attention: a softmax without a square root."""

import math

import numpy as np
import pytest
from draw import arguments, array, seeds, sizes
from hypothesis import given
from hypothesis import strategies as st

from switchnp import equations as eq


def attention(q_thk, k_shk, v_shk, bias_hts):
    """What each head brings home, softmax(q k^T + b) v."""
    return eq.attend(eq.attention_weights(q_thk, k_shk, bias_hts), v_shk)


def decoder(size, seed):
    """A sentence's queries, keys and values, and the causal bias of T5 on it."""
    rng = np.random.default_rng(seed)
    lengths = {axis: int(rng.integers(1, size + 1)) for axis in "thk"} | {"r": 32}
    q_thk, k_thk, v_thk, bias_rh = (array(name, lengths, rng) for name in ("q_thk", "k_thk", "v_thk", "bias_rh"))
    position_t = np.arange(lengths["t"])
    bucket_tt = eq.relative_bucket(eq.distance(position_t, position_t), 32, 128, bidirectional=False)
    see_tt = eq.visible(position_t, position_t, np.ones(lengths["t"], bool), causal=True)
    return q_thk, k_thk, v_thk, eq.hide(eq.position_bias(bucket_tt, bias_rh), see_tt)


@given(sizes, seeds)
def test_a_token_has_exactly_one_look_to_give_per_head(size, seed):
    """§4.3: rows sum to 1."""
    look_hts = eq.attention_weights(**arguments(eq.attention_weights, size, seed))

    assert (look_hts >= 0).all()
    np.testing.assert_allclose(look_hts.sum(axis=2), 1, rtol=1e-13)


@given(sizes, seeds)
def test_the_weights_are_the_formula_written_out(size, seed):
    """§4.3: softmax(q k^T + b) one number at a time, with no 1/sqrt(d_kv)."""
    drawn = arguments(eq.attention_weights, size, seed)
    q_thk, k_shk, bias_hts = drawn.values()
    H, T, S = bias_hts.shape

    look_hts = eq.attention_weights(**drawn)

    for h, t in np.ndindex(H, T):
        score_s = [math.fsum(q_thk[t, h] * k_shk[s, h]) + bias_hts[h, t, s] for s in range(S)]
        expected_s = [math.exp(score) / sum(map(math.exp, score_s)) for score in score_s]
        np.testing.assert_allclose(look_hts[h, t], expected_s, rtol=1e-11)


@given(sizes, seeds, sizes)
def test_a_wider_head_of_zeros_looks_the_same_way(size, seed, more):
    """§4.3: the width itself does not matter, as it would under 1/sqrt(d_kv)."""
    drawn = arguments(eq.attention_weights, size, seed)
    wider = {name: np.pad(drawn[name], [(0, 0), (0, 0), (0, more)]) for name in ("q_thk", "k_shk")}

    look_hts = eq.attention_weights(**drawn | wider)

    np.testing.assert_allclose(look_hts, eq.attention_weights(**drawn), rtol=1e-12)


@given(sizes, seeds)
def test_a_constant_added_to_a_row_of_scores_changes_nothing(size, seed):
    """§4.3: softmax is shift invariant, row by row."""
    drawn = arguments(eq.attention_weights, size, seed)
    bias_hts = drawn["bias_hts"]
    shift_ht1 = 10 * np.random.default_rng(seed).normal(size=(*bias_hts.shape[:2], 1))

    look_hts = eq.attention_weights(**drawn | {"bias_hts": bias_hts + shift_ht1})

    np.testing.assert_allclose(look_hts, eq.attention_weights(**drawn), rtol=1e-11)


@given(sizes, seeds)
def test_the_tokens_looked_at_have_no_order_but_their_bias(size, seed):
    """§4.3: permuting keys, values and the bias's columns together changes nothing."""
    drawn = arguments(attention, size, seed)
    q_thk, k_shk, v_shk, bias_hts = drawn.values()
    order_s = np.random.default_rng(seed).permutation(len(k_shk))

    o_thk = attention(q_thk, k_shk[order_s], v_shk[order_s], bias_hts[:, :, order_s])

    np.testing.assert_allclose(o_thk, attention(**drawn), rtol=1e-11, atol=1e-13)


@given(sizes, seeds)
def test_a_head_brings_home_nothing_that_was_not_there(size, seed):
    """§4.3: every coordinate lies between the least and the greatest value looked at."""
    drawn = arguments(attention, size, seed)
    v_shk = drawn["v_shk"]

    o_thk = attention(**drawn)

    assert (o_thk >= v_shk.min(axis=0) - 1e-13).all()
    assert (o_thk <= v_shk.max(axis=0) + 1e-13).all()


@given(sizes, seeds)
def test_what_is_brought_home_is_linear_in_the_values(size, seed):
    """§4.3: o(2 v + w) = 2 o(v) + o(w)."""
    look_hts, v_shk = arguments(eq.attend, size, seed).values()
    w_shk = np.random.default_rng(seed).normal(size=v_shk.shape)

    o_thk = eq.attend(look_hts, 2 * v_shk + w_shk)

    expected_thk = 2 * eq.attend(look_hts, v_shk) + eq.attend(look_hts, w_shk)
    np.testing.assert_allclose(o_thk, expected_thk, rtol=1e-12, atol=1e-13)


@given(sizes, seeds)
def test_each_head_weighs_its_own_values(size, seed):
    """§4.3: o_h = a_h v_h, one number at a time."""
    drawn = arguments(eq.attend, size, seed)
    look_hts, v_shk = drawn.values()

    o_thk = eq.attend(**drawn)

    for t, h, k in np.ndindex(o_thk.shape):
        expected = math.fsum(look_hts[h, t] * v_shk[:, h, k])
        np.testing.assert_allclose(o_thk[t, h, k], expected, rtol=1e-12, atol=1e-13)


@given(sizes, seeds)
def test_equal_scores_bring_home_the_mean(size, seed):
    """§4.3: the mean of V over the tokens looked at."""
    drawn = arguments(attention, size, seed)
    q_thk, k_shk, v_shk, bias_hts = drawn.values()

    o_thk = attention(0 * q_thk, k_shk, v_shk, 0 * bias_hts + 3)

    np.testing.assert_allclose(o_thk, np.broadcast_to(v_shk.mean(axis=0), o_thk.shape), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(size=sizes, seed=seeds)
def test_a_token_that_sees_nothing_looks_everywhere_alike(dtype, size, seed):
    """§4.3: a fully masked row is uniform, not NaN; beside it, what is hidden gets exactly no look."""
    drawn = arguments(eq.attention_weights, size, seed, dtype)
    bias_hts = drawn["bias_hts"]
    see_ts = np.random.default_rng(seed).integers(2, size=bias_hts.shape[1:]).astype(bool)
    see_ts[0] = False

    look_hts = eq.attention_weights(**drawn | {"bias_hts": eq.hide(bias_hts, see_ts)})

    assert (look_hts[:, 0] == dtype(1) / dtype(bias_hts.shape[2])).all()
    partly_t = see_ts.any(axis=1)
    assert (look_hts[:, partly_t][:, ~see_ts[partly_t]] == 0).all()


@given(sizes, seeds, st.data())
def test_what_comes_later_does_not_change_what_came_before(size, seed, data):
    """§4.3: under a causal mask the prefix is bit for bit the same after any edit of the suffix."""
    q_thk, k_thk, v_thk, bias_htt = decoder(size, seed)
    T = data.draw(st.integers(0, len(q_thk)))
    edited = [np.concatenate([array_thk[:T], 5 - array_thk[T:]]) for array_thk in (q_thk, k_thk, v_thk)]

    o_thk = attention(*edited, bias_htt)

    np.testing.assert_array_equal(o_thk[:T], attention(q_thk, k_thk, v_thk, bias_htt)[:T])


@given(sizes, seeds)
def test_a_token_at_a_time_brings_home_the_same(size, seed):
    """§4.3: incremental decoding over cached keys and values is the full pass."""
    q_thk, k_thk, v_thk, bias_htt = decoder(size, seed)

    steps = [
        attention(q_thk[t : t + 1], k_thk[: t + 1], v_thk[: t + 1], bias_htt[:, t : t + 1, : t + 1]) for t in range(len(q_thk))
    ]

    np.testing.assert_allclose(np.concatenate(steps), attention(q_thk, k_thk, v_thk, bias_htt), rtol=1e-12, atol=1e-13)


@given(sizes, seeds)
def test_the_first_token_of_a_decoder_looks_at_itself(size, seed):
    """§4.3: a causal mask leaves it nothing else, and not even less."""
    q_thk, k_thk, v_thk, bias_htt = decoder(size, seed)

    o_thk = attention(q_thk, k_thk, v_thk, bias_htt)

    np.testing.assert_array_equal(o_thk[0], v_thk[0])


@given(sizes, seeds, sizes)
def test_padding_is_as_good_as_absent(size, seed, pads):
    """§4.3: hidden tokens change nothing, whatever they say."""
    drawn = arguments(attention, size, seed)
    q_thk, k_shk, v_shk, bias_hts = drawn.values()
    padded_shk = [np.concatenate([array_shk, np.full((pads, *array_shk.shape[1:]), 9.0)]) for array_shk in (k_shk, v_shk)]
    position_s = np.arange(len(k_shk) + pads)
    see_ts = eq.visible(np.arange(len(q_thk)), position_s, position_s < len(k_shk), causal=False)
    padded_hts = eq.hide(np.pad(bias_hts, [(0, 0), (0, 0), (0, pads)]), see_ts)

    o_thk = attention(q_thk, *padded_shk, padded_hts)

    np.testing.assert_allclose(o_thk, attention(**drawn), rtol=1e-11, atol=1e-13)


@given(sizes, seeds)
def test_each_head_has_a_projection_of_its_own(size, seed):
    """§4.3: q_h = x W_h; H K need not be D."""
    drawn = arguments(eq.split_heads, size, seed)
    x_td, w_dhk = drawn.values()

    q_thk = eq.split_heads(**drawn)

    for h in range(w_dhk.shape[1]):
        np.testing.assert_allclose(q_thk[:, h], x_td @ w_dhk[:, h], rtol=1e-12, atol=1e-13)


@given(sizes, seeds)
def test_merging_is_one_projection_of_all_heads_side_by_side(size, seed):
    """§4.3: y = concat_h(o_h) W_o; H K need not be D."""
    drawn = arguments(eq.merge_heads, size, seed)
    o_thk, wo_hkd = drawn.values()
    T, D = len(o_thk), wo_hkd.shape[2]

    y_td = eq.merge_heads(**drawn)

    np.testing.assert_allclose(y_td, o_thk.reshape(T, -1) @ wo_hkd.reshape(-1, D), rtol=1e-12, atol=1e-12)
