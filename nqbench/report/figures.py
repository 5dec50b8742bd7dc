"""The figures as Vega-Lite specifications over named data, made with altair: one specification gives the interactive
figure, its PNG and its SVG. The data are ``payload.datasets``; the page fills them in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nqbench.report.data import ReportData
from nqbench.report.naming import HEIGHT, OTHERS, logarithmic, prominent, span
from nqbench.report.numbers import figure
from nqbench.results.goal import points
from nqbench.results.leaderboard import Row
from nqbench.results.record import PARTS

if TYPE_CHECKING:
    import altair as alt

MANY_BARS = 24
"""Methods in a stacked bar chart, best first."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7f7f7f", "#9467bd", "#17becf")
"""Okabe and Ito's colours, which colour-blind readers can tell apart, and four more for parts of a bar."""
SHAPES = ("circle", "square", "triangle-up", "cross", "diamond", "triangle-down")
_X = "M-0.7,-0.7L0.7,0.7M-0.7,0.7L0.7,-0.7"
"""A mark as an SVG path, from -1 to 1."""
GREY = "#73787f"
INK, SOFT = "#1b1f24", "#57606a"
"""Of front and levels; the page exchanges them for its own scheme's."""


@dataclass(frozen=True)
class Figure:
    """name: also of its CSV. data: the dataset, of which ``columns`` go into that CSV. model: '' for all of them."""

    name: str
    title: str
    caption: str
    spec: dict[str, Any] = field(repr=False)
    data: str
    columns: tuple[str, ...]
    model: str = ""
    scaled: str = ""
    """The axis whose scale a reader may choose, logarithmic or linear: x, y, or neither."""


_WHO = ("model", "configuration")


def figures(data: ReportData, datasets: dict[str, list[dict[str, Any]]]) -> list[Figure]:
    """Every figure that these records can fill, in the page's order."""
    found: list[Figure] = []
    for index, (model, rows) in enumerate(data.by_model.items(), 1):
        if any(row.metric is not None for row in rows):
            found.append(_rate_accuracy(f"{index}", model, rows, data, datasets))
        if any(row.mse for row in rows):
            found.append(_rate_distortion(f"{index}", model, data))
        if any(row["bound_bits"] is not None for row in datasets["rows"] if row["model"] == model):
            found.append(_bound(f"{index}", model, data))
        found.append(_parts(f"{index}", model, min(MANY_BARS, len(data.methods[model]))))
    if any(row.get("bits_per_symbol") for row in datasets["rows"]):
        found.append(_efficiency())
    if datasets["loss"]:
        found.append(_loss())
    if datasets["speeds"]:
        found.append(
            _speeds(len({row["coder_name"] for row in datasets["speeds"]}), all(row.measured for row in data.rows))
        )
    return found


def _chart(data: str, model: str = "") -> alt.Chart:
    import altair as alt

    chart = alt.Chart(alt.NamedData(data))
    return chart.transform_filter(alt.datum.model == model) if model else chart


def _spec(chart: Any, height: int = 320, *, bars: int = 0) -> dict[str, Any]:
    """height: in pixels, of the whole figure; bars: that many bars, and as much height as they need."""
    # not a step a bar, which Vega-Lite cannot bring together with a width of the container
    height = 22 * bars + 4 if bars else height
    # altair's validation against Vega-Lite's schema is for who writes figures: the tests draw every one of them
    spec: dict[str, Any] = chart.properties(width="container", height=height).to_dict(validate=False)
    spec["autosize"] = {"type": "fit-x" if bars else "fit", "contains": "padding"}
    spec["config"] = {
        "range": {"category": list(COLOURS)},
        "axis": {"grid": True},
        "legend": {"labelLimit": 300, "symbolOpacity": 1},
        "style": {"ink": {"color": INK}, "soft": {"color": SOFT}},
    }
    return spec


def _named(data: ReportData, model: str) -> tuple[Any, Any]:
    """Colour and shape by the names of a model's lines, best first."""
    import altair as alt

    named = prominent(data, model)
    looks = dict(zip(named.values(), zip(COLOURS, SHAPES, strict=False), strict=False))
    if any(row.method not in named for row in data.by_model[model]):
        looks[OTHERS] = (GREY, "circle")
    colours, shapes = zip(*looks.values(), strict=True)
    legend = alt.Legend(orient="bottom", columns=1, title=None)
    colour = alt.Color("line:N", scale=alt.Scale(domain=list(looks), range=colours), legend=legend)
    shape = alt.Shape("line:N", scale=alt.Scale(domain=list(looks), range=shapes), legend=legend)
    return colour, shape


def ticks(low: float, high: float) -> list[float]:
    """Round numbers of a logarithmic axis, few enough for their labels to stand beside one another: left to itself,
    Vega labels 900,000 and not the million. low: positive."""
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    wide, usual = (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
    narrow = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
    inside: list[float] = []
    for leading in (wide, usual, narrow) if high > 50 * low else (usual, narrow):
        found = [digit * 10.0**decade for decade in decades for digit in leading]
        inside = [tick for tick in found if low * 0.95 <= tick <= high * 1.05]
        if len(inside) > 2:
            break
    return inside or [low]


def _tooltip(*names: str) -> list[Any]:
    import altair as alt

    formats = {"file_bytes": ",.0f", "metric": ".3f", "drop": ".3f", "ratio": ".2f", "mse": ".4g", "metric_std": ".3f"}
    kinds = {
        "configuration": "N",
        "model": "N",
        "line": "N",
        "coder_name": "N",
        "part": "N",
        "method": "N",
        "predictor": "N",
    }
    return [
        alt.Tooltip(f"{name}:{kinds.get(name, 'Q')}", title=name.replace("_", " "), format=formats.get(name, ""))
        for name in names
    ]


def _rate_accuracy(
    at: str, model: str, rows: Sequence[Row], data: ReportData, datasets: dict[str, list[dict[str, Any]]]
) -> Figure:
    import altair as alt

    name = next((row.metric_name for row in rows if row.metric_name), "metric")
    frame = span(rows, data.reach(model))
    colour, shape = _named(data, model)
    quoted = [row["file_bytes"] for row in datasets["published"] if row["model"] == model]
    sizes = [*(row.file_bytes for row in rows), *quoted]
    x_axis = alt.Axis(values=ticks(min(sizes), max(sizes)), format=",d")
    size = alt.X("file_bytes:Q", title="file, bytes", scale=alt.Scale(type="log", nice=False, padding=12), axis=x_axis)
    scale = alt.Scale(zero=False, nice=False, domain=list(frame) if frame else alt.Undefined)
    axis: Any = alt.Undefined
    if frame and logarithmic(rows):
        scale = alt.Scale(type="log", nice=False, domain=list(frame))
        axis = alt.Axis(values=ticks(*frame), format="~g")
    quality = alt.Y("metric:Q", title=name, scale=scale, axis=axis)
    base = _chart("rows", model).transform_filter("isValid(datum.metric)").encode(x=size, y=quality)
    tips = ("configuration", "file_bytes", "ratio", "metric", "metric_low", "metric_high", "metric_std", "drop", "rank")
    strength = alt.condition(f"datum.line == '{OTHERS}'", alt.value(0.3), alt.value(0.9))
    fits = _chart("fits", model).encode(x=size, y=quality)
    curves = fits.mark_line(clip=True, strokeWidth=1.5).encode(
        detail="method:N", order="file_bytes:Q", color=colour, opacity=strength
    )
    front = (
        base.transform_filter("datum.pareto")
        .mark_line(clip=True, interpolate="step-after", strokeWidth=2.5, strokeDash=[1, 3], style="ink")
        .encode(order="file_bytes:Q")
    )
    points = base.mark_point(filled=True, clip=True, cursor="pointer").encode(
        tooltip=_tooltip(*tips),
        color=colour,
        shape=shape,
        size=alt.condition("datum.pareto", alt.value(110), alt.value(45)),
        opacity=alt.condition(f"datum.line == '{OTHERS}' && !datum.pareto", alt.value(0.35), alt.value(1.0)),
    )
    layers = [*_levels(model, rows, data), _intervals(base, name), curves, front, points]
    if quoted:
        layers.append(_quoted(model))
    ends = [row for row in datasets["names"] if row["model"] == model]
    if ends:
        layers += _line_names(model, name, colour)
    outside = [row for row in rows if frame and row.metric is not None and not frame[0] <= row.metric <= frame[1]]
    hidden = f" {len(outside)} rows that lose more lie outside the frame." if outside else ""
    return Figure(
        f"{at}-rate-accuracy",
        f"{model}: {name} against file size",
        "A line is the isotonic fit of one method over its knob, named where it ends, points are what was measured; "
        "grey: the other methods. Dotted steps and large "
        f"marks: the Pareto front. Upright bars on it: the 95 % interval of the {name} on other examples, or one "
        f"standard deviation over seeds.{' x: quoted from papers, not measured.' if quoted else ''}{hidden}",
        _spec(alt.layer(*layers), height=HEIGHT),
        "rows",
        (
            *_WHO, "method", "file_bytes", "ratio", "metric", "metric_low", "metric_high", "metric_std", "drop", "n",
            "pareto",
        ),
        model,
        "x",
    )  # fmt: skip


def _intervals(base: Any, name: str) -> Any:
    """Upright bars on the front: its 95 % interval, or a standard deviation either way."""
    import altair as alt

    spread = "isValid(datum.metric_std) ? datum.metric_std : 0"
    ends = base.transform_filter("datum.pareto").transform_calculate(
        low=f"isValid(datum.metric_low) ? datum.metric_low : datum.metric - ({spread})",
        high=f"isValid(datum.metric_high) ? datum.metric_high : datum.metric + ({spread})",
    )
    return ends.mark_rule(clip=True, opacity=0.55, style="ink").encode(y=alt.Y("low:Q", title=name), y2="high:Q")


def _line_names(model: str, name: str, colour: Any) -> list[Any]:
    """A name at the right edge for each line, and a thin rule to where that ends."""
    import altair as alt

    base = _chart("names", model)
    leader = base.mark_rule(strokeDash=[2, 2], opacity=0.5).encode(
        x="file_bytes:Q", x2=alt.value("width"), y=alt.Y("metric:Q", title=name), y2="at:Q", color=colour
    )
    text = base.mark_text(align="left", baseline="middle", dx=6, fontSize=12, fontWeight=600, clip=False).encode(
        x=alt.value("width"), y=alt.Y("at:Q", title=name), text="line:N", color=colour
    )
    return [leader.properties(name="leaders"), text.properties(name="names")]


def _levels(model: str, rows: Sequence[Row], data: ReportData) -> list[Any]:
    """The float network's level and, where the goal is one, that which ranked files hold, each with its name on it. The
    first of a distance from that network is zero, which no logarithm shows."""
    import altair as alt

    row = next((row for row in rows if row.metric_float is not None), None)
    if row is None or row.metric_float is None:
        return []
    goal = data.goal_of(model)
    whole = data.float_bytes(model)
    size = f", {whole:,.0f} bytes" if whole else ""
    values = [{"y": row.metric_float, "text": f"float network: {figure(row.metric_float, row.metric_unit)}{size}"}]
    wanted, lost = goal.wanted(row.metric_float, row.metric_higher_is_better), goal.lost(row.metric_float)
    if logarithmic(rows):
        values = []
    if wanted is not None:
        less = "" if lost is None else f"{lost:g} {points(row.metric_unit)}".rstrip()
        told = f"{less} from the float network" if logarithmic(rows) else f"{less} worse"
        values.append({"y": wanted, "text": told if less else f"wanted: {figure(wanted, row.metric_unit)}"})
    if not values:
        return []
    base = alt.Chart(alt.InlineData(values=values)).encode(y="y:Q")
    words = base.mark_text(align="left", baseline="bottom", dx=4, dy=-2, fontSize=11, clip=True, style="soft")
    return [base.mark_rule(strokeDash=[6, 4], clip=True, style="soft"), words.encode(x=alt.value(0), text="text:N")]


def _quoted(model: str) -> Any:
    import altair as alt

    # of no measured line's shape
    chart = _chart("published", model).mark_point(shape=_X, size=90, style="soft", filled=False, clip=True)
    tips = [alt.Tooltip("method:N", title="quoted"), "paper:N", "ratio:Q", "metric:Q"]
    return chart.encode(x="file_bytes:Q", y="metric:Q", tooltip=tips)


def _rate_distortion(at: str, model: str, data: ReportData) -> Figure:
    import altair as alt

    colour, shape = _named(data, model)
    base = (
        _chart("rows", model)
        .transform_filter("datum.mse > 0")
        .encode(
            x=alt.X("bits_per_weight:Q", title="bits per weight (whole file)", scale=alt.Scale(zero=False, padding=12)),
            y=alt.Y(
                "mse:Q",
                title="mean squared error",
                scale=alt.Scale(type="log", nice=False, padding=12),
                axis=alt.Axis(format=".0e", tickCount=6),
            ),
            color=colour,
        )
    )
    lines = base.mark_line(opacity=0.35).encode(detail="method:N", order="bits_per_weight:Q")
    tips = _tooltip("configuration", "bits_per_weight", "mse", "entropy", "file_bytes", "metric")
    points = base.mark_point(filled=True, size=45, cursor="pointer").encode(tooltip=tips, shape=shape)
    return Figure(
        f"{at}-rate-distortion",
        f"{model}: distortion against rate",
        "Mean squared error of the quantized weights, without pruned ones, over all bits of the file.",
        _spec(alt.layer(lines, points)),
        "rows",
        (*_WHO, "method", "bits_per_weight", "mse", "weighted_mse", "entropy", "file_bytes"),
        model,
        "y",
    )


def _bound(at: str, model: str, data: ReportData) -> Figure:
    import altair as alt

    colour, shape = _named(data, model)
    base = _chart("rows", model).transform_filter("isValid(datum.bound_bits)")
    theirs = alt.X("bound_bits:Q", title="bits per weight, the bound at the same error", scale=alt.Scale(zero=False))
    mine = alt.Y("bits_per_weight:Q", title="bits per weight (whole file)", scale=alt.Scale(zero=False))
    line = base.mark_line(style="soft", strokeDash=[4, 4]).encode(
        x=theirs, y=alt.Y("bound_bits:Q"), order="bound_bits:Q"
    )
    tips = _tooltip("configuration", "bound_bits", "bits_per_weight", "layer_error", "file_bytes", "metric")
    points = base.mark_point(filled=True, size=45, cursor="pointer").encode(
        x=theirs, y=mine, color=colour, shape=shape, tooltip=tips
    )
    return Figure(
        f"{at}-bound",
        f"{model}: how far from the rate-distortion bound",
        "Dashed: what Gaussian weights of the layers' variances would need for the same errors of the layers' outputs. "
        "The distance above it is what a method, and all else in its file, could still save on such weights.",
        _spec(alt.layer(line, points)),
        "rows",
        (*_WHO, "method", "bound_bits", "layer_error", "bits_per_weight", "file_bytes"),
        model,
    )


def _parts(at: str, model: str, bars: int) -> Figure:
    import altair as alt

    chart = (
        _chart("parts", model)
        .mark_bar()
        .encode(
            x=alt.X("bytes:Q", title="bytes", stack=True),
            y=alt.Y("configuration:N", sort=None, title=None, axis=alt.Axis(labelLimit=260)),
            color=alt.Color("part:N", sort=list(PARTS), legend=alt.Legend(orient="bottom", columns=4, title=None)),
            order=alt.Order("index:Q"),
            tooltip=_tooltip("configuration", "part", "bytes"),
        )
    )
    return Figure(
        f"{at}-parts",
        f"{model}: where the bytes go",
        "The best file of each method, in the order of the ranking; parts sum to the file on disk.",
        _spec(chart, bars=bars),
        "parts",
        (*_WHO, "part", "bytes"),
        model,
    )


def _efficiency() -> Figure:
    import altair as alt

    base = _chart("rows").transform_filter("datum.bits_per_symbol > 0 && isValid(datum.entropy)")
    points = base.mark_point(filled=True, size=45, opacity=0.6, cursor="pointer").encode(
        x=alt.X("entropy:Q", title="zeroth-order entropy, bits per symbol"),
        y=alt.Y("bits_per_symbol:Q", title="measured, bits per symbol"),
        color=alt.Color("coder_name:N", title="coder", legend=alt.Legend(orient="bottom")),
        tooltip=_tooltip("configuration", "entropy", "bits_per_symbol", "efficiency"),
    )
    line = base.mark_line(style="soft", strokeDash=[4, 4]).encode(x="entropy:Q", y=alt.Y("entropy:Q", title=""))
    return Figure(
        "coder-efficiency",
        "Coders against entropy",
        "On the dashed line a coder spends the zeroth-order entropy; one that adapts or models context may fall below.",
        _spec(alt.layer(line, points)),
        "rows",
        (*_WHO, "coder", "entropy", "bits_per_symbol", "efficiency"),
    )


def _loss() -> Figure:
    import altair as alt

    scale = alt.Scale(type="symlog", constant=1e-4)
    base = _chart("loss")
    points = base.mark_point(filled=True, size=45, opacity=0.7, cursor="pointer").encode(
        x=alt.X("predicted:Q", scale=scale, title="predicted increase of the training loss"),
        y=alt.Y("measured:Q", scale=scale, title="measured"),
        color=alt.Color("predictor:N", legend=alt.Legend(orient="bottom")),
        shape=alt.Shape("predictor:N"),
        tooltip=_tooltip("model", "configuration", "predictor", "predicted", "measured"),
    )
    line = base.mark_line(style="soft", strokeDash=[4, 4]).encode(x="measured:Q", y="measured:Q")
    return Figure(
        "loss-increase",
        "Predicted against measured loss increase",
        "linear: the gradient alone; diagonal: half the Gauss-Newton diagonal's quadratic form; gauss_newton: with the "
        "off-diagonal terms. On the dashed line a prediction is exact.",
        _spec(alt.layer(line, points)),
        "loss",
        (*_WHO, "predictor", "predicted", "measured"),
    )


def _speeds(coders: int, measured: bool) -> Figure:
    import altair as alt

    chart = (
        _chart("speeds")
        .mark_point(filled=True, opacity=0.6, size=45)
        .encode(
            x=alt.X("msym_s:Q", scale=alt.Scale(type="log"), title="million symbols per second"),
            y=alt.Y("coder_name:N", title=None),
            color=alt.Color("direction:N", legend=alt.Legend(orient="bottom", title=None)),
            tooltip=_tooltip("configuration", "msym_s"),
        )
    )
    caption = "Measured alone, warm, without caches."
    if not measured:
        caption = "Not measurements: beside other work, or from a cache. A suite that says `measure:` gives those."
    return Figure(
        "speeds",
        "Coding speed",
        caption,
        _spec(chart, bars=coders),
        "speeds",
        (*_WHO, "coder", "direction", "msym_s", "measured"),
        scaled="x",
    )
