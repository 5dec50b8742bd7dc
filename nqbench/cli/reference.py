"""``nqbench reference list|fetch|pack``: published pages and networks, which lie outside the tree."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from nqbench.reference import Bundle

FOLDER = Path("reports") / "reference"
_bundle = click.option("--bundle", "listing", type=click.Path(path_type=Path), metavar="FILE",
                       help="Another list than nqbench's own reports/bundle.yaml.")  # fmt: skip


@click.group("reference")
def command() -> None:
    """Get the published pages and trained networks.

    They are too large for the tree: reports/bundle.yaml lists each with its SHA-256 and where it is had.
    """


@command.command("list")
@_bundle
def listed(listing: Path | None) -> None:
    """What there is, by folder."""
    from tabulate import tabulate

    bundle = _read(listing)
    rows = []
    for folder in bundle.folders():
        files = [file for file in bundle.files if file.name.rpartition("/")[0] == folder]
        rows.append((folder, len(files), f"{sum(file.bytes for file in files):,}"))
    click.echo(tabulate(rows, ("name", "files", "bytes"), colalign=("left", "right", "right"), disable_numparse=True))


@command.command("fetch")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--to", "folder", type=click.Path(path_type=Path, file_okay=False), default=FOLDER, show_default=True,
              help="The folder of published results.")  # fmt: skip
@click.option("--source", "sources", multiple=True, metavar="URL",
              help="Take them from here instead; {name} or {asset} stands for the file. Repeatable.")  # fmt: skip
@click.option("--timeout", default=30.0, show_default=True, type=click.FloatRange(min=0, min_open=True),
              help="Seconds that a server may be silent.")  # fmt: skip
@_bundle
def fetch(names: tuple[str, ...], folder: Path, sources: tuple[str, ...], timeout: float, listing: Path | None) -> None:
    """Get files by NAME: a folder of `nqbench reference list`, a file of it, or all.

    Each is checked against the SHA-256 that is listed, and is there whole or not at all. The same command goes on where
    an earlier one was interrupted.
    """
    from nqbench.api.errors import BadInput
    from nqbench.reference import fetch as fetch_file
    from nqbench.reference.bundle import unknown_place

    for source in sources:
        if wrong := unknown_place(source):
            raise BadInput(f"--source: {wrong}")
    bundle = _read(listing)
    for entry in bundle.named(names):
        origin = fetch_file(bundle, entry, folder, sources=sources, timeout=timeout)
        click.echo(f"{folder / entry.name}: {f'{entry.bytes:,} bytes from {origin}' if origin else 'is here'}")


@command.command("pack")
@click.argument("output", type=click.Path(path_type=Path, file_okay=False))
@click.option("--from", "folder", type=click.Path(path_type=Path, file_okay=False), default=FOLDER, show_default=True,
              help="The folder of published results.")  # fmt: skip
@_bundle
def pack(output: Path, folder: Path, listing: Path | None) -> None:
    """Put the pages and networks that are in the folder of published results into OUTPUT, as a release has them.

    Networks are halved (float16 with masks). OUTPUT gets the list too, bundle.yaml, to take the place of
    reports/bundle.yaml, and SHA256SUMS.
    """
    from nqbench.reference import pack as pack_files
    from nqbench.reference.packing import checksums, write_bundle

    bundle = pack_files(_read(listing), folder, output)
    write_bundle(bundle, output / "bundle.yaml")
    (output / "SHA256SUMS").write_text(checksums(bundle), encoding="utf-8")
    click.echo(f"{output}: {len(bundle.files)} files listed, {sum(f.bytes for f in bundle.files):,} bytes in all")


def _read(listing: Path | None) -> Bundle:
    from nqbench.reference import read_bundle

    return read_bundle(listing)
