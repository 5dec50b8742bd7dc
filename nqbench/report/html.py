"""The page: ``index.html``, self-contained."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from nqbench.report import numbers
from nqbench.report.data import ReportData
from nqbench.report.tables import quoted, ranking
from nqbench.report.text import last_line, summary

if TYPE_CHECKING:
    from jinja2 import Environment


@cache
def templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found = Environment(
        loader=PackageLoader("nqbench.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals.update(numbers=numbers, last_line=last_line)
    return found


def page(data: ReportData) -> str:
    """The whole page as HTML."""
    tables = {model: ranking(rows) for model, rows in data.by_model.items()}
    return templates().get_template("index.html").render(data=data, tables=tables, quoted=quoted, summary=summary(data))
