"""A run's metrics as read from its folder, and the picture of them."""

import json
import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchnp.errors import FileError, InputError, MissingExtra
from switchnp.plots import draw, metrics_of, read_metrics

LAYERS = ("encoder/1", "decoder/1")
EXPERTS = 4


def trained(step, layers=LAYERS, **changes):
    """What a trainer writes down of a step; layer n drops n thousandths."""
    load = [0.4, 0.3, 0.2, 0.1]
    inside = {layer: {"balance": 1.1 + n, "dropped": n / 1000, "entropy": 1.2, "load": load} for n, layer in enumerate(layers)}
    speed = {"rate": 0.001 * step, "gradient_norm": 0.7, "tokens": 4096, "tokens_per_second": 9000.0}
    return {"step": step, "loss": 2.1 / step, "task_loss": 2.0 / step, **speed, "layers": inside, **changes}


def evaluated(step, layers=LAYERS):
    """What a trainer writes down of an evaluation; gaps have no exact answer."""
    numbers = {"items": 200, "exact_match": 0.9, "token_accuracy": 0.98, "loss": 0.05}
    tasks = {"numbers": numbers, "fill": numbers | {"exact_match": None}, "all": numbers | {"loss": 0.07}}
    return {"step": step, "evaluation": tasks, "specialisation": dict.fromkeys(layers, 0.41)}


def history(steps=6, layers=LAYERS):
    return [line for step in range(1, steps + 1) for line in (trained(step, layers), evaluated(step, layers))]


def panels(figure):
    return {axes.get_title("left"): axes for axes in figure.axes}


def colours(axes):
    """The colour of each line with a point for every step."""
    return [line.get_color() for line in axes.lines if len(line.get_xdata()) == 6]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in history()), encoding="utf-8")
    return tmp_path


# ---- reading ----


def test_every_number_is_found_at_its_step():
    metrics = metrics_of(history(2))

    assert metrics.loss == ([1, 2], [2.1, 1.05])
    assert metrics.task_loss == ([1, 2], [2.0, 1.0])
    assert metrics.rate == ([1, 2], [0.001, 0.002])
    assert metrics.gradient_norm == ([1, 2], [0.7, 0.7])
    assert metrics.tokens == ([1, 2], [4096, 4096])
    assert metrics.tokens_per_second == ([1, 2], [9000.0, 9000.0])
    assert metrics.balance == {"encoder/1": ([1, 2], [1.1, 1.1]), "decoder/1": ([1, 2], [2.1, 2.1])}
    assert metrics.dropped["decoder/1"] == ([1, 2], [0.001, 0.001])
    assert metrics.entropy["encoder/1"].values == [1.2, 1.2]
    assert metrics.load["encoder/1"].values == [[0.4, 0.3, 0.2, 0.1]] * 2
    assert metrics.specialisation["decoder/1"] == ([1, 2], [0.41, 0.41])
    assert metrics.exact_match == {"numbers": ([1, 2], [0.9, 0.9]), "all": ([1, 2], [0.9, 0.9])}
    assert list(metrics.token_accuracy) == ["numbers", "fill", "all"]
    assert metrics.evaluation_loss["all"] == ([1, 2], [0.07, 0.07])


def test_a_file_says_what_the_history_says(folder):
    assert read_metrics(folder) == metrics_of(history())


@given(st.permutations(history(3)))
def test_lines_are_put_in_the_order_of_their_steps(lines):
    metrics = metrics_of(lines)

    assert metrics.loss == metrics_of(history(3)).loss
    assert metrics.specialisation == metrics_of(history(3)).specialisation


def test_of_a_step_that_comes_twice_the_last_word_holds():
    assert metrics_of([trained(1), trained(2, loss=9.0), trained(2, loss=5.0)]).loss == ([1, 2], [2.1, 5.0])


def test_a_line_cut_off_anywhere_is_passed_over_at_the_end_and_nowhere_else(folder):
    file = folder / "metrics.jsonl"
    whole, line = file.read_bytes(), json.dumps(trained(7, layers=("encoder/ä",)), ensure_ascii=False).encode()

    for end in range(len(line)):
        file.write_bytes(whole + line[:end])
        assert read_metrics(folder) == metrics_of(history())
    file.write_bytes(whole + line)
    assert read_metrics(folder).loss.steps[-1] == 7
    file.write_bytes(whole + line[:-1] + b"\n" + line)
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 13, is damaged: "):
        read_metrics(folder)


@pytest.mark.parametrize(
    "line, message",
    [
        (b"{", "is damaged: "),
        (b"\xff", "is damaged: "),
        (b"[]", "is damaged: it is a list, expected a JSON object"),
        (b'{"step": 1, "loss": NaN}', "is damaged: NaN is not a number"),
        (b'{"loss": 1.0}', "has the step None, expected a whole number of 0 or more"),
        (b'{"step": -1, "loss": 1.0}', "has the step -1, expected"),
        (b'{"step": 1.5, "loss": 1.0}', "has the step 1.5, expected"),
        (b'{"step": true, "loss": 1.0}', "has the step True, expected"),
        (b'{"step": 1, "rate": 1.0}', "has neither a loss nor an evaluation"),
        (b'{"step": 1, "loss": "2"}', "has no finite number as loss, expected one"),
        (b'{"step": 1, "loss": true}', "has no finite number as loss"),
        (b'{"step": 1, "loss": 1, "layers": []}', "has no object as layers"),
        (b'{"step": 1, "loss": 1, "layers": {"a": 1}}', r"has no object as layers\.a"),
        (b'{"step": 1, "loss": 1, "layers": {"a": {"load": 1}}}', r"has no list of finite numbers as layers\.a\.load"),
        (b'{"step": 1, "loss": 1, "layers": {"a": {"load": []}}}', r"has no list of finite numbers as layers\.a\.load"),
        (b'{"step": 1, "loss": 1, "layers": {"a": {"load": [null]}}}', r"has no list of finite numbers as layers\.a\.load"),
        (b'{"step": 1, "evaluation": {"all": {"loss": []}}}', r"has no finite number as evaluation\.all\.loss"),
        (b'{"step": 1, "evaluation": {}, "specialisation": {"a": {}}}', r"has no finite number as specialisation\.a"),
    ],
)
def test_a_damaged_line_is_named(folder, line, message):
    file = folder / "metrics.jsonl"
    first, rest = file.read_bytes().split(b"\n", 1)
    file.write_bytes(first + b"\n" + line + b"\n" + rest)

    with pytest.raises(InputError, match=rf"metrics\.jsonl, line 2, {message}"):
        read_metrics(folder)


def test_what_is_no_run_explains_itself(tmp_path):
    with pytest.raises(FileError, match=r"metrics\.jsonl cannot be read"):
        read_metrics(tmp_path)
    (tmp_path / "metrics.jsonl").write_bytes(b'\n{"step"')
    with pytest.raises(InputError, match="has no lines"):
        read_metrics(tmp_path)
    with pytest.raises(InputError, match="the history is empty"):
        metrics_of([])
    with pytest.raises(InputError, match="item 2 of the history has no object as a whole"):
        metrics_of([trained(1), "loss"])
    with pytest.raises(InputError, match=r"load of encoder/1 is of \[1, 4\] experts"):
        metrics_of([trained(1), trained(2) | {"layers": {"encoder/1": {"load": [1.0]}}}])


# ---- drawing ----


def test_a_sparse_run_has_every_panel():
    figure = draw(metrics_of(history()))

    learning = ["loss", "learning rate", "gradient norm", "speed"]
    layers = ["balance", "dropped", "router entropy", "specialisation"]
    tasks = ["exact match", "token accuracy", "evaluation loss"]
    assert list(panels(figure)) == [*learning, *layers, *tasks, "load of encoder/1", "load of decoder/1"]
    assert [panels(figure)[row[-1]].get_legend().get_in_layout() for row in (layers, tasks)] == [True, False]
    assert all(axes.get_xlabel() == "step" and axes.get_ylabel() for axes in panels(figure).values())


@pytest.mark.parametrize(
    "lines, missing",
    [
        ([trained(1)], {"specialisation", "exact match", "token accuracy", "evaluation loss"}),
        ([trained(1, layers={}), evaluated(1, layers=())], {"balance", "dropped", "router entropy", "load of encoder/1"}),
        ([evaluated(1)], {"learning rate", "gradient norm", "speed", "balance", "load of encoder/1"}),
        ([{"step": 0, "loss": 1.0, "layers": {"a": {"load": [0.5, 0.5]}}}], {"learning rate", "balance", "exact match"}),
    ],
    ids=["no evaluation", "dense", "no training", "step 0"],
)
def test_panels_without_data_are_left_out(lines, missing):
    drawn = panels(draw(metrics_of(lines)))

    assert "loss" in drawn and not missing & drawn.keys()


def test_metrics_without_a_number_are_not_drawn():
    empty = metrics_of([{"step": 1, "evaluation": {}}])

    with pytest.raises(InputError, match="no numbers"):
        draw(empty)
    assert empty.last_step == 0


def test_one_step_alone_is_seen():
    drawn = panels(draw(metrics_of([trained(3)])))

    assert drawn["gradient norm"].lines[0].get_xdata() == [3]
    assert drawn["gradient norm"].lines[-1].get_marker() == "o"
    assert drawn["load of encoder/1"].collections[0].get_coordinates()[0, :, 0].tolist() == [0, 3]


def test_every_layer_has_a_map_of_its_load():
    layers = [f"encoder/{n}" for n in range(9)]

    drawn = panels(draw(metrics_of([trained(1, layers), trained(2, layers)])))

    assert {f"load of {layer}" for layer in layers} <= drawn.keys()


def test_a_layer_or_task_has_one_colour_everywhere():
    drawn = panels(draw(metrics_of(history())))

    layers = colours(drawn["specialisation"])
    assert len(set(layers)) == 2
    for title in ("balance", "dropped", "router entropy"):
        assert set(colours(drawn[title])) == set(layers), title
    assert colours(drawn["exact match"]) == colours(drawn["token accuracy"])[::2]
    assert colours(drawn["token accuracy"]) == colours(drawn["evaluation loss"])


def test_no_two_of_many_tasks_or_layers_look_alike():
    stacks = [f"{stack}/{n}" for stack in ("encoder", "decoder") for n in range(12)]
    tasks = {f"task {n}": {"loss": 1.0, "exact_match": 0.5} for n in range(30)}
    line = {"step": 1, "evaluation": tasks, "specialisation": dict.fromkeys(stacks, 0.1)}

    drawn = panels(draw(metrics_of([line])))

    for title, count in (("exact match", 30), ("specialisation", 24)):
        looks = {(str(line.get_color()), line.get_marker(), line.get_linestyle()) for line in drawn[title].lines}
        assert len(looks) == count


def test_levels_to_compare_with_are_drawn():
    drawn = panels(draw(metrics_of(history())))

    for title, level in (("balance", 1.0), ("router entropy", math.log(EXPERTS))):
        assert level in [line.get_ydata()[0] for line in drawn[title].lines if len(line.get_xdata()) == 2], title


def test_percentages_are_of_a_hundred():
    drawn = panels(draw(metrics_of(history())))

    assert drawn["exact match"].lines[0].get_ydata() == pytest.approx([90.0] * 6)
    assert drawn["dropped"].lines[-1].get_ydata() == pytest.approx([0.1] * 6)
    mesh = drawn["load of encoder/1"].collections[0]
    assert mesh.get_array()[:, 0].tolist() == pytest.approx([40, 30, 20, 10])
    assert mesh.get_clim() == pytest.approx((0, 40))


def test_evaluations_are_points_and_the_task_is_left_out_where_it_is_the_total():
    both = panels(draw(metrics_of(history())))["loss"]
    alone = panels(draw(metrics_of([line | {"task_loss": line.get("loss")} for line in history()])))["loss"]

    assert [text.get_text() for text in both.get_legend().get_texts()] == ["total", "task", "evaluation"]
    assert [text.get_text() for text in alone.get_legend().get_texts()] == ["total", "evaluation"]
    assert [0.07] * 6 in [list(line.get_ydata()) for line in both.lines if line.get_linestyle() == "None"]


@given(st.floats(0.1, 10), st.integers(100, 400))
def test_the_running_mean_of_a_constant_is_that_constant(value, count):
    lines = panels(draw(metrics_of([{"step": n, "loss": value} for n in range(1, count + 1)])))["loss"].lines

    assert lines[-1].get_ydata() == pytest.approx([value] * count)


def test_a_running_mean_is_calmer_than_its_values_which_stay_visible():
    losses = [1.0 + n % 2 for n in range(200)]

    faint, mean = panels(draw(metrics_of([{"step": n, "loss": loss} for n, loss in enumerate(losses)])))["loss"].lines

    assert list(faint.get_ydata()) == losses
    assert all(1.3 < value < 1.7 for value in mean.get_ydata())


def test_one_rare_value_does_not_set_the_scale():
    norms = [1000.0 if n == 100 else 1.0 + n % 2 for n in range(1, 300)]
    drawn = panels(draw(metrics_of([trained(n, gradient_norm=norm) for n, norm in enumerate(norms, 1)])))["gradient norm"]

    assert drawn.get_ylim()[0] < 1 and 2 < drawn.get_ylim()[1] < 200
    assert max(drawn.lines[0].get_ydata()) == 1000


def test_values_of_many_sizes_are_drawn_on_logarithms():
    near, far = ([trained(n, gradient_norm=base**n) for n in range(1, 4)] for base in (1.5, 10.0))

    scales = [panels(draw(metrics_of(lines)))["gradient norm"].get_yscale() for lines in (near, far)]

    assert scales == ["linear", "log"]
    assert panels(draw(metrics_of([trained(1, gradient_norm=0.0), trained(2)])))["gradient norm"].get_yscale() == "linear"


def test_any_name_of_a_task_can_be_written(tmp_path):
    scores = {name: {"loss": 1.0} for name in ("$x", "_hidden", "a" * 300, "line\nbreak", r"$\frac$", "all")}

    figure = draw(metrics_of([{"step": 1, "evaluation": scores}]))

    figure.savefig(tmp_path / "names.png", format="png")
    names = [text.get_text() for text in panels(figure)["evaluation loss"].get_legend().get_texts()]
    assert len(names) == 6 and max(map(len, names)) < 40 and "_hidden" in names


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    with pytest.raises(MissingExtra, match=r"pip install 'switchnp\[plots\]'"):
        draw(metrics_of(history()))


# ---- the command ----


def run(*arguments):
    command = [sys.executable, "-W", "error", "-m", "switchnp", "plot", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_command_says_where_the_picture_is_and_how_the_run_stands(folder):
    done = run(folder)

    numbers = "step 6, loss 0.35, balance 2.1, dropped 0.1%, evaluation loss 0.07, exact match 90.0%"
    assert (done.stdout, done.stderr) == (f"{folder / 'metrics.svg'}: {numbers}\n", "")
    assert "</svg>" in (folder / "metrics.svg").read_text(encoding="utf-8")
    assert sorted(path.name for path in folder.iterdir()) == ["metrics.jsonl", "metrics.svg"]


def test_the_command_answers_in_json(folder):
    said = json.loads(run(folder, "-o", folder / "run.png", "--json").stdout)

    assert said.pop("picture") == str(folder / "run.png")
    assert said == pytest.approx(
        {"step": 6, "loss": 0.35, "balance": 2.1, "dropped": 0.001, "evaluation_loss": 0.07, "exact_match": 0.9}
    )


@pytest.mark.parametrize("suffix, start", [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_the_same_run_is_the_same_bytes(folder, suffix, start):
    first, again = (folder / f"{name}.{suffix}" for name in ("first", "again"))

    run(folder, "-o", first), run(folder, "--output", again)

    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes().startswith(start)


def test_a_picture_is_replaced(folder):
    (folder / "metrics.svg").write_text("old")

    assert run(folder).returncode == 0
    assert (folder / "metrics.svg").stat().st_size > 1000


@pytest.mark.parametrize(
    "name, message", [("run.gif", "one that ends in .svg, .pdf, .png"), ("no/run.svg", "there is no folder")]
)
def test_a_picture_that_cannot_be_written_is_one_sentence(folder, name, message):
    done = run(folder, "-o", folder / name)

    assert done.returncode == 1
    assert message in done.stderr and done.stderr.count("\n") == 1


def test_the_command_costs_nothing_until_it_draws():
    code = "import sys, switchnp.plots; print([name for name in ('numpy', 'matplotlib') if name in sys.modules])"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.stdout.strip() == "[]", done.stderr
