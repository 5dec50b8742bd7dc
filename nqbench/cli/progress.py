"""How a run's progress looks: on a terminal a line for each worker under the trials that ended, lines in a log."""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from nqbench.engine import Progress
    from nqbench.results.goal import Goal
    from nqbench.results.record import Record

_QUIET = 30.0
"""Seconds without a line after which a log is told what is going on."""


def shown(quiet: bool = False) -> Progress:
    """The progress for where standard error goes."""
    from nqbench.engine import Silent

    return Silent() if quiet else Bars() if sys.stderr.isatty() else Lines()


class Lines:
    """A line a trial, and one at least every half minute, for logs."""

    def __init__(self) -> None:
        self.total, self.done, self.ran = 0, 0, 0
        self.search = False
        self.best = Best()
        self._begun = self._last = time.monotonic()

    def started(self, total: int, reused: int, *, search: bool = False, goal: Goal | None = None) -> None:
        self.total, self.done, self.search, self.best.goal = total, reused, search, goal
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
        left = self._left(now - self._begun)
        self._say(f"[{self.done}/{self.total}] after {now - self._begun:.0f} s{left}: {doing}{best}")

    def _left(self, seconds: float) -> str:
        """By the time that a trial has taken so far; nothing before the first ended. A search may end before its last
        trial."""
        if not self.ran:
            return ""
        left = _clock(max(self.total - self.done, 0) * seconds / self.ran)
        return f", {'at most ' if self.search else 'about '}{left} left"

    def ended(self, record: Record, label: str, *, again: bool = False) -> None:
        self.done, self.ran = self.done + 1, self.ran + 1
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


class Bars(Lines):
    """On a terminal: each trial that ended on a line of its own; below these, which stay, how far the run is, and a
    line for each worker: its stage, how far that is and what is left of it, and its trial."""

    def __init__(self) -> None:
        super().__init__()
        self._whole: Any = None
        self._workers: list[_Worker] = []

    def started(self, total: int, reused: int, *, search: bool = False, goal: Goal | None = None) -> None:
        self.best.goal = goal
        self._whole = _tqdm(total=total, initial=reused, position=0, dynamic_ncols=True, bar_format=_WHOLE)

    def found(self, reused: int) -> None:
        self._whole.update(reused)

    def running(self, trials: Sequence[tuple[str, str]]) -> None:
        labels = [label for label, _ in trials]
        for worker in self._workers:
            if worker.label not in labels:
                worker.label = ""
        for label, doing in trials:
            worker = next((one for one in self._workers if one.label == label), None) or self._free()
            worker.shows(label, doing)
        for worker in self._workers:
            worker.draw()
        self._whole.set_postfix_str(str(self.best))

    def _free(self) -> _Worker:
        worker = next((one for one in self._workers if not one.label), None)
        if worker is None:
            self._workers.append(worker := _Worker(len(self._workers) + 1))
        return worker

    def ended(self, record: Record, label: str, *, again: bool = False) -> None:
        self.best.see(record)
        self._whole.update()
        if not again:
            self._say(f"{label}: {outcome(record)}")

    def finished(self) -> None:
        for worker in reversed(self._workers):
            worker.bar.close()
        if self._whole is not None:
            self._whole.close()

    def _say(self, text: str) -> None:
        from tqdm import tqdm

        tqdm.write(_line(text), file=sys.stderr)


_WHOLE = "{n_fmt} of {total_fmt} trials {bar:10} {remaining} left{postfix}"
_COUNTED = re.compile(r"(\d+) of (\d+)")


class _Worker:
    """One worker's line. since: when what it counts now began."""

    def __init__(self, position: int) -> None:
        self.bar = _tqdm(total=0, position=position, leave=False, bar_format="{desc}")
        self.label, self.stage = "", ""
        self.done, self.total = 0, 0
        self.since = time.monotonic()
        self._drawn = ""

    def shows(self, label: str, doing: str) -> None:
        stage, _, detail = doing.partition(": ")
        counted = _COUNTED.search(detail)
        done, total = (int(counted[1]), int(counted[2])) if counted else (0, 0)
        if (label, stage, total) != (self.label, self.stage, self.total) or done < self.done:
            self.since = time.monotonic()
        self.label, self.stage, self.done, self.total = label, stage, done, total

    def draw(self) -> None:
        columns = shutil.get_terminal_size().columns
        seconds = time.monotonic() - self.since
        text = worker_line(self.label, self.stage, self.done, self.total, seconds, columns) if self.label else ""
        if text != self._drawn:  # calm: nothing is written where nothing changed
            self.bar.set_description_str(text)
            self._drawn = text


def worker_line(label: str, stage: str, done: int, total: int, seconds: float, columns: int) -> str:
    """What a worker is at, within ``columns``: ``  quantize ━━━━──────  0:34 left  lenet5 gptq(step=0.1) huffman``.

    done, total: of what the stage counts, the one that it is at being ``done``; total 0: it counts nothing, and the
    time that it has taken stands in place of what is left. seconds: since it began to count.
    """
    finished = max(done - 1, 0)
    share = finished / total if total else 0.0
    filled = round(_BAR * share)
    bar = "━" * filled + "─" * (_BAR - filled) if total else " " * _BAR
    left = f"{_clock(seconds * (1 - share) / share)} left" if share else _clock(seconds)
    return _shortened(f"  {stage[:9]:<9} {bar} {left:>10}  {_line(label)}", columns - 1)


_BAR = 10


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _shortened(text: str, columns: int) -> str:
    return text if len(text) <= columns else f"{text[: max(columns - 1, 0)]}…"


def _tqdm(**options: Any) -> Any:
    from tqdm import tqdm

    return tqdm(file=sys.stderr, mininterval=0.2, **options)


class Best:
    """The best of the files that hold the run's goal, where it is asked: the smallest, or, where the goal is a number
    of bytes, the one with the best metric. goal: None: nothing is asked."""

    def __init__(self) -> None:
        self.goal: Goal | None = None
        self.record: Record | None = None

    def see(self, record: Record) -> None:
        # held is None where there is no metric that a goal could be asked of
        if not record.ok or (self.goal is not None and self.goal.held([record]) is False):
            return
        if self.record is None or self._badness(record) < self._badness(self.record):
            self.record = record

    def _badness(self, record: Record) -> float:
        value = record.metric_where_selected
        if self.goal is None or self.goal.bytes is None or value is None:
            return record.file_bytes or 0
        return -value if record.metric_higher_is_better else value

    def __str__(self) -> str:
        return f"best {outcome(self.record)}" if self.record else ""


def outcome(record: Record) -> str:
    if not record.ok:
        return f"{record.status}: {(record.error or '').partition(chr(10))[0]}"
    from nqbench.report.numbers import figure

    value = record.metric_where_selected if record.metric is None else record.metric
    metric = "" if value is None else f", {figure(value, record.metric_unit)}"
    on = f" ({record.selected_on})" if value is not None and record.metric is None else ""
    return f"{record.file_bytes or 0:,} B{metric}{on}"


def _line(text: str) -> str:
    """Text of others for a terminal."""
    from nqbench import printable

    return printable.line(text)
