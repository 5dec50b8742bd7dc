"""``nqbench merge INTO SOURCE...``: the runs of several stores in one."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from nqbench.cli.options import PLACE


@click.command(name="merge")
@click.argument("into", type=PLACE)
@click.argument("sources", nargs=-1, required=True, type=PLACE)
def command(into: str | Path, sources: tuple[str | Path, ...]) -> None:
    """Take every run of SOURCES into the store in folder INTO.

    SOURCES: output folders, records.sqlite, JSON exports, stores that a team shares (postgresql://...), as INTO may be.

    If INTO ends in .json, an export of all SOURCES is written instead; it can be tracked by git, compared, and merged
    again. Records that are already in INTO stay, and merging twice changes nothing. The compressed files in the source
    folders are copied too.
    """
    from nqbench.report.files import write_text
    from nqbench.results.exports import export_json, merge
    from nqbench.results.store import Store
    from nqbench.secret import masked

    if isinstance(into, Path) and into.suffix == ".json":
        with tempfile.TemporaryDirectory() as scratch, Store.write(scratch) as store:
            for source in (*((into,) if into.exists() else ()), *sources):
                merge(store, source)
            write_text(into, export_json(store))
            total = len(store.runs())
        click.echo(f"{into}: {total} runs")
        return
    with Store.write(into) if isinstance(into, Path) else Store.write(None, into) as store:
        for source in sources:
            click.echo(f"{masked(str(source))}: {merge(store, source)} new runs")
        click.echo(f"{masked(str(into))}: {len(store.runs())} runs")
