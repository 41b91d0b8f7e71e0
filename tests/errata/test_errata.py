"""conformance.check flags every exhibit of the errata museum by the property it breaks, and passes what is right."""

import time

import exhibits
import numpy as np
import pytest

from switchnp import conformance, errors, kernels
from switchnp import equations as eq

EXHIBITS = [
    *[pytest.param("router", router, ids, id=router.__name__) for router, ids in exhibits.ROUTERS],
    *[pytest.param("layer", layer, ids, id=layer.__name__) for layer, ids in exhibits.LAYERS],
    *[pytest.param("layer", exhibits.layer_of(it), ids, id=f"layer-{it.__name__}") for it, ids in exhibits.LAYERS_OF_ROUTERS],
]
EXACTLY = {  # what breaks one thing only is said to break one thing only
    "softmax_runs_twice": {"1"},
    "softmax_takes_nothing_off": {"1e"},
    "the_gate_is_renormalised": {"1g"},
    "the_last_of_a_tie_wins": {"1f"},
    "the_largest_gate_comes_first": {"order"},
    "the_cumulative_sum_is_inclusive": {"3a", "3d", "3f", "order"},
}
ABOUT_BOTH = {"call", "pure", "E11", "1e", "2d", "2e", "2h", "3a", "3b", "3c", "3d", "3e", "3j", "7b", "order"}
ABOUT_ROUTERS = ABOUT_BOTH | {"1", "1a", "1b", "1c", "1d", "1f", "1g", "3f", "7a"}
ABOUT_LAYERS = ABOUT_BOTH | {"2", "2a", "2b", "2c", "2f", "2g", "2i", "2j", "2k", "2l", "2m"}
LETTERS = {1: "abcdefg", 2: "abcdefghijklmn", 3: "abcdefghij", 4: "abcdefghijk", 7: "abc"}
IN_PAPER = {f"{number}{letter}" for number, letters in LETTERS.items() for letter in letters}


def router_of(ops, dtype=None):
    """Equations 1, 2 and 3 by either set of functions, in a precision of its own where one is asked for."""

    def router(x_td, wr_de, C):
        x_td, wr_de = (np.asarray(array, dtype) for array in (x_td, wr_de))
        p_te = ops.router_probs(x_td, wr_de) if ops is eq else ops.softmax(ops.router_logits(x_td, wr_de))
        expert_t = ops.top1(p_te)
        return p_te, expert_t, ops.gate(p_te, expert_t), ops.slots(expert_t, wr_de.shape[1], C)

    return router


def layer_of(ops, dtype=None):
    """Equations 1, 3, 7 and 2 in a row."""

    def layer(x_td, wr_de, wi_edf, wo_efd, C):
        x_td, wi_edf, wo_efd = (np.asarray(array, dtype) for array in (x_td, wi_edf, wo_efd))
        _, expert_t, gate_t, slot_t = router_of(ops, dtype)(x_td, wr_de, C)
        return ops.mixture(x_td, expert_t, slot_t, gate_t, wi_edf, wo_efd, C, ops.relu)

    return layer


def crashes(*_):
    raise ZeroDivisionError("on purpose")


def leaves(*_):
    raise SystemExit(3)


def changed(**other):
    """A right router, but for some of its answers."""

    def router(x_td, wr_de, C):
        names = ("p_te", "expert_t", "gate_t", "slot_t")
        answer = dict(zip(names, exhibits.right(x_td, wr_de, C), strict=True))
        return [other.get(name, lambda it: it)(it) for name, it in answer.items()]

    return router


BAD_ROUTERS = {
    "calling it gave ZeroDivisionError: on purpose": crashes,
    "calling it gave SystemExit: 3": leaves,
    "calling it gave TypeError: 'NoneType' object is not iterable": lambda *_: None,
    "it gave 3 arrays, expected the 4 p_te, expert_t, gate_t, slot_t": lambda *args: exhibits.right(*args)[:3],
    "p_te holds NaN or infinity, expected finite numbers": changed(p_te=lambda it: it * np.nan),
    "gate_t holds NaN or infinity, expected finite numbers": changed(gate_t=lambda it: it / 0),
    "gate_t is (1, 1), expected (1,)": changed(gate_t=lambda it: it[:, None]),
    "expert_t is float64, expected whole numbers": changed(expert_t=lambda it: it.astype(float)),
    "expert_t is object, expected whole numbers": changed(expert_t=lambda it: it.astype(object)),
    "slot_t is bool, expected whole numbers": changed(slot_t=lambda it: it >= 0),
    "p_te is int64, expected floating point": changed(p_te=lambda it: np.rint(it).astype(int)),
    "expert_t names an expert from 9 to 9, expected 0 to 0": changed(expert_t=lambda it: it + 9),
}
BAD_LAYERS = {
    "calling it gave ZeroDivisionError: on purpose": crashes,
    "y_td is object, expected": lambda x_td, *_: x_td.astype(object),
    "y_td is (), expected": lambda *_: None,
    "y_td is (1,), expected (1, 1)": lambda x_td, *_: x_td[:, 0],
    "y_td holds NaN": lambda x_td, *_: x_td * np.inf,
    "y_td is complex64, expected floating point": lambda x_td, *_: x_td.astype(np.complex64),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("kind", "wrong", "ids"), EXHIBITS)
def test_every_exhibit_is_flagged_by_the_property_that_it_breaks(kind, wrong, ids, dtype):
    report = conformance.check(**{kind: wrong}, dtype=dtype)

    assert ids <= set(report.broken), report


@pytest.mark.parametrize("name", EXACTLY)
def test_an_exhibit_that_breaks_one_thing_is_not_blamed_for_others(name):
    report = conformance.check(router=getattr(exhibits, name))

    assert set(report.broken) == EXACTLY[name]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("ops", [eq, kernels], ids=["equations", "kernels"])
def test_what_is_right_passes_everything(ops, dtype, seed):
    report = conformance.check(router=router_of(ops), layer=layer_of(ops), seed=seed, dtype=dtype)

    assert report.broken == {}, report
    assert report.holds == ABOUT_ROUTERS | ABOUT_LAYERS


@pytest.mark.parametrize(("inside", "outside"), [("float32", "float64"), ("float64", "float32")])
def test_a_callable_may_compute_in_a_precision_of_its_own(inside, outside):
    report = conformance.check(router=router_of(eq, inside), layer=layer_of(eq, inside), dtype=outside)

    assert report.broken == {}, report


def test_a_gate_on_the_input_of_relu_experts_is_the_same_function():
    report = conformance.check(layer=exhibits.the_gate_scales_the_experts_input)

    assert report.broken == {}, report


def test_lists_will_do_for_arrays():
    router, layer = changed(expert_t=list, slot_t=list), lambda *args: exhibits.right_layer(*args).tolist()

    report = conformance.check(router=router, layer=layer)

    assert report.broken == {}, report


@pytest.mark.parametrize("why", BAD_ROUTERS)
def test_a_router_that_gives_no_answer_gets_a_report(why):
    report = conformance.check(router=BAD_ROUTERS[why])

    assert report.broken["call"].why == why
    assert {"x_td", "wr_de", "C"} <= set(report.broken["call"].arrays)
    assert "BROKEN" in str(report)


@pytest.mark.parametrize("why", BAD_LAYERS)
def test_a_layer_that_gives_no_answer_gets_a_report(why):
    report = conformance.check(layer=BAD_LAYERS[why])

    assert report.broken["call"].why.startswith(why)
    assert set(report.broken) <= {"call", "pure", "E11"}


def test_what_a_failing_call_hides_is_not_said_to_hold():
    report = conformance.check(router=crashes)

    assert report.holds == set()
    assert set(report.broken) == {"call"}
    assert report.not_applicable["3b"] == "a call of the router fails, see call"


def test_a_router_that_fails_now_and_then_is_judged_where_it_answers():
    def moody(x_td, wr_de, C):
        return crashes() if len(x_td) == 3 else exhibits.the_gate_is_renormalised(x_td, wr_de, C)

    report = conformance.check(router=moody)

    assert {"call", "1g"} <= set(report.broken)
    assert len(report.broken["call"].arrays["x_td"]) == 3


def test_a_good_layer_does_not_hide_a_bad_router():
    report = conformance.check(router=exhibits.capacity_is_ignored, layer=layer_of(eq))

    assert report.broken["3b"].subject == "router"


def test_a_layer_that_remembers_its_first_answer_is_found_out():
    answers = {}

    def forgetful(x_td, wr_de, wi_edf, wo_efd, C):
        return answers.setdefault(
            (x_td.shape, wr_de.shape, wi_edf.shape, C), exhibits.right_layer(x_td, wr_de, wi_edf, wo_efd, C)
        )

    report = conformance.check(layer=forgetful)

    assert {"2", "2d"} <= set(report.broken)


@pytest.mark.parametrize("seed", range(10))
def test_nothing_that_is_answered_makes_the_check_itself_fail(seed):
    rng = np.random.default_rng(seed)
    loud = [0.0, -0.0, 1.0, -1.0, 1e308, -1e308, 5e-324]
    whole = [-(2**63), -2, -1, 0, 1, 7, 2**31, 2**63 - 1]

    def router(x_td, wr_de, C):
        (T, _), (_, E) = x_td.shape, wr_de.shape
        return rng.choice(loud, (T, E)), rng.integers(E, size=T), rng.choice(loud, T), rng.choice(whole, T)

    report = conformance.check(router=router, layer=lambda x_td, *_: rng.choice(loud, x_td.shape))

    assert {"1", "2", "3b"} <= set(report.broken)
    assert "BROKEN" in str(report)


def test_one_seed_makes_one_report():
    first, again = (conformance.check(router=exhibits.one_too_many_is_kept, layer=layer_of(eq), seed=5) for _ in range(2))

    assert str(first) == str(again)


def test_another_seed_draws_other_cases():
    first, other = (conformance.check(router=exhibits.softmax_runs_twice, seed=seed).broken["1"] for seed in (0, 1))

    assert not np.array_equal(first.arrays["x_td"], other.arrays["x_td"])


@pytest.mark.parametrize("seed", range(5))
def test_a_counterexample_is_small(seed):
    report = conformance.check(router=exhibits.capacity_is_ignored, layer=exhibits.the_gate_is_applied_twice, seed=seed)

    x_td, wr_de = (report.broken["3b"].arrays[name] for name in ("x_td", "wr_de"))
    assert len(x_td) + wr_de.size <= 5
    assert len(report.broken["2b"].arrays["x_td"]) <= 3


def test_a_counterexample_can_be_run():
    shown = conformance.check(router=exhibits.capacity_is_ignored).broken["3a"]
    x_td, wr_de, C, expert_t, kept_t = (shown.arrays[name] for name in ("x_td", "wr_de", "C", "expert_t", "kept_t"))

    _, again_t, _, slot_t = exhibits.capacity_is_ignored(x_td, wr_de, C)

    np.testing.assert_array_equal(again_t, expert_t)
    np.testing.assert_array_equal(slot_t >= 0, kept_t)
    assert max(np.bincount(expert_t)) > C


def test_a_report_has_a_row_for_every_property_of_the_paper():
    report = conformance.check(layer=exhibits.the_gate_is_applied_twice)
    words = set(str(report).split())

    assert words >= IN_PAPER
    assert set(report.holds) | set(report.broken) | set(report.not_applicable) >= IN_PAPER | set(conformance.CLAIMS)
    assert not report.holds & (set(report.broken) | set(report.not_applicable))
    assert "1a    not applicable  a token's probabilities are not negative and sum to 1 (needs a router)" in str(report)
    assert "the layer: scale_t[" in str(report)


@pytest.mark.parametrize(
    ("kind", "right", "ids"), [("router", router_of(eq), ABOUT_ROUTERS), ("layer", layer_of(eq), ABOUT_LAYERS)]
)
def test_each_is_judged_by_what_it_can_show(kind, right, ids):
    report = conformance.check(**{kind: right})

    assert report.holds == ids


def test_a_check_takes_seconds():
    start = time.perf_counter()

    conformance.check(router=router_of(kernels), layer=layer_of(kernels))

    assert time.perf_counter() - start < 10


def test_a_check_leaves_numpys_error_state_alone():
    with np.errstate(all="raise"):
        report = conformance.check(router=exhibits.softmax_takes_nothing_off)

        assert set(np.geterr().values()) == {"raise"}
    assert set(report.broken) == {"1e"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "check was given neither a router nor a layer, expected at least one"),
        ({"router": crashes, "dtype": "float16"}, "dtype is 'float16', expected 'float32' or 'float64'"),
        ({"router": crashes, "seed": -1}, "seed is -1, expected a whole number of 0 or more"),
    ],
)
def test_a_check_of_nothing_is_refused(arguments, sentence):
    with pytest.raises(errors.InputError) as refused:
        conformance.check(**arguments)

    assert str(refused.value) == sentence
