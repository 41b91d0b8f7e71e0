"""What is measured of a step, and when a run is stopped."""

import math

import numpy as np
import pytest
from draw import seeds, sizes
from hypothesis import given

from switchnp import Tree
from switchnp.errors import TrainingError
from switchnp.gradients import Losses
from switchnp.objective import RouterLosses
from switchnp.training.watching import WINDOW, Watch, entropy, mutual_information

NONE = RouterLosses([], [])


def losses(task, spoiled=None):
    arrays = tuple(Tree(blocks=[Tree(attention=Tree(x_td=np.ones((2, 3))), dense=Tree(x_td=np.ones((2, 3))))]) for _ in "ab")
    if spoiled:
        arrays[spoiled[0]].blocks[0][spoiled[1]].x_td[0, 0] = np.nan
    return Losses(task, task, NONE, NONE, arrays, np.zeros((2, 3)))


def test_the_first_layer_that_is_no_number_is_named():
    with pytest.raises(
        TrainingError, match="step 7: decoder/blocks/0/dense is no longer finite; the last good checkpoint is here"
    ):
        Watch().see(7, losses(math.nan, (1, "dense")), 1.0, Tree(), "here")


def test_a_gradient_that_is_no_number_is_named():
    grads = Tree(a=np.ones(2), b=np.array([1.0, np.inf]))

    with pytest.raises(TrainingError, match="the gradient of b is not finite"):
        Watch().see(1, losses(1.0), math.inf, grads, "none yet")


def test_a_loss_that_rises_for_good_ends_a_run_and_one_bad_batch_does_not():
    watch = Watch()
    for step in range(WINDOW):
        watch.see(step, losses(1.0), 1.0, Tree(), "x")
    watch.see(WINDOW, losses(9.0), 1.0, Tree(), "x")

    with pytest.raises(TrainingError, match="the loss rose to"):
        for step in range(WINDOW):
            watch.see(step, losses(4.0), 1.0, Tree(), "x")


def test_a_watch_goes_on_where_it_was():
    watch, other = Watch(), Watch()
    for step in range(WINDOW + 3):
        watch.see(step, losses(float(step % 3)), 1.0, Tree(), "x")

    other.restore(watch.state())

    assert other.state() == watch.state()


@given(sizes, seeds)
def test_experts_tell_nothing_where_all_domains_ask_alike_and_all_where_each_has_its_own(size, seed):
    share_e = np.random.default_rng(seed).dirichlet(np.ones(size))

    assert mutual_information(np.tile(share_e, (3, 1))) == pytest.approx(0, abs=1e-12)
    assert mutual_information(7 * np.eye(size)) == pytest.approx(math.log(size), abs=1e-12)


@given(sizes, seeds)
def test_what_experts_tell_is_never_negative_nor_more_than_there_is_to_know(size, seed):
    count_xe = np.random.default_rng(seed).integers(1, 9, size=(size, size + 1)).astype(float)

    told = mutual_information(count_xe)

    assert -1e-12 <= told <= math.log(size) + 1e-12


def test_a_router_that_does_not_know_has_the_entropy_of_all_experts_and_a_sure_one_none():
    assert entropy(np.full((3, 8), 1 / 8)) == pytest.approx(math.log(8))
    assert entropy(np.eye(4)) == pytest.approx(0)
