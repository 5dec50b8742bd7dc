"""``nqbench report DIR``: rebuild a run's reports from its records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from nqbench import printable
from nqbench.cli.options import PLACE

SHOWN = 5
"""Other runs that are named."""


@click.command(name="report")
@click.argument("source", type=PLACE)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the reports.  [default: SOURCE; for an export, a folder with its name; for a URL, reports/SUITE]",
)
@click.option(
    "--run",
    default="latest",
    show_default=True,
    help="Id of the run to report. The report of the latest names the others that SOURCE holds.",
)
@click.option(
    "--drop",
    type=click.FloatRange(min=0),
    help="Rank files whose metric falls by at most this much: points of a percentage, else in the metric's own unit.",
)
@click.option("--images", is_flag=True, help="Also write each model's main figure as PNG and SVG.")
@click.option("--quiet", is_flag=True, help="Print only the path of the page.")
def command(source: str | Path, output: Path | None, run: str, drop: float | None, images: bool, quiet: bool) -> None:
    """Rebuild the leaderboards and the page of a run from the records in SOURCE.

    SOURCE is an output folder, an export, or the URL of a store that a team shares (postgresql://...).
    """
    from nqbench.report import rebuild, terminal
    from nqbench.results.exports import run_ids

    data, paths = rebuild(source, output, run=run, drop=drop, images=images)
    if not quiet:
        click.echo(terminal(data))
        others = [found for found in reversed(run_ids(source)) if found != data.run] if run == "latest" else []
        if others:
            click.echo(printable.line(_told(data.run, others)), err=True)
    click.echo(paths["index.html"])


def _told(run: str, others: Sequence[str]) -> str:
    named = ", ".join(others[:SHOWN])
    more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
    return f"run {run}, the last of {len(others) + 1} in this store; --run takes another: {named}{more}"
