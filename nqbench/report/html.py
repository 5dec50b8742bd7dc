"""The page: ``index.html``, self-contained. Style, scripts and data are inlined; nothing is fetched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from nqbench.report.data import ReportData
from nqbench.report.figures import Figure
from nqbench.report.numbers import places
from nqbench.report.payload import details, script_json, table_of
from nqbench.report.tables import method_table, methods_note, question, quoted, quoted_with_measured
from nqbench.report.text import last_line, summary
from nqbench.report.vega import javascript

if TYPE_CHECKING:
    from jinja2 import Environment

COLUMNS = (
    ("rank", "#", "text", "within the model; * on the Pareto front"),
    ("coding", "configuration", "text", "what quantizes and codes, with parameters that vary; select for all"),
    ("file_bytes", "bytes", "count", "of the whole file"),
    ("ratio", "ratio", "two", "4 bytes x every parameter / file without batch norms' statistics"),
    ("metric", "metric", "two", "of the decoded network"),
    ("metric_delta", "delta", "signed", "against the float network"),
    ("interval", "95 %", "text", "interval of the metric on other examples of the kind"),
    ("holds", "holds", "flag", "the drop is within the tolerance"),
    ("model", "model", "text", ""),
    ("pruner", "pruner", "text", ""),
    ("sensitivity", "sensitivity", "text", ""),
    ("training", "training", "text", ""),
    ("file_ratio", "file ratio", "two", "float32 state / file"),
    ("own_ratio", "own ratio", "two", "state in its own dtypes / file"),
    ("bits_per_weight", "bits/weight", "three", ""),
    ("entropy", "entropy (bits/symbol)", "three", "zeroth order"),
    ("efficiency", "efficiency", "three", "entropy / measured"),
    ("mse", "mse", "significant", "of the quantized weights"),
    ("repeats", "repeats", "text", ""),
    ("selected_on", "selected on", "text", "the split on which a search chose the file, and on which it holds or not"),
)
"""Field, label, format and what it is: what a reader wants to know first comes first."""
_FIXED = {"rank": "rank", "coding": "name"}
"""What stays in sight when a table is moved sideways."""
_TELLING = ("model", "pruner", "sensitivity", "training")
SCRIPTS = ("table.js", "figure.js", "page.js")
_DEVIATIONS = {"file_bytes": "file_bytes_std", "metric": "metric_std"}


@cache
def templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("nqbench.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def asset(name: str) -> str:
    """A file beside the templates, as it is."""
    return files("nqbench.report").joinpath("templates", name).read_text(encoding="utf-8")


def page(data: ReportData, datasets: Mapping[str, Sequence[dict[str, Any]]], figures: Sequence[Figure]) -> str:
    """The whole page as HTML."""
    from markupsafe import Markup

    payload = {
        "datasets": {name: table_of(rows) for name, rows in datasets.items()},
        "columns": page_columns(COLUMNS, datasets["rows"], digits_of(data)),
        "details": details(data),
        "figures": figure_payload(figures),
    }
    return (
        templates()
        .get_template("index.html")
        .render(
            data=data,
            figures=figures,
            methods={model: method_table(rows) for model, rows in data.methods.items()},
            question=question(data.goal),
            methods_note=methods_note(data.goal, data.told),
            quoted=quoted_with_measured,
            quoted_alone=quoted,
            last_line=last_line,
            summary=summary(data),
            # our own files and escaped JSON: the only text that is not escaped again
            style=Markup(asset("style.css")),
            scripts=[Markup(asset(name)) for name in SCRIPTS],
            vega=Markup(javascript() if figures else "window.vegaEmbed = null;"),
            payload=Markup(script_json(payload)),
        )
    )


def figure_payload(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    """What ``figure.js`` gets."""
    return [{"spec": figure.spec, "scaled": figure.scaled} for figure in figures]


def digits_of(data: ReportData) -> int:
    """Decimals of a page's metrics: as many as any of them needs."""
    return max((places([row.metric], row.metric_unit) for row in data.rows), default=2)


def page_columns(
    columns: Sequence[tuple[str, str, str, str]], rows: Sequence[Mapping[str, Any]], digits: int = 2
) -> list[dict[str, Any]]:
    """What ``table.js`` gets. Hidden at first: model, pruner, sensitivity and training where they do not tell rows
    apart, and the file's ratio where it is the ratio. digits: decimals of the metric."""
    found = []
    metrics = {row["metric_name"] for row in rows if row["metric_name"]}
    for field, label, form, title in columns:
        numeric = form not in ("text", "flag") or field == "rank"
        column = {"field": field, "label": label, "format": form, "title": title, "numeric": numeric}
        if field == "metric" and len(metrics) == 1:
            column["label"] = next(iter(metrics))
        if field in ("metric", "metric_delta"):
            column["digits"] = digits
        if field in _TELLING:
            column["long"] = True
        if field in _FIXED:
            column["fixed"] = _FIXED[field]
        if field in _DEVIATIONS:
            column["deviation"] = _DEVIATIONS[field]
        if field in _TELLING and len({row.get(field) for row in rows}) < 2:
            column["hidden"] = True
        if field == "selected_on" and not any(row.get(field) for row in rows):
            column["hidden"] = True
        if field == "file_ratio" and all(row["file_ratio"] == row["ratio"] for row in rows):
            column["hidden"] = True
        found.append(column)
    return found
