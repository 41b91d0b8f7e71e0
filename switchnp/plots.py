"""The command `switchnp plot`, and a training run as one picture; matplotlib is imported where it draws."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import accumulate
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from .errors import InputError, MissingExtra
from .files import as_path, replacing, shown, writable
from .history import Metrics, Series, metrics_of, read_metrics

__all__ = ["draw", "metrics_of", "plot", "read_metrics", "write"]

ALL = "all"
ACROSS = 4
LARGEST_PICTURE = 1 << 24
_UNDATED: dict[str, dict[str, None]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {}}
_BLACK, _GREY, _BLUE, _RED = "#000000", "#767676", "#0072B2", "#D55E00"
_HUES = (_BLUE, _RED, "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8C510A")  # after Okabe and Ito, who chose them for all eyes
_MARKERS = "os^vDPX<>"
_ABOVE: dict[str, Any] = {
    "loc": "lower right",
    "bbox_to_anchor": (1.04, 0.97),
    "ncols": 3,
    "columnspacing": 1.0,
    "handlelength": 1.2,
}
_RAMPS = ("Blues", "Oranges", "Purples", "Greys")
_STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": "#333333",
    "axes.edgecolor": _GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "legend.labelspacing": 0.3,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.5,
    "xtick.color": _GREY,
    "ytick.color": _GREY,
    "xtick.labelcolor": "#333333",
    "ytick.labelcolor": "#333333",
    "svg.hashsalt": "switchnp",
    "savefig.dpi": 200,
}


def plot(options: argparse.Namespace) -> str:
    """Draw a training run: its losses, how it routed, and how right its answers were, over its steps."""
    target = as_path(options.run) / "metrics.svg" if options.output is None else as_path(options.output)
    if target.suffix not in _UNDATED:
        raise InputError(f"{shown(target)} is no name of a picture, expected one that ends in {', '.join(_UNDATED)}")
    metrics = read_metrics(options.run)
    write(draw(metrics), target)
    last = _last(metrics)
    return json.dumps({"picture": str(target), **last}, indent=1) if options.json else f"{shown(target)}: {_said(last)}"


def draw(metrics: Metrics) -> Any:
    """A matplotlib Figure of everything that a run has numbers of; a notebook shows it after `%matplotlib inline`.

    Losses, learning rate, gradient norm and speed; balance, dropped tokens, router entropy and specialisation of each layer;
    exact match, token accuracy and loss of each task; the load of every expert. Raises MissingExtra without matplotlib.
    """
    matplotlib = _matplotlib()
    rows = [row for row in (_learning(metrics), _layers(metrics), _tasks(metrics), *_loads(metrics)) if row.panels]
    if not rows:
        raise InputError("these metrics have no numbers, expected some to draw")
    columns = max(len(row.panels) for row in rows)
    with matplotlib.rc_context(_STYLE):
        figure = matplotlib.figure.Figure(figsize=(3.1 * columns + 1.2, 2.2 * len(rows)), layout="constrained")
        cells = figure.add_gridspec(len(rows), columns)
        for r, row in enumerate(rows):
            for c, panel in enumerate(row.panels):
                axes = figure.add_subplot(cells[r, c])
                panel.onto(axes, panel.series)
                axes.set(title=panel.title, xlabel="step", ylabel=panel.label, xlim=(0, max(1, metrics.last_step)))
                axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4, integer=True))
                axes.xaxis.set_major_formatter("{x:,.0f}")
            if row.key is not None:
                row.key(axes).set_in_layout(len(row.panels) == columns)
    return figure


class _Panel(NamedTuple):
    """One small picture, and what draws its series onto axes."""

    title: str
    label: str
    series: Mapping[str, Series]
    onto: Callable[[Any, Mapping[str, Series]], None]


class _Row(NamedTuple):
    """Pictures side by side, and what draws the key to them beside the last, if they share one."""

    panels: list[_Panel]
    key: Callable[[Any], Any] | None


def _learning(metrics: Metrics) -> _Row:
    total, task, evaluation = metrics.loss, metrics.task_loss, metrics.evaluation_loss.get(ALL, Series([], []))
    losses = {"total": total, "task": task if task != total else Series([], []), "evaluation": evaluation}
    styles = {"total": {"color": _BLACK}, "task": {"color": _BLUE}, "evaluation": {"color": _RED, "marker": "D", "linestyle": ""}}
    curves, means = partial(_curves, styles=styles), partial(_means, styles=styles)
    panels = [
        _Panel("loss", "nats per word", losses, partial(_losses, styles=styles)),
        _Panel("learning rate", "factor of a step", {"total": metrics.rate}, partial(curves, bottom=0)),
        _Panel("gradient norm", "before clipping", {"total": metrics.gradient_norm}, means),
        _Panel("speed", "tokens per second", {"total": metrics.tokens_per_second}, partial(means, bottom=0)),
    ]
    return _Row(_filled(panels), None)


def _layers(metrics: Metrics) -> _Row:
    styles = _layer_styles([*metrics.balance, *metrics.load, *metrics.specialisation])
    curves, means = partial(_curves, styles=styles), partial(_means, styles=styles)
    counts = sorted({len(series.values[0]) for series in metrics.load.values()})
    undecided = {f"ln {count}: no preference": math.log(count) for count in counts}
    panels = [
        _Panel("balance", "E Σ (load × probability)", metrics.balance, partial(means, levels={"1: even": 1.0})),
        _Panel("dropped", "% of tokens", _percent(metrics.dropped), partial(means, bottom=0)),
        _Panel("router entropy", "nats", metrics.entropy, partial(means, levels=undecided, bottom=0)),
        _Panel("specialisation", "I(expert; task), nats", metrics.specialisation, partial(curves, bottom=0)),
    ]
    return _Row(_filled(panels), partial(_legend, styles=styles))


def _tasks(metrics: Metrics) -> _Row:
    styles = _task_styles([*metrics.exact_match, *metrics.token_accuracy, *metrics.evaluation_loss])
    curves = partial(_curves, styles=styles)
    panels = [
        _Panel("exact match", "% of answers", _percent(metrics.exact_match), partial(curves, bottom=0)),
        _Panel("token accuracy", "% of words", _percent(metrics.token_accuracy), partial(curves, bottom=0)),
        _Panel("evaluation loss", "nats per word", metrics.evaluation_loss, curves),
    ]
    return _Row(_filled(panels), partial(_legend, styles=styles))


def _filled(panels: Iterable[_Panel]) -> list[_Panel]:
    """Those of the panels that have data, with those of the series that have."""
    found = [panel._replace(series={name: it for name, it in panel.series.items() if it.steps}) for panel in panels]
    return [panel for panel in found if panel.series]


def _loads(metrics: Metrics) -> list[_Row]:
    """Maps of the load of experts, of one scale."""
    loads = list(_percent(metrics.load).items())
    shares = [share for _, series in loads for shares in series.values for share in shares]
    heat = partial(_heat, top=_usual(shares)[1] if shares else 0.0)
    panels = [_Panel(f"load of {_name(layer)}", "expert", {layer: series}, heat) for layer, series in loads]
    return [_Row(panels[n : n + ACROSS], _colourbar) for n in range(0, len(panels), ACROSS)]


def _percent(found: Mapping[str, Series]) -> dict[str, Series]:
    def times(value: Any) -> Any:
        return [100 * share for share in value] if isinstance(value, (list, tuple)) else 100 * value

    return {name: Series(steps, list(map(times, values))) for name, (steps, values) in found.items()}


def _layer_styles(layers: Iterable[str]) -> dict[str, dict[str, Any]]:
    """A hue and a kind of line for each stack, darker with depth."""
    import matplotlib

    stacks: dict[str, list[str]] = {}
    for layer in dict.fromkeys(layers):
        stacks.setdefault(layer.partition("/")[0], []).append(layer)
    styles = {}
    for n, stack in enumerate(stacks.values()):
        ramp = matplotlib.colormaps[_RAMPS[n % len(_RAMPS)]]
        for depth, layer in enumerate(stack, 1):
            styles[layer] = {"color": ramp(0.4 + 0.55 * depth / len(stack)), "linestyle": ("-", "--", "-.", ":")[n % 4]}
    return styles


def _task_styles(tasks: Iterable[str]) -> dict[str, dict[str, Any]]:
    """A colour and a marker for each task; no two have both."""
    styles: dict[str, dict[str, Any]] = {}
    for n, task in enumerate(dict.fromkeys(tasks)):
        looks = {"color": _HUES[n % len(_HUES)], "marker": _MARKERS[n % len(_MARKERS)]}
        styles[task] = {"color": _BLACK, "linewidth": 2.0} if task == ALL else looks
    return styles


def _curves(
    axes: Any,
    found: Mapping[str, Series],
    styles: Mapping[str, dict[str, Any]],
    levels: Mapping[str, float] = MappingProxyType({}),
    bottom: float | None = None,
) -> None:
    """Lines, and levels to compare them with by what they mean."""
    values = [value for series in found.values() for value in series.values]
    for name, series in found.items():
        axes.plot(*series, **{"marker": "o" if len(series.steps) == 1 else "", "clip_on": False, **styles[name]})
    axes.margins(y=0.15 if levels else 0.05)
    for meaning, level in levels.items():
        axes.axhline(level, color=_GREY, linewidth=0.8, linestyle=":")
        side = "bottom" if level > sum(values) / len(values) else "top"
        axes.annotate(meaning, (0.99, level), xycoords=("axes fraction", "data"), ha="right", va=side, color=_GREY, size=7)
    _scale(axes, values, bottom)


def _means(axes: Any, found: Mapping[str, Series], styles: Mapping[str, dict[str, Any]], **options: Any) -> None:
    """Running means as lines, and behind them, faint, what they are the means of; its rarest values may be off the picture."""
    from matplotlib.lines import Line2D

    for name, (steps, values) in found.items():
        axes.add_artist(Line2D(steps, values, **{**styles[name], "linewidth": 0.6, "alpha": 0.25}))
        axes.update_datalim([(steps[0], edge) for edge in _usual(values)])
    _curves(axes, {name: Series(steps, _running_mean(values)) for name, (steps, values) in found.items()}, styles, **options)


def _losses(axes: Any, found: Mapping[str, Series], styles: Mapping[str, dict[str, Any]]) -> None:
    """Losses of training as lines, of evaluations as points, with a legend of their own."""
    for draws, names in ((_curves, found.keys() & {"evaluation"}), (_means, found.keys() - {"evaluation"})):
        if names:
            draws(axes, {name: found[name] for name in found if name in names}, styles)
    axes.legend(_samples(styles[name] for name in found), list(found), **_ABOVE)


def _usual(values: list[float]) -> tuple[float, float]:
    """Between which two all but the lowest and the highest hundredth of values are."""
    ordered, rare = sorted(values), len(values) // 100
    return ordered[rare], ordered[-1 - rare]


def _running_mean(values: list[float]) -> list[float]:
    """The mean of the values around each: a twenty-fifth of all."""
    sums, reach = list(accumulate(values, initial=0.0)), len(values) // 50
    spans = [(max(0, n - reach), min(len(values), n + reach + 1)) for n in range(len(values))]
    return [(sums[end] - sums[start]) / (end - start) for start, end in spans]


def _scale(axes: Any, values: list[float], bottom: float | None) -> None:
    """From the bottom where there is one; else logarithmic where some values are more than ten times as large as others."""
    from matplotlib import ticker

    if bottom is not None:
        axes.set_ylim(bottom=bottom)
    elif 0 < 10 * min(values) < max(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if max(values) < 200 * min(values) else (1,)))
        axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    axes.yaxis.set_major_formatter("{x:,g}")


def _heat(axes: Any, found: Mapping[str, Series], top: float) -> None:
    """The share of every expert, from each step that was written down to the next."""
    for steps, values in found.values():
        edges = [max(0, 2 * steps[0] - steps[1]) if len(steps) > 1 else 0, *steps]
        experts = [n - 0.5 for n in range(len(values[0]) + 1)]
        columns = list(zip(*values, strict=True))
        axes.pcolormesh(edges, experts, columns, cmap="cividis", vmin=0, vmax=top, rasterized=True)
    axes.yaxis.get_major_locator().set_params(nbins=5, integer=True)
    axes.grid(False)


def _legend(axes: Any, styles: Mapping[str, dict[str, Any]]) -> Any:
    columns = 1 + (len(styles) - 1) // 8
    place = {"loc": "upper left", "bbox_to_anchor": (1.02, 1.05)}
    return axes.legend(_samples(styles.values()), list(map(_name, styles)), ncols=columns, **place)


def _samples(styles: Iterable[dict[str, Any]]) -> list[Any]:
    from matplotlib.lines import Line2D

    return [Line2D([], [], **style) for style in styles]


def _colourbar(axes: Any) -> Any:
    room = axes.inset_axes([1.04, 0, 0.05, 1])
    axes.figure.colorbar(axes.collections[0], cax=room, label="% of tokens", extend="max").outline.set_visible(False)
    return room


def _name(text: str) -> str:
    """A name from outside as matplotlib may write it, which takes what is between dollars for a formula."""
    return shown(text if len(text) <= 28 else f"{text[:27]}…").replace("$", r"\$")


def write(figure: Any, target: Path) -> None:
    """The picture as a file, whole or not at all; the same bytes for the same picture."""
    import matplotlib

    kind = target.suffix.removeprefix(".")
    with replacing(target, LARGEST_PICTURE, force=True) as temporary, writable(target), matplotlib.rc_context(_STYLE):
        figure.savefig(temporary, format=kind, metadata=_UNDATED[target.suffix])


def _last(metrics: Metrics) -> dict[str, Any]:
    """The last of the numbers that tell how a run stands; of layers the worst."""
    numbers = {
        "loss": [metrics.loss],
        "balance": metrics.balance.values(),
        "dropped": metrics.dropped.values(),
        "evaluation_loss": [series for task, series in metrics.evaluation_loss.items() if task == ALL],
        "exact_match": [series for task, series in metrics.exact_match.items() if task == ALL],
    }
    last = {name: [series.values[-1] for series in found if series.steps] for name, found in numbers.items()}
    return {"step": metrics.last_step} | {name: max(values) for name, values in last.items() if values}


def _said(last: Mapping[str, Any]) -> str:
    """Numbers as words between commas."""
    forms = {"step": ",", "dropped": ".1%", "exact_match": ".1%"}
    return ", ".join(f"{name.replace('_', ' ')} {value:{forms.get(name, ',.4g')}}" for name, value in last.items())


def _matplotlib() -> Any:
    try:
        import matplotlib.figure
        import matplotlib.ticker
    except ImportError:
        raise MissingExtra("a picture needs matplotlib, expected: pip install 'switchnp[plots]'") from None
    return matplotlib
