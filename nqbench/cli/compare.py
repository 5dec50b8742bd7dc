"""``nqbench compare BASELINE CANDIDATE``: what got worse, better, or stayed the same."""

from __future__ import annotations

from pathlib import Path

import click

from nqbench.cli.options import PLACE


@click.command(name="compare")
@click.argument("baseline", type=PLACE)
@click.argument("candidate", type=PLACE)
@click.option("--baseline-run", default="latest", show_default=True, help="Id of the baseline's run.")
@click.option("--run", default="latest", show_default=True, help="Id of the candidate's run.")
@click.option("--tolerance", multiple=True, metavar="FIGURE=SHARE", help="Count a relative change up to this as none.")
@click.option("--markdown", type=click.Path(path_type=Path), help="Also write a Markdown summary.")
@click.option("--junit", type=click.Path(path_type=Path), help="Also write JUnit XML.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write every change as JSON.")
def command(
    baseline: str | Path,
    candidate: str | Path,
    baseline_run: str,
    run: str,
    tolerance: tuple[str, ...],
    markdown: Path | None,
    junit: Path | None,
    json_file: Path | None,
) -> None:
    """Compare CANDIDATE with BASELINE: output folders, records.sqlite, records.json, exports, or stores that a
    team shares (postgresql://...).

    Ends with exit code 3 if anything is worse, 2 if trials failed.
    """
    from nqbench.report import comparison as shown
    from nqbench.report.files import write_text
    from nqbench.results.compare import Thresholds, compare
    from nqbench.results.exports import read_side

    old, new = read_side(baseline, baseline_run), read_side(candidate, run)
    limits = Thresholds.of(new.settings or old.settings).with_tolerances(
        tolerance, [record.metric_name for record in (*old.records, *new.records)]
    )
    result = compare(old, new, limits)
    click.echo(shown.terminal(result), nl=False)
    for path, text in ((markdown, shown.markdown), (junit, shown.junit), (json_file, shown.as_json)):
        if path is not None:
            write_text(path, text(result))
    click.get_current_context().exit(result.exit_code)
