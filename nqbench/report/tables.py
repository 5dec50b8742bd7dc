"""The tables that terminal, Markdown and LaTeX share: headers and rows of text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from nqbench.report.data import ReportData
from nqbench.report.numbers import count, decimal, places, repeats, signed, significant, spread
from nqbench.results.curves import Estimate
from nqbench.results.goal import Goal
from nqbench.results.labels import short
from nqbench.results.leaderboard import Row
from nqbench.results.methods import MethodRow, with_measured
from nqbench.results.published import Published


@dataclass(frozen=True)
class Table:
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]


R = TypeVar("R")


@dataclass(frozen=True)
class Column(Generic[R]):
    header: str
    text: Callable[[R], str]
    numeric: bool = True


def ranking(rows: Sequence[Row]) -> Table:
    """Ranked rows of one model; columns that say nothing for any of them are left out."""
    metric = next((row.metric_name for row in rows if row.metric_name), None)
    digits = _places(rows)
    chosen: list[Column[Row]] = [
        Column("#", lambda row: f"{row.rank}{'*' if row.pareto else ''}"),
        Column("configuration", lambda row: row.configuration, numeric=False),
        Column("bytes", lambda row: spread_bytes(row)),
        Column("ratio", lambda row: decimal(row.ratio)),
        Column("file ratio", lambda row: decimal(row.file_ratio)),
        Column("own ratio", own_ratio),
        Column("bits/weight", lambda row: decimal(row.bits_per_weight, 3)),
        Column("entropy (bits/symbol)", lambda row: decimal(row.entropy, 3)),
        Column("efficiency", lambda row: decimal(row.efficiency, 3)),
        Column("mse", lambda row: significant(row.mse)),
    ]
    if metric:
        chosen += [
            Column(metric, lambda row: spread(row.metric, row.metric_std, digits)),
            Column("delta", lambda row: signed(row.metric_delta, digits)),
            Column("holds", lambda row: "yes" if row.holds else "no", numeric=False),
        ]
    chosen += [
        # times from a cache or beside other workers are no measurements, and stay out of the table
        Column("encode Msym/s", lambda row: decimal(row.encode_msym_s, 1) if row.measured else ""),
        Column("decode Msym/s", lambda row: decimal(row.decode_msym_s, 1) if row.measured else ""),
        Column("repeats", lambda row: repeats(row.n, row.deterministic, row.failed), numeric=False),
        Column("selected on", lambda row: row.selected_on or "", numeric=False),
    ]
    return _table([c for c in chosen if any(c.text(row) for row in rows)], rows)


def _places(rows: Sequence[Row]) -> int:
    return places([row.metric for row in rows], rows[0].metric_unit if rows else "")


def own_ratio(row: Row) -> str:
    """The ratio to the network in its own dtypes, where that is another than the one to float32."""
    own, shown = decimal(row.own_ratio), decimal(row.file_ratio)
    return "" if own == shown else own


def spread_bytes(row: Row) -> str:
    text = count(row.file_bytes)
    return f"{text} ± {count(round(row.file_bytes_std))}" if row.file_bytes_std else text


def quoted(rows: Sequence[Published]) -> Table:
    """Published rows."""
    body = tuple((row.method, decimal(row.ratio), _figure(row), row.paper) for row in rows)
    return Table(("published method (quoted)", "ratio", "metric", "source"), body, (False, True, True, False))


METHODS_NOTE = (
    "Ranked by {ranked} of the files that {goal}; methods without one follow. BD-rate: mean change of size against "
    "the baseline at equal metric, where that is of interest, and at equal mse of the kept weights; at the goal: the "
    "same at what may be lost. Both compare isotonic fits of the curves; in brackets a 95 % bootstrap interval over "
    "the test examples, and over seeds where there are several. × published: the ratio against the best quoted one "
    "that does the same. Not monotone: points that fail although a smaller file of the method holds. Against the "
    "leader: on the same examples, exact McNemar test of right and wrong, or a paired bootstrap of any other metric "
    "and over several seeds, Holm-corrected, at 5 %."
)


def methods_note(goal: Goal, told: str) -> str:
    """How methods are ranked, below their table. told: what files have to do, behind "files that"."""
    return METHODS_NOTE.format(goal=told, ranked="the smallest" if goal.bytes is None else "the best")


def question(goal: Goal) -> str:
    """What the ranking of methods answers."""
    return "Which method gives the smallest file?" if goal.bytes is None else "Which method gives the best network?"


def method_table(rows: Sequence[MethodRow]) -> Table:
    """Ranked methods of one model."""
    metric = next((row.best.metric_name for row in rows if row.best.metric_name), None)
    digits = _places([row.best for row in rows])
    chosen: list[Column[MethodRow]] = [
        Column("#", lambda m: str(m.rank)),
        Column("method", lambda m: m.method + (" (baseline)" if m.is_baseline else ""), numeric=False),
        Column("best at", lambda m: _knob(m.best), numeric=False),
        Column("bytes", lambda m: spread_bytes(m.best)),
        Column("ratio", lambda m: decimal(m.best.ratio)),
    ]
    if metric:
        chosen += [
            Column(metric, lambda m: spread(m.best.metric, m.best.metric_std, digits)),
            Column("delta", lambda m: signed(m.best.metric_delta, digits)),
            Column("holds", lambda m: "yes" if m.holds else "no", numeric=False),
        ]
    chosen += [
        Column("× baseline", lambda m: decimal(m.vs_baseline, 3)),
        Column("× published", lambda m: decimal(m.vs_published)),
        Column("BD-rate", lambda m: _estimate(m.bd_rate)),
        Column("at the goal", lambda m: _estimate(m.at_goal)),
        Column("BD-rate, mse", lambda m: _percent(m.bd_rate_mse)),
        Column(f"{metric} vs leader", _verdict, numeric=False),
        Column("points", lambda m: str(m.points)),
        Column("not monotone", lambda m: str(m.violations or "")),
        Column("repeats", lambda m: repeats(m.best.n, m.best.deterministic, m.best.failed), numeric=False),
        Column("selected on", lambda m: m.best.selected_on or "", numeric=False),
    ]
    return _table([c for c in chosen if any(c.text(row) for row in rows)], rows)


def _knob(row: Row) -> str:
    return f"{row.knob}={short(row.knob_value)}" if row.knob and row.knob_value is not None else ""


def _verdict(row: MethodRow) -> str:
    return row.verdict if row.p is None else f"{row.verdict} (p {'< 0.001' if row.p < 0.001 else f'= {row.p:.3f}'})"


def _estimate(found: Estimate | None) -> str:
    """A change of size, with its interval: ``−16.0 % (−20.1 to −11.3)``."""
    if found is None:
        return ""
    ends = f" ({signed(100 * found.low, 1)} to {signed(100 * found.high, 1)})" if found.known else ""
    return f"{_percent(found.change)}{ends}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{signed(100 * value, 1)} %"


def quoted_with_measured(data: ReportData, model: str) -> Table:
    """A model's published rows, each beside the smallest measured file that is at least as good."""
    rows = data.by_model[model]
    found = with_measured(data.published_for(model), rows)
    body = tuple(
        (
            q.row.method,
            decimal(q.row.ratio),
            _figure(q.row),
            decimal(q.measured.ratio) if q.measured else "",
            _percent(q.difference),
            q.measured.configuration if q.measured else "",
            q.row.paper,
        )
        for q in found
    )
    header = ("published method (quoted)", "ratio", "metric", "measured ratio", "difference", "by", "source")
    return Table(header, body, (False, True, True, True, True, False, False))


def _figure(row: Published) -> str:
    """A quoted figure with its unit and what it is of: ``99.27 % accuracy``."""
    return "" if row.metric is None else " ".join(filter(None, (decimal(row.metric), row.unit, row.metric_name)))


def _table(columns: Sequence[Column[R]], rows: Sequence[R]) -> Table:
    return Table(
        tuple(c.header for c in columns),
        tuple(tuple(c.text(row) for c in columns) for row in rows),
        tuple(c.numeric for c in columns),
    )
