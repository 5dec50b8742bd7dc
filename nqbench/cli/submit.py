"""``nqbench submit RUN --to BUNDLE.nqs``: rows of a run for a board."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("submit")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--to", "target", required=True, type=click.Path(path_type=Path, dir_okay=False), metavar="BUNDLE.nqs")
@click.option(
    "--rows", multiple=True, metavar="ROWS", default=("holds",), show_default="holds",
    help="all; holds (lose at most half a point); front; a key; quantizer=kmeans,coder=huffman. Repeatable.",
)  # fmt: skip
@click.option("--licence", default="CC-BY-4.0", show_default=True, metavar="SPDX", help="Of the files and figures.")
@click.option("--who", metavar="TEXT", help="Who submits them, as the board shall show it.")
@click.option(
    "--where", multiple=True, metavar="PACKAGE=URL", help="Where a plugin's package is had: https:// or git+https://."
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
def command(
    run: Path, target: Path, rows: tuple[str, ...], licence: str, who: str | None, where: tuple[str, ...], force: bool
) -> None:
    """Write rows of the last run in folder RUN as a submission: records, compressed files, suite, versions.

    It holds no code, no absolute path and nothing that looks like a secret: what does is refused with its line.
    `nqbench board add BOARD BUNDLE.nqs` checks every row and takes those that hold.
    """
    from pydantic import ValidationError

    from nqbench.api.errors import BadInput
    from nqbench.board.collecting import submit
    from nqbench.registry import registry

    if target.exists() and not force:
        raise BadInput(f"{target} is there already: choose another --to, or replace it with --force")
    places = {package: place for package, _, place in (pair.partition("=") for pair in where)}
    try:
        manifest = submit(run, target, rows=rows, licence=licence, who=who, where=places, registry=registry())
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    files = sum(name.endswith(".nqz") for name in manifest.entries)
    click.echo(f"{target}: {len(manifest.rows)} rows, {files} files, {target.stat().st_size:,} bytes")
    for one in manifest.distributions:
        click.echo(f"{one.name} {one.version}: {one.source or 'nobody knows where it is had: say it with --where'}")
