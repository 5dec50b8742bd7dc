"""``nqbench nightly SUITE``: run, compare with a baseline, and draw the history."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nqbench.cli.options import engine_options, suite_options

if TYPE_CHECKING:
    from nqbench.results.compare import Comparison
    from nqbench.results.exports import Side


@click.command(name="nightly")
@suite_options
@click.option(
    "--baseline",
    type=click.Path(path_type=Path),
    help="What to compare with: output folder or export.  [default: the last night]",
)
@click.option("--output", type=click.Path(path_type=Path), help="Folder of all nights.  [default: nightly/SUITE]")
@engine_options
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), help="Seconds after which a trial is stopped.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--cache/--no-cache", "cached", default=True, help="Reuse cached results of stages, and cache new ones.")
@click.option("--tolerance", multiple=True, metavar="FIGURE=SHARE", help="Count a relative change up to this as none.")
def command(
    suite: str,
    profile: str | None,
    sets: tuple[str, ...],
    only: tuple[str, ...],
    baseline: Path | None,
    output: Path | None,
    jobs: int | None,
    engine: str | None,
    timeout: float | None,
    device: str,
    cached: bool,
    tolerance: tuple[str, ...],
) -> None:
    """Run SUITE, report what got worse than the baseline, and plot the history of every figure.

    The output folder keeps the results of every night. Besides the reports of the run, compare.md, compare.json,
    junit.xml and history.html are written there. Ends with exit code 3 if anything is worse, 2 if trials failed, 130
    if interrupted.
    """
    from nqbench.cli import INTERRUPTED, TRIALS_FAILED
    from nqbench.engine import Silent, run_suite
    from nqbench.report import comparison as shown
    from nqbench.results.exports import read_side
    from nqbench.suite import load

    loaded = load(suite, profile=profile, sets=sets)
    folder = output or Path("nightly") / loaded.name
    before = read_side(baseline) if baseline else last_night(folder)  # read before the run becomes the last night
    result = run_suite(
        loaded,
        folder,
        jobs=jobs,
        engine=engine,
        device=device,
        timeout=timeout,
        only=only,
        cached=cached,
        progress=Silent(),
    )
    if result.outcome == "interrupted":
        click.echo("interrupted: the same command resumes", err=True)
        click.get_current_context().exit(INTERRUPTED)
    code = TRIALS_FAILED if result.outcome == "failed" else 0
    if before is None:
        click.echo(f"{folder}: the first night; there is nothing yet to compare it with")
        write_history(folder, tolerance)
    else:
        comparison = compare_night(folder, before, tolerance)
        click.echo(shown.terminal(comparison), nl=False)
        code = comparison.exit_code or code
    click.echo(f"history: {folder / 'history.html'}")
    click.get_current_context().exit(code)


def last_night(folder: Path) -> Side | None:
    """What the last finished run in the folder says; None where there was none."""
    from nqbench.results.exports import read_side
    from nqbench.results.store import FILE, Store

    if not (folder / FILE).is_file():
        return None
    with Store.read(folder) as store:
        finished = [run for run in store.runs() if run.outcome in ("ok", "failed")]
    return read_side(folder, finished[-1].run) if finished else None


def compare_night(folder: Path, before: Side, tolerance: tuple[str, ...] = ()) -> Comparison:
    """Compare the folder's latest run with ``before`` and write the comparison and the history beside it."""
    from nqbench.report import comparison as shown
    from nqbench.report.files import write_text
    from nqbench.results.compare import Thresholds, compare
    from nqbench.results.exports import read_side

    now = read_side(folder)
    result = compare(before, now, Thresholds.of(now.settings).with_tolerances(tolerance))
    for name, text in (("compare.md", shown.markdown), ("compare.json", shown.as_json), ("junit.xml", shown.junit)):
        write_text(folder / name, text(result))
    write_history(folder, tolerance)
    return result


def write_history(folder: Path, tolerance: tuple[str, ...] = ()) -> None:
    from nqbench.report.files import write_text
    from nqbench.report.history import history_page
    from nqbench.results.compare import Thresholds
    from nqbench.results.history import history
    from nqbench.results.store import Store

    with Store.read(folder) as store:
        last = store.latest()
        limits = Thresholds.of(last.settings if last else None).with_tolerances(tolerance)
        found = history(store, limits)
    write_text(folder / "history.html", history_page(last.suite if last else "", found))
