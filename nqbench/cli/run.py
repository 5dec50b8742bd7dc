"""``nqbench run SUITE``: from a suite to a leaderboard."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nqbench.cli.options import engine_options, store_option, suite_options

if TYPE_CHECKING:
    from nqbench.report import ReportData


@click.command(name="run")
@suite_options
@click.option("--output", type=click.Path(path_type=Path), help="Folder of the results.  [default: reports/<suite>]")
@store_option
@engine_options
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), help="Seconds after which a trial is stopped.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--cache/--no-cache", "cached", default=True, help="Reuse cached results of stages, and cache new ones.")
@click.option("--quiet", is_flag=True, help="Print only the leaderboard, no progress.")
def command(
    suite: str,
    profile: str | None,
    sets: tuple[str, ...],
    only: tuple[str, ...],
    output: Path | None,
    store: str | None,
    jobs: int | None,
    engine: str | None,
    timeout: float | None,
    device: str,
    cached: bool,
    quiet: bool,
) -> None:
    """Run SUITE (a YAML file, or the name of a shipped suite) and print its leaderboard.

    Repeating the command resumes the run: results in the output folder or in the cache are not computed again.
    Ends with exit code 2 if trials failed, 130 if it was interrupted.
    """
    started = time.perf_counter()  # before the imports, which take seconds
    from nqbench.cli import INTERRUPTED, TRIALS_FAILED
    from nqbench.cli.progress import shown
    from nqbench.engine import run_suite
    from nqbench.report import terminal

    result = run_suite(
        suite,
        output,
        jobs=jobs,
        engine=engine,
        device=device,
        timeout=timeout,
        only=only,
        sets=sets,
        profile=profile,
        cached=cached,
        progress=shown(quiet),
        store=store,
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
