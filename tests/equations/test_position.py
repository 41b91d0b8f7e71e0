"""T5's distances: which bucket, and who may see whom?"""

import json
import pathlib

import numpy as np
import pytest
from draw import arguments, seeds, sizes
from hypothesis import given
from hypothesis import strategies as st
from references import shared

from switchnp import equations as eq

HERE = pathlib.Path(__file__).parent
REACH = np.arange(-400, 401)

buckets = st.sampled_from([4, 8, 12, 16, 20, 32, 64])
reaches = st.integers(40, 300)
both = st.booleans()


@given(sizes, seeds)
def test_a_distance_is_how_far_behind_the_token_looked_at_stands(size, seed):
    """§4.1: r_ts = s - t, key minus query."""
    position_t, position_s = arguments(eq.distance, size, seed).values()

    distance_ts = eq.distance(position_t, position_s)

    assert distance_ts.tolist() == [[s - t for s in position_s] for t in position_t]


@given(buckets, reaches, both)
def test_every_distance_has_a_bucket(R, max_distance, bidirectional):
    """§4.1: in [0, B)."""
    bucket_r = eq.relative_bucket(REACH, R, max_distance, bidirectional)

    assert bucket_r.min() >= 0
    assert bucket_r.max() < R


@given(sizes, seeds, buckets, reaches, both)
def test_the_bias_is_the_same_along_every_diagonal(size, seed, R, max_distance, bidirectional):
    """§4.1: it depends on r alone, wherever the sentence stands."""
    position_t, position_s = arguments(eq.distance, size, seed).values()
    bias_rh = np.random.default_rng(seed).normal(size=(R, 3))

    bucket_ts, moved_ts = (
        eq.relative_bucket(eq.distance(position_t + start, position_s + start), R, max_distance, bidirectional)
        for start in (0, 1000)
    )
    bias_hts = eq.position_bias(bucket_ts, bias_rh)

    np.testing.assert_array_equal(moved_ts, bucket_ts)
    for t, s in np.ndindex(bucket_ts.shape):
        alone = eq.relative_bucket(np.array([[position_s[s] - position_t[t]]]), R, max_distance, bidirectional)
        np.testing.assert_array_equal(bias_hts[:, t, s], bias_rh[alone[0, 0]])


@given(sizes, seeds)
def test_each_head_looks_its_bucket_up_in_its_own_column(size, seed):
    """§4.1: b_hts = W[bucket_ts, h]."""
    drawn = arguments(eq.position_bias, size, seed)
    bucket_ts, bias_rh = drawn.values()

    bias_hts = eq.position_bias(**drawn)

    assert bias_hts.shape == (bias_rh.shape[1], *bucket_ts.shape)
    for h, t, s in np.ndindex(bias_hts.shape):
        assert bias_hts[h, t, s] == bias_rh[bucket_ts[t, s], h]


@given(buckets, reaches, both)
def test_farther_is_never_a_nearer_bucket(R, max_distance, bidirectional):
    """§4.1: monotone in |r| on each side."""
    away = np.arange(1, 400)

    behind, ahead = (eq.relative_bucket(side, R, max_distance, bidirectional) for side in (-away, away))

    assert (np.diff(behind) >= 0).all()
    assert (np.diff(ahead) >= 0).all()


@given(buckets, reaches, both)
def test_near_distances_have_a_bucket_each(R, max_distance, bidirectional):
    """§4.1: identity below m, which is half of a side's buckets."""
    side = R // 2 if bidirectional else R
    near = np.arange(side // 2)

    bucket_r = eq.relative_bucket(-near, R, max_distance, bidirectional)

    np.testing.assert_array_equal(bucket_r, near)


@given(buckets, reaches, both)
def test_all_that_is_far_shares_the_last_bucket(R, max_distance, bidirectional):
    """§4.1: |r| >= D."""
    far = np.arange(max_distance, max_distance + 100)
    side = R // 2 if bidirectional else R

    behind, ahead = (eq.relative_bucket(r, R, max_distance, bidirectional) for r in (-far, far))

    assert (behind == side - 1).all()
    assert (ahead == (R - 1 if bidirectional else 0)).all()


@given(buckets, reaches)
def test_a_causal_stack_does_not_tell_what_is_ahead_apart(R, max_distance):
    """§4.1: every r > 0 is in bucket 0, with the token itself."""
    bucket_r = eq.relative_bucket(np.arange(0, 400), R, max_distance, False)

    assert (bucket_r == 0).all()


@given(buckets, reaches)
def test_the_first_bucket_ahead_is_unreachable(R, max_distance):
    """§4.1: bucket 16 of 32 is a dead row, since being ahead means being ahead by one at least; all others are used."""
    bucket_r = eq.relative_bucket(REACH, R, max_distance, True)

    assert R // 2 not in bucket_r
    assert eq.relative_bucket(np.array(1), R, max_distance, True) == R // 2 + 1


def test_sixteen_is_the_only_bucket_of_t5_without_a_distance():
    """§4.1: B = 32, D = 128."""
    bucket_r = eq.relative_bucket(REACH, 32, 128, True)

    assert set(range(32)) - set(bucket_r.tolist()) == {16}


@given(buckets, reaches)
def test_what_is_ahead_and_what_is_behind_share_no_bucket(R, max_distance):
    """§4.1: the sides are disjoint halves, and mirror images."""
    away = np.arange(1, 400)

    behind, ahead = (eq.relative_bucket(side, R, max_distance, True) for side in (-away, away))

    assert behind.max() < R // 2 < ahead.min()
    np.testing.assert_array_equal(ahead - behind, R // 2)


@pytest.mark.parametrize(
    ("bidirectional", "starts"),
    [
        (True, [*range(8), 8, 12, 16, 23, 32, 46, 64, 91]),
        (False, [*range(16), 16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113]),
    ],
)
def test_each_bucket_starts_where_t5_starts_it(bidirectional, starts):
    """§4.1: the exact start distances for B = 32, D = 128."""
    bucket_r = eq.relative_bucket(-np.arange(400), 32, 128, bidirectional)

    assert [bucket_r.tolist().index(bucket) for bucket in range(len(starts))] == starts


@pytest.mark.parametrize("place", ["copied", "shared"])
def test_every_bucket_is_the_one_of_transformers(place):
    """§4.1: tables computed by transformers 5.23; a few are copied next to this test, all are in the shared folder."""
    path = HERE / "bucket_tables.json" if place == "copied" else shared("fixtures/huggingface/bucket_tables.json")

    for table in json.loads(path.read_text())["tables"]:
        R, max_distance, bidirectional = (table[key] for key in ("num_buckets", "max_distance", "bidirectional"))
        distance_r = table["first_relative_position"] + np.arange(len(table["buckets"]))

        bucket_r = eq.relative_bucket(distance_r, R, max_distance, bidirectional)

        np.testing.assert_array_equal(bucket_r, table["buckets"], err_msg=f"{R}, {max_distance}, {bidirectional}")


@given(sizes, seeds)
def test_a_token_sees_what_is_no_padding_and_not_ahead(size, seed):
    """§4.3: causal hides what is ahead, and the mask hides padding from everyone."""
    drawn = arguments(eq.visible, size, seed)
    position_t, position_s, mask_s, causal = drawn.values()

    see_ts = eq.visible(**drawn)

    expected = [[bool(real) and (not causal or s <= t) for s, real in zip(position_s, mask_s, strict=True)] for t in position_t]
    assert see_ts.tolist() == expected


@given(sizes)
def test_a_token_sees_itself_and_all_before_it(T):
    """§4.3: a causal mask is a lower triangle with its diagonal."""
    position_t = np.arange(T)

    see_ts = eq.visible(position_t, position_t, np.ones(T, bool), causal=True)

    np.testing.assert_array_equal(see_ts, np.tril(np.ones((T, T), bool)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(size=sizes, seed=seeds)
def test_what_is_hidden_gets_the_lowest_finite_score(dtype, size, seed):
    """§4.3: a finite mask, in the bias's own precision; what is seen keeps its bias."""
    drawn = arguments(eq.hide, size, seed, dtype)
    bias_hts, see_ts = drawn.values()

    hidden_hts = eq.hide(**drawn)

    assert hidden_hts.dtype == dtype
    np.testing.assert_array_equal(hidden_hts[:, see_ts], bias_hts[:, see_ts])
    assert (hidden_hts[:, ~see_ts] == np.finfo(dtype).min).all()
