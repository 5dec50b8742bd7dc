"""The tables that terminal, Markdown and LaTeX share: headers and rows of text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nqbench.report.numbers import count, decimal, repeats, signed, significant, spread
from nqbench.results.leaderboard import Row
from nqbench.results.published import Published


@dataclass(frozen=True)
class Table:
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]


@dataclass(frozen=True)
class Column:
    header: str
    text: Callable[[Row], str]
    numeric: bool = True


def ranking(rows: Sequence[Row]) -> Table:
    """Ranked rows of one model; columns that say nothing for any of them are left out."""
    metric = next((row.metric_name for row in rows if row.metric_name), None)
    chosen = [
        Column("#", lambda row: f"{row.rank}{'*' if row.pareto else ''}"),
        Column("configuration", lambda row: row.configuration, numeric=False),
        Column("bytes", lambda row: spread_bytes(row)),
        Column("ratio", lambda row: decimal(row.ratio)),
        Column("file ratio", lambda row: decimal(row.file_ratio)),
        Column("bits/weight", lambda row: decimal(row.bits_per_weight, 3)),
        Column("entropy", lambda row: decimal(row.entropy, 3)),
        Column("efficiency", lambda row: decimal(row.efficiency, 3)),
        Column("mse", lambda row: significant(row.mse)),
    ]
    if metric:
        chosen += [
            Column(metric, lambda row: spread(row.metric, row.metric_std)),
            Column("delta", lambda row: signed(row.metric_delta)),
            Column("holds", lambda row: "yes" if row.holds else "no", numeric=False),
        ]
    chosen.append(Column("repeats", lambda row: repeats(row.n, row.deterministic), numeric=False))
    return _table([c for c in chosen if any(c.text(row) for row in rows)], rows)


def spread_bytes(row: Row) -> str:
    text = count(row.file_bytes)
    return f"{text} ± {count(round(row.file_bytes_std))}" if row.file_bytes_std else text


def quoted(rows: Sequence[Published]) -> Table:
    """Published rows."""
    body = tuple((row.method, decimal(row.ratio), decimal(row.metric), row.metric_name, row.paper) for row in rows)
    return Table(
        ("published method (quoted)", "ratio", "metric", "of", "source"), body, (False, True, True, False, False)
    )


def _table(columns: Sequence[Column], rows: Sequence[Row]) -> Table:
    return Table(
        tuple(c.header for c in columns),
        tuple(tuple(c.text(row) for c in columns) for row in rows),
        tuple(c.numeric for c in columns),
    )
