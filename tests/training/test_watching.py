"""What is measured of a step, and when a run is stopped."""

import math

import numpy as np
import pytest
from draw import seeds, sizes
from hypothesis import given

from switchnp import Tree
from switchnp import equations as eq
from switchnp.errors import TrainingError
from switchnp.gradients import Losses
from switchnp.objective import RouterLosses
from switchnp.training.watching import WINDOW, Lesson, Watch, entropy, measured, mutual_information, together

NONE = RouterLosses([], [])


def losses(task, spoiled=None):
    def layers():
        return Tree(attention=Tree(x_td=np.ones((2, 3))), dense=Tree(x_td=np.ones((2, 3))))

    arrays = tuple(Tree(blocks=[layers()], mask_t=np.ones(2, bool)) for _ in "ab")
    if spoiled:
        arrays[spoiled[0]].blocks[0][spoiled[1]].x_td[0, 0] = np.nan
    return Losses(task, task, NONE, NONE, arrays, np.zeros((2, 3)))


def routed(expert_t, slot_t, p_te, mask_t):
    """The losses of a batch whose encoder has one Switch layer."""
    switch = Tree(expert_t=np.array(expert_t), slot_t=np.array(slot_t), p_te=np.array(p_te), x_td=np.ones((4, 3)))
    arrays = Tree(blocks=[Tree(switch=switch)], mask_t=np.array(mask_t)), Tree(blocks=[], mask_t=np.ones(1, bool))
    return Losses(1.0, 1.0, NONE, NONE, arrays, np.zeros((2, 3)))


def test_what_is_measured_is_who_was_asked_also_by_those_who_found_no_room_and_no_padding():
    p_te = np.array([[0.6, 0.3, 0.1], [0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8], [1 / 3] * 3])

    lesson = measured(routed([0, 0, 1, 2, 0], [0, -1, 0, 0, 0], p_te, [True, True, True, False]), 1.0, 3)

    layer = lesson.layers["encoder/0"]
    assert layer["load"] == pytest.approx([2 / 3, 1 / 3, 0])
    assert layer["dropped"] == pytest.approx(1 / 3)
    assert layer["balance"] == pytest.approx(eq.load_balance(p_te[:3], np.array([0, 0, 1])))
    assert layer["entropy"] == pytest.approx(entropy(p_te[:3]))
    assert lesson.asked["encoder/0"].ravel().tolist() == [0, 0, 1]


def test_a_step_of_several_batches_is_their_mean_by_share():
    lessons = [Lesson(1.0, 0.5, 0.25, {"e": {"load": [1.0, 0.0], "dropped": 0.0}}, {}, None)]
    lessons.append(Lesson(3.0, 2.5, 0.75, {"e": {"load": [0.0, 1.0], "dropped": 0.4}}, {}, None))

    line = together(lessons)

    assert line == {"loss": 2.5, "task_loss": 2.0, "layers": {"e": {"load": [0.25, 0.75], "dropped": pytest.approx(0.3)}}}


def test_the_first_layer_that_is_no_number_is_named_whichever_batch_it_is_in():
    lessons = [measured(losses(1.0), 0.5, 4), measured(losses(math.nan, (1, "dense")), 0.5, 4)]

    with pytest.raises(TrainingError, match="step 7: decoder/blocks/0/dense is no longer finite"):
        Watch().sound(7, lessons, 1.0, Tree())


def test_a_gradient_that_is_no_number_is_named():
    grads = Tree(a=np.ones(2), b=np.array([1.0, np.inf]))

    with pytest.raises(TrainingError, match="step 1: the gradient of b is not finite"):
        Watch().sound(1, [measured(losses(1.0), 1.0, 4)], math.inf, grads)


def test_a_loss_that_rises_for_good_ends_a_run_and_one_bad_batch_does_not():
    watch = Watch()
    for step in range(WINDOW):
        watch.see(step, 1.0)
    watch.see(WINDOW, 9.0)

    with pytest.raises(TrainingError, match="the mean loss of 50 steps rose to"):
        for step in range(WINDOW):
            watch.see(step, 4.0)
    assert watch.good == WINDOW - 1


def test_a_watch_that_minds_nothing_lets_any_loss_pass():
    watch = Watch(worse=0)

    for step in range(3 * WINDOW):
        watch.see(step, float(step))

    assert watch.good == WINDOW - 1


def test_a_watch_goes_on_where_it_was():
    watch, other = Watch(), Watch()
    for step in range(WINDOW + 3):
        watch.see(step, float(step % 3))

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
