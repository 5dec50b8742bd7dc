"""``nqbench nightly SUITE``: run, compare with a baseline, and draw the history."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nqbench.cli.options import PLACE, engine_options, store_option, suite_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nqbench.results.compare import Comparison
    from nqbench.results.exports import Side
    from nqbench.results.history import Series
    from nqbench.results.record import Record


@click.command(name="nightly")
@suite_options
@click.option(
    "--baseline", type=PLACE, help="What to compare with: folder, export or store.  [default: the last night]"
)
@click.option("--output", type=click.Path(path_type=Path), help="Folder of all nights.  [default: nightly/SUITE]")
@store_option
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
    baseline: str | Path | None,
    output: Path | None,
    store: str | None,
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
    from nqbench.registry import registry
    from nqbench.report import comparison as shown
    from nqbench.results.compare import Thresholds
    from nqbench.results.exports import read_side
    from nqbench.suite import load
    from nqbench.suite.suite import metrics_of

    loaded = load(suite, profile=profile, sets=sets)
    # a misspelt tolerance is told before hours of work, not after
    Thresholds().with_tolerances(tolerance, metrics_of(loaded.all_trials, registry()))
    folder = output or Path("nightly") / loaded.name
    # read before the run becomes the last night
    before = read_side(baseline) if baseline else last_night(store or folder, loaded.name)
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
        store=store,
    )
    if result.outcome == "interrupted":
        click.echo("interrupted: the same command resumes", err=True)
        click.get_current_context().exit(INTERRUPTED)
    code = TRIALS_FAILED if result.outcome == "failed" else 0
    if before is None:
        click.echo(f"{folder}: the first night; there is nothing yet to compare it with")
        write_history(folder, tolerance, store)
    else:
        run = result.report.run if store else "latest"
        comparison = compare_night(folder, before, tolerance, store, run, slowly=baseline is None)
        click.echo(shown.terminal(comparison), nl=False)
        code = comparison.exit_code or code
    click.echo(f"history: {folder / 'history.html'}")
    click.get_current_context().exit(code)


def last_night(place: str | Path, suite: str) -> Side | None:
    """What the suite's last finished run in a folder or a server's store says, with the nights before it; None where
    there was none."""
    from nqbench.results.exports import read_side
    from nqbench.results.store import FILE, Store

    if isinstance(place, Path) and not (place / FILE).is_file():
        return None
    # a server's store may have to be made yet
    with Store.read(place) if isinstance(place, Path) else Store.write(None, place) as store:
        finished = [run.run for run in store.runs() if run.outcome in ("ok", "failed") and run.suite == suite]
    if not finished:
        return None
    last = read_side(place, finished.pop())
    return replace(last, before=finished[::-1])


def stood_in(last: Side, now: Side, place: str | Path) -> Side:
    """The last night, with an earlier night's good records of trials that failed in it or that it lacks: one failed
    night would else hide what got worse since. Of trials that are gone tonight, as that night has them. place: of the
    earlier nights, read back to the last of these records and no further."""
    held = {record.trial for record in last.records if record.ok}
    wanted = {record.trial for record in now.records} - held
    taken = _last_good(place, last.before, wanted) if wanted and last.before else []
    if not taken:
        return last
    found = {record.trial for record in taken}
    records = [record for record in last.records if record.trial not in found]
    runs = ", ".join(sorted({record.run for record in taken}))
    trials = f"{len(taken)} trial{'s' if len(taken) > 1 else ''}"
    note = f"{trials} failed or missing in the last night: compared with the last good record, of run {runs}"
    return replace(last, records=[*records, *taken], notes=[*last.notes, note])


def _last_good(place: str | Path, nights: Sequence[str], wanted: set[str]) -> list[Record]:
    """Of each wanted trial the good record of the first of these nights that has one."""
    from nqbench.results.store import Store

    found: dict[str, Record] = {}
    with Store.read(place) as store:
        for night in nights:
            found |= {record.trial: record for record in store.records(night) if record.ok and record.trial in wanted}
            wanted = wanted - found.keys()
            if not wanted:
                break
    return list(found.values())


def compare_night(
    folder: Path,
    before: Side,
    tolerance: tuple[str, ...] = (),
    store: str | None = None,
    run: str = "latest",
    *,
    slowly: bool = False,
) -> Comparison:
    """Compare a run of the folder's, or of a server's store, with ``before`` and write the comparison and the history
    into the folder. slowly: of what is no worse than the night before, tell what is worse than longer ago."""
    from nqbench.report import comparison as shown
    from nqbench.report.files import write_text
    from nqbench.results.compare import Thresholds, compare
    from nqbench.results.exports import read_side
    from nqbench.results.history import with_slow

    place = store or folder
    now = read_side(place, run)
    result = compare(stood_in(before, now, place), now, Thresholds.of(now.settings).with_tolerances(tolerance))
    nights = write_history(folder, tolerance, store, now.suite)
    if slowly:
        result = replace(result, changes=with_slow(result.changes, nights, now.run))
    for name, text in (("compare.md", shown.markdown), ("compare.json", shown.as_json), ("junit.xml", shown.junit)):
        write_text(folder / name, text(result))
    return result


def write_history(
    folder: Path, tolerance: tuple[str, ...] = (), store: str | None = None, suite: str | None = None
) -> list[Series]:
    """The history of a suite, by default of the last run's: written, and returned."""
    from nqbench.report.files import write_text
    from nqbench.report.history import history_page
    from nqbench.results.compare import Thresholds
    from nqbench.results.history import history
    from nqbench.results.store import Store

    with Store.read(store or folder) as opened:
        nights = [run for run in opened.runs() if suite in (None, run.suite)]
        last = nights[-1] if nights else None
        limits = Thresholds.of(last.settings if last else None).with_tolerances(tolerance)
        found = history(opened, limits, suite=last.suite if last else None)
    write_text(folder / "history.html", history_page(last.suite if last else "", found))
    return found
