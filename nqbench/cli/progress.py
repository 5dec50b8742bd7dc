"""How a run's progress looks: a bar on a terminal, lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from nqbench.engine import Progress
    from nqbench.results.record import Record

_QUIET = 30.0
"""Seconds without a line after which a log is told what is going on."""


def shown(quiet: bool = False) -> Progress:
    """The progress for where standard error goes."""
    from nqbench.engine import Silent

    return Silent() if quiet else Bar() if sys.stderr.isatty() else Lines()


class Lines:
    """A line a trial, and one at least every half minute, for logs."""

    def __init__(self) -> None:
        self.total, self.done = 0, 0
        self.best = Best()
        self._begun = self._last = time.monotonic()

    def started(self, total: int, reused: int, *, search: bool = False) -> None:
        self.total, self.done = total, reused
        there = f", {reused} already there" if reused else ""
        self._say(f"{'a search: at most ' if search else ''}{total} trials{there}")

    def found(self, reused: int) -> None:
        self.done += reused
        self._say(f"[{self.done}/{self.total}] {reused} already there")

    def running(self, trials: Sequence[tuple[str, str]]) -> None:
        now = time.monotonic()
        if now - self._last < _QUIET or not trials:
            return
        doing = "; ".join(f"{label}: {doing}" for label, doing in trials)
        best = f"; {self.best}" if self.best.record else ""
        self._say(f"[{self.done}/{self.total}] after {now - self._begun:.0f} s: {doing}{best}")

    def ended(self, record: Record, label: str, *, again: bool = False) -> None:
        self.done += 1
        self.best.see(record)
        if not again:
            self._say(f"[{self.done}/{self.total}] {label}: {outcome(record)}")

    def warning(self, text: str) -> None:
        self._say(f"warning: {text}")

    def finished(self) -> None:
        pass

    def _say(self, text: str) -> None:
        click.echo(_line(text), err=True)
        self._last = time.monotonic()


class Bar(Lines):
    """tqdm on a terminal: trials done and time left, what the current trial is at, the best so far; each trial that
    ended stands above it."""

    bar: Any = None

    def started(self, total: int, reused: int, *, search: bool = False) -> None:
        from tqdm import tqdm

        self.bar = tqdm(total=total, initial=reused, unit="trial", dynamic_ncols=True)

    def found(self, reused: int) -> None:
        self.bar.update(reused)

    def running(self, trials: Sequence[tuple[str, str]]) -> None:
        # what it is at changes: it comes first where the line is short
        now = " | ".join(_line(f"{doing} of {label}") for label, doing in trials[:2])
        self.bar.set_description_str(now[:72], refresh=False)
        self.bar.set_postfix_str(str(self.best))

    def ended(self, record: Record, label: str, *, again: bool = False) -> None:
        self.best.see(record)
        self.bar.update()
        if not again:
            self.bar.write(_line(f"{label}: {outcome(record)}"), file=sys.stderr)

    def warning(self, text: str) -> None:
        self.bar.write(_line(f"warning: {text}"), file=sys.stderr)

    def finished(self) -> None:
        if self.bar is not None:
            self.bar.close()


class Best:
    """The smallest file whose metric, where it was looked at, fell by at most half a point."""

    def __init__(self) -> None:
        self.record: Record | None = None

    def see(self, record: Record) -> None:
        lost = record.drop_where_selected
        if not record.ok or (lost is not None and lost > 0.5):
            return
        if self.record is None or (record.file_bytes or 0) < (self.record.file_bytes or 0):
            self.record = record

    def __str__(self) -> str:
        return f"best {outcome(self.record)}" if self.record else ""


def outcome(record: Record) -> str:
    if not record.ok:
        return f"{record.status}: {(record.error or '').partition(chr(10))[0]}"
    value = record.metric_where_selected if record.metric is None else record.metric
    metric = "" if value is None else f", {value:.2f} {record.metric_unit}".rstrip()
    on = f" ({record.selected_on})" if value is not None and record.metric is None else ""
    return f"{record.file_bytes or 0:,} B{metric}{on}"


def _line(text: str) -> str:
    """Text of others for a terminal."""
    from nqbench.report import escaping

    return escaping.line(text)
