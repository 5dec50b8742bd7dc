"""``nqbench run SUITE``: from a suite to a leaderboard."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nqbench.cli.options import suite_options

if TYPE_CHECKING:
    from nqbench.engine import Progress
    from nqbench.report import ReportData
    from nqbench.results.record import Record


@click.command(name="run")
@suite_options
@click.option("--output", type=click.Path(path_type=Path), help="Folder of the results.  [default: reports/<suite>]")
@click.option("--jobs", default=1, show_default=True, type=click.IntRange(min=1), help="Worker processes.")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), help="Seconds a trial may take.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--cache/--no-cache", "cached", default=True, help="Reuse the results of stages, and keep new ones.")
@click.option("--quiet", is_flag=True, help="No progress, only the leaderboard.")
def command(
    suite: str,
    profile: str | None,
    sets: tuple[str, ...],
    only: tuple[str, ...],
    output: Path | None,
    jobs: int,
    timeout: float | None,
    device: str,
    cached: bool,
    quiet: bool,
) -> None:
    """Run SUITE (a YAML file, or the name of a shipped suite) to a leaderboard.

    The same command again resumes: what is in the output folder or in the cache is not computed anew.
    Ends with exit code 2 if trials failed, 130 if it was interrupted.
    """
    started = time.perf_counter()  # before the imports, which take seconds
    from nqbench.cli import INTERRUPTED, TRIALS_FAILED
    from nqbench.engine import Silent, run_suite
    from nqbench.report import terminal

    progress: Progress = Silent() if quiet else Bar() if sys.stderr.isatty() else Lines()
    result = run_suite(
        suite,
        output,
        jobs=jobs,
        device=device,
        timeout=timeout,
        only=only,
        sets=sets,
        profile=profile,
        cached=cached,
        progress=progress,
    )
    click.echo(terminal(result.report))
    for line in violations(result.report):
        click.echo(line)
    click.echo(f"report: {result.paths['index.html']}")
    click.echo(f"seconds: {time.perf_counter() - started:.1f}")
    if result.outcome != "ok":
        failed = sum(not record.ok for record in result.records)
        told = f"{failed} trial{'s' if failed != 1 else ''} failed; the same command runs what failed again"
        text = "interrupted: the same command resumes" if result.outcome == "interrupted" else told
        click.echo(text, err=True)
        click.get_current_context().exit(INTERRUPTED if result.outcome == "interrupted" else TRIALS_FAILED)


def violations(report: ReportData) -> list[str]:
    """A line for each method some of whose points fail although a smaller file of it holds."""
    return [
        f"not monotone: {model} {row.method}: {row.violations} of its {row.points} points "
        f"fail{'s' if row.violations == 1 else ''} although a smaller file holds"
        for model, rows in report.methods.items()
        for row in rows
        if row.violations
    ]


class Lines:
    """A line a trial, for logs."""

    def __init__(self) -> None:
        self.total, self.done = 0, 0
        self.best = Best()

    def started(self, total: int, reused: int, *, search: bool = False) -> None:
        self.total, self.done = total, reused
        there = f", {reused} already there" if reused else ""
        click.echo(f"{'a search: at most ' if search else ''}{total} trials{there}", err=True)

    def found(self, reused: int) -> None:
        self.done += reused
        click.echo(f"[{self.done}/{self.total}] {reused} already there", err=True)

    def running(self, labels: Sequence[str]) -> None:
        pass

    def ended(self, record: Record, label: str) -> None:
        self.done += 1
        self.best.see(record)
        click.echo(f"[{self.done}/{self.total}] {_line(label)}: {outcome(record)}", err=True)

    def warning(self, text: str) -> None:
        click.echo(f"warning: {text}", err=True)

    def finished(self) -> None:
        pass


class Bar(Lines):
    """tqdm on a terminal: trials done, the current trial, the best so far."""

    bar: Any = None

    def started(self, total: int, reused: int, *, search: bool = False) -> None:
        from tqdm import tqdm

        self.bar = tqdm(total=total, initial=reused, unit="trial", dynamic_ncols=True)

    def found(self, reused: int) -> None:
        self.bar.update(reused)

    def running(self, labels: Sequence[str]) -> None:
        now = " | ".join(_line(label) for label in labels[:2])
        self.bar.set_description_str(now[:60], refresh=False)
        self.bar.set_postfix_str(str(self.best))

    def ended(self, record: Record, label: str) -> None:
        self.best.see(record)
        self.bar.update()
        if not record.ok:
            self.bar.write(f"{_line(label)}: {outcome(record)}", file=sys.stderr)

    def warning(self, text: str) -> None:
        self.bar.write(f"warning: {text}", file=sys.stderr)

    def finished(self) -> None:
        if self.bar is not None:
            self.bar.close()


class Best:
    """The smallest file whose metric fell by at most half a point."""

    def __init__(self) -> None:
        self.record: Record | None = None

    def see(self, record: Record) -> None:
        if not record.ok or (record.drop is not None and record.drop > 0.5):
            return
        if self.record is None or (record.file_bytes or 0) < (self.record.file_bytes or 0):
            self.record = record

    def __str__(self) -> str:
        return f"best {outcome(self.record)}" if self.record else ""


def outcome(record: Record) -> str:
    if not record.ok:
        return _line(f"{record.status}: {(record.error or '').partition(chr(10))[0]}")
    metric = "" if record.metric is None else f", {record.metric:.2f} {record.metric_unit}".rstrip()
    return _line(f"{record.file_bytes or 0:,} B{metric}")


def _line(text: str) -> str:
    """Text of others for a terminal."""
    from nqbench.report import escaping

    return escaping.line(text)
