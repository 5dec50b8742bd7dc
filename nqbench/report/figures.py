"""The figures as Vega-Lite specifications over named data, made with altair: one specification gives the interactive
figure, its PNG and its SVG. The data are ``payload.datasets``; the page fills them in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nqbench.report.data import ReportData
from nqbench.results.leaderboard import Row, reach
from nqbench.results.record import PARTS

if TYPE_CHECKING:
    import altair as alt

MANY_BARS = 24
"""Methods in a stacked bar chart, best first."""
MANY_METHODS = 10
"""Above this a colour a method cannot be told apart: colour then says the quantizer alone."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7f7f7f", "#9467bd", "#17becf")
"""Okabe and Ito's colours, which colour-blind readers can tell apart, and four more."""


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


_WHO = ("model", "configuration")


def figures(data: ReportData, datasets: dict[str, list[dict[str, Any]]]) -> list[Figure]:
    """Every figure that these records can fill, in the page's order."""
    found: list[Figure] = []
    for index, (model, rows) in enumerate(data.by_model.items(), 1):
        if any(row.metric is not None for row in rows):
            published = any(row["model"] == model for row in datasets["published"])
            found.append(_rate_accuracy(f"{index}", model, rows, data, published))
        if any(row.mse for row in rows):
            found.append(_rate_distortion(f"{index}", model, rows))
        if any(row["bound_bits"] is not None for row in datasets["rows"] if row["model"] == model):
            found.append(_bound(f"{index}", model, rows))
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
    }
    return spec


def _colour(rows: Sequence[Row]) -> Any:
    import altair as alt

    few = len({row.method for row in rows}) <= MANY_METHODS
    title = "method" if few else "quantizer"
    legend = alt.Legend(orient="bottom", columns=2 if few else 4, title=title)
    return alt.Color("method:N" if few else "quantizer_name:N", sort=None, legend=legend)


def _tooltip(*names: str) -> list[Any]:
    import altair as alt

    formats = {"file_bytes": ",.0f", "metric": ".3f", "drop": ".3f", "ratio": ".2f", "mse": ".4g", "metric_std": ".3f"}
    kinds = {"configuration": "N", "model": "N", "coder_name": "N", "part": "N", "method": "N", "predictor": "N"}
    return [
        alt.Tooltip(f"{name}:{kinds.get(name, 'Q')}", title=name.replace("_", " "), format=formats.get(name, ""))
        for name in names
    ]


def _rate_accuracy(at: str, model: str, rows: Sequence[Row], data: ReportData, published: bool) -> Figure:
    import altair as alt

    name = next((row.metric_name for row in rows if row.metric_name), "metric")
    frame, caption = _frame(rows, data.drop)
    size = alt.X("file_bytes:Q", title="file, bytes", scale=alt.Scale(type="log", nice=False, padding=12))
    quality = alt.Y("metric:Q", title=name, scale=alt.Scale(zero=False, nice=False, domain=frame or alt.Undefined))
    base = (
        _chart("rows", model).transform_filter("isValid(datum.metric)").encode(x=size, y=quality, color=_colour(rows))
    )
    tips = _tooltip("configuration", "file_bytes", "ratio", "metric", "metric_std", "drop", "n", "rank")
    lines = base.mark_line(opacity=0.35, clip=True).encode(detail="method:N", order="file_bytes:Q")
    points = base.mark_point(filled=True, size=55, clip=True, cursor="pointer").encode(
        tooltip=tips,
        opacity=alt.condition("datum.pareto", alt.value(1.0), alt.value(0.55)),
        shape=alt.Shape("pareto:N", scale=alt.Scale(domain=[True, False], range=["diamond", "circle"]), legend=None),
    )
    bars = (
        base.transform_filter("isValid(datum.metric_std)")
        .transform_calculate(low="datum.metric - datum.metric_std", high="datum.metric + datum.metric_std")
        .mark_rule(clip=True)
        .encode(y=alt.Y("low:Q", title=name), y2="high:Q")
    )
    layers = [_levels(rows, data.drop), lines, bars, points]
    if published:
        layers.append(_quoted(model))
    return Figure(
        f"{at}-rate-accuracy",
        f"{model}: {name} against file size",
        "A line is one method over its knob; diamonds are on the Pareto front; bars are one standard deviation over "
        f"seeds. Dashed: the float network, and {data.drop:g} points below it." + caption,
        _spec(alt.layer(*layers), height=380),
        "rows",
        (*_WHO, "method", "file_bytes", "ratio", "metric", "metric_std", "drop", "n", "pareto"),
        model,
    )


def _frame(rows: Sequence[Row], drop: float) -> tuple[list[float] | None, str]:
    """The vertical range: without networks that lost nearly all, which would squeeze the rest into a line; and the
    sentence that says so."""
    known = [row for row in rows if row.metric is not None and row.drop is not None]
    shown = [row.metric or 0.0 for row in known if (row.drop or 0.0) <= reach(drop)]
    if len(shown) < 3:
        shown = [row.metric or 0.0 for row in known]
    hidden = len(known) - len(shown)
    shown += [row.metric_float for row in known[:1] if row.metric_float is not None]
    if not shown:
        return None, ""
    margin = 0.05 * ((max(shown) - min(shown)) or 1.0)
    caption = f" {hidden} rows that lose more lie outside the frame." if hidden else ""
    return [min(shown) - margin, max(shown) + margin], caption


def _levels(rows: Sequence[Row], drop: float) -> Any:
    import altair as alt

    row = next((row for row in rows if row.metric_float is not None), None)
    level = row.metric_float if row else None
    sign = 1 if row and row.metric_higher_is_better else -1
    values = [] if level is None else [{"y": level}, {"y": level - sign * drop}]
    data = alt.Chart(alt.InlineData(values=values))
    return data.mark_rule(strokeDash=[4, 4], color="#888", clip=True).encode(y="y:Q")


def _quoted(model: str) -> Any:
    import altair as alt

    chart = _chart("published", model).mark_point(shape="cross", size=90, color="#888", filled=True, clip=True)
    tips = [alt.Tooltip("method:N", title="quoted"), "paper:N", "ratio:Q", "metric:Q"]
    return chart.encode(x="file_bytes:Q", y="metric:Q", tooltip=tips)


def _rate_distortion(at: str, model: str, rows: Sequence[Row]) -> Figure:
    import altair as alt

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
            color=_colour(rows),
        )
    )
    lines = base.mark_line(opacity=0.35).encode(detail="method:N", order="bits_per_weight:Q")
    tips = _tooltip("configuration", "bits_per_weight", "mse", "entropy", "file_bytes", "metric")
    points = base.mark_point(filled=True, size=45, cursor="pointer").encode(tooltip=tips)
    return Figure(
        f"{at}-rate-distortion",
        f"{model}: distortion against rate",
        "Mean squared error of the quantized weights, over all bits of the file.",
        _spec(alt.layer(lines, points)),
        "rows",
        (*_WHO, "method", "bits_per_weight", "mse", "weighted_mse", "entropy", "file_bytes"),
        model,
    )


def _bound(at: str, model: str, rows: Sequence[Row]) -> Figure:
    import altair as alt

    base = _chart("rows", model).transform_filter("isValid(datum.bound_bits)")
    theirs = alt.X("bound_bits:Q", title="bits per weight, the bound at the same error", scale=alt.Scale(zero=False))
    mine = alt.Y("bits_per_weight:Q", title="bits per weight (whole file)", scale=alt.Scale(zero=False))
    line = base.mark_line(color="#888", strokeDash=[4, 4]).encode(
        x=theirs, y=alt.Y("bound_bits:Q"), order="bound_bits:Q"
    )
    tips = _tooltip("configuration", "bound_bits", "bits_per_weight", "layer_error", "file_bytes", "metric")
    points = base.mark_point(filled=True, size=45, cursor="pointer").encode(
        x=theirs, y=mine, color=_colour(rows), tooltip=tips
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
        "The best file of each method, smallest first; parts sum to the file on disk.",
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
    line = base.mark_line(color="#888", strokeDash=[4, 4]).encode(x="entropy:Q", y=alt.Y("entropy:Q", title=""))
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
    line = base.mark_line(color="#888", strokeDash=[4, 4]).encode(x="measured:Q", y="measured:Q")
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
    )
