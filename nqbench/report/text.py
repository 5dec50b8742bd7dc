"""The leaderboard as text: for a terminal, and as Markdown for a pull request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nqbench import printable
from nqbench.report import escaping
from nqbench.report.data import ReportData
from nqbench.report.tables import Table, method_table, quoted, quoted_with_measured, ranking

TERMINAL_ROWS = 15


def terminal(data: ReportData, *, limit: int = TERMINAL_ROWS) -> str:
    """The first ``limit`` rows of each model."""

    def draw(table: Table) -> str:
        from tabulate import tabulate

        aligned = ["right" if numeric else "left" for numeric in table.numeric]
        return tabulate(table.rows, table.header, tablefmt="simple", colalign=aligned, disable_numparse=True)

    return printable.plain(_document(data, draw, limit, _PLAIN))


def markdown(data: ReportData) -> str:
    """Every row, in GitHub's tables."""
    return f"# {escaping.markdown_line(data.suite)}\n\n" + _document(data, markdown_table, None, _MARKDOWN)


def markdown_table(table: Table) -> str:
    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(map(escaping.markdown, cells)) + " |"

    rule = "| " + " | ".join("---:" if numeric else ":---" for numeric in table.numeric) + " |"
    return "\n".join([line(table.header), rule, *(line(row) for row in table.rows)])


@dataclass(frozen=True)
class _Form:
    """How text, code and headings are written."""

    text: Callable[[str], str]
    code: Callable[[str], str]
    heading: str


_PLAIN = _Form(printable.line, printable.line, "{}")
_MARKDOWN = _Form(escaping.markdown_line, escaping.code, "## {}")


def _document(data: ReportData, draw: Callable[[Table], str], limit: int | None, form: _Form) -> str:
    parts = [form.text(summary(data))]
    for model, rows in data.by_model.items():
        parts.append(form.heading.format(form.text(model)))
        if len(data.methods[model]) > 1:
            parts.append(draw(method_table(data.methods[model][:limit])))
        parts.append(draw(ranking(rows[:limit])))
        if limit is not None and len(rows) > limit:
            parts.append(f"... and {len(rows) - limit} more rows in leaderboard.md")
        if data.published_for(model):
            parts.append(draw(quoted_with_measured(data, model)))
    if published := data.published_elsewhere:
        parts += [form.heading.format("Published, models not measured here"), draw(quoted(published))]
    if data.failures:
        parts.append(form.heading.format("Failures"))
        alike: dict[tuple[str, str], list[str]] = {}
        for record in data.failures:
            alike.setdefault((record.status, last_line(record.error)), []).append(data.name(record))
        lines = [
            f"- {form.text(names[0])}{f' and {len(names) - 1} more' * (len(names) > 1)}: {status}: {form.code(why)}"
            for (status, why), names in list(alike.items())[: limit or None]
        ]
        if limit is not None and len(alike) > limit:
            lines.append(f"- ... and {len(alike) - limit} more kinds in records.json")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def summary(data: ReportData) -> str:
    """One paragraph: how many trials, and how to read the ranking."""
    good = len(data.records) - len(data.failures)
    text = f"{good} trial{'s' if good != 1 else ''} ok"
    if data.failures:
        text += f", {len(data.failures)} not ok"
    if any(row.metric_name for row in data.rows):
        text += (
            f". Ranked by {'bytes' if data.goal.bytes is None else 'the metric'} among rows that {data.told}; "
            f"the others follow by {'what they lose' if data.goal.bytes is None else 'their bytes'}."
            " *: on the Pareto front."
        )
    remarks = data.remarks
    return " ".join([f"{text.rstrip('.')}." if remarks else text, *remarks])


def last_line(error: str | None) -> str:
    """The line of a traceback that says what happened."""
    lines = [line.strip() for line in (error or "").splitlines() if line.strip()]
    return lines[-1] if lines else "no reason was recorded"
