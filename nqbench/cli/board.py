"""``nqbench board``: a leaderboard that anyone can add to and anyone can check."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from nqbench.board.board import Outcome

Command = TypeVar("Command", bound=Callable[..., Any])


@click.group("board")
def command() -> None:
    """A leaderboard of files: every row is decoded and evaluated before it is in, and whenever somebody wants.

    BOARD is a folder that git can track; the first `board add` makes it.
    """


def checking(command: Command) -> Command:
    """Options of whatever looks at rows: ``device``, ``allow_plugins``, ``seconds``."""
    options = (
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."),
        click.option(
            "--allow-plugins", is_flag=True, help="Decode with plugins of others, and files of form 'plugin'."
        ),
        click.option(
            "--seconds", default=300.0, show_default=True, type=click.FloatRange(min=0, min_open=True),
            help="That decoding a file may take.",
        ),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


new_networks_option = click.option(
    "--new-networks", is_flag=True, help="Take rows of networks that no row is of yet: load or train them."
)


@command.command("add")
@click.argument("board", type=click.Path(path_type=Path))
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
@checking
@new_networks_option
@click.option("--title", default="Leaderboard", help="Of a new board.")
def add(
    board: Path,
    bundles: tuple[Path, ...],
    device: str,
    allow_plugins: bool,
    seconds: float,
    new_networks: bool,
    title: str,
) -> None:
    """Check every row of BUNDLES and take those that hold into BOARD.

    Each file is decoded by a process of its own kind, with limits on time, memory and reach, its network evaluated on
    this machine's data, and bytes, hash and metrics compared with the record. A row that does not hold is refused with
    what differs, and the exit code is 3; the others are in. Adding twice is adding once.
    """
    from nqbench.board.board import Board
    from nqbench.board.checking import Checker

    found = Board.at(board, title)
    with Checker(device, allow_plugins, seconds) as checker:
        outcomes = [one for bundle in bundles for one in told(found.add(bundle, checker, new_networks=new_networks))]
    closing(board, outcomes)


@command.command("merge")
@click.argument("board", type=click.Path(path_type=Path))
@click.argument("others", nargs=-1, required=True, type=click.Path(path_type=Path))
@checking
@new_networks_option
@click.option("--believe", is_flag=True, help="Take what the other boards found as it is, and their checks with it.")
def merge(
    board: Path,
    others: tuple[Path, ...],
    device: str,
    allow_plugins: bool,
    seconds: float,
    new_networks: bool,
    believe: bool,
) -> None:
    """Take the rows of the boards OTHERS into BOARD; each is checked here first, unless --believe.

    A row of both stays once: BOARD's own; with --believe the earlier one, and the checks of both. Merging twice changes
    nothing.
    """
    from nqbench.board.board import Board
    from nqbench.board.checking import Checker

    sources = [Board.open(other) for other in others]
    found = Board.at(board, sources[0].title, sources[0].drop)
    with Checker(device, allow_plugins, seconds) as checker:
        given = None if believe else checker
        outcomes = [one for source in sources for one in told(found.merge(source, given, new_networks=new_networks))]
    closing(board, outcomes)


@command.command("verify")
@click.argument("board", type=click.Path(path_type=Path))
@click.option("--sample", type=click.IntRange(min=1), help="So many rows, drawn at random.  [default: all]")
@click.option("--seed", default=0, show_default=True, help="Of the draw.")
@checking
def verify(board: Path, sample: int | None, seed: int, device: str, allow_plugins: bool, seconds: float) -> None:
    """Decode and evaluate rows of BOARD again. Ends with exit code 3 if one does not hold.

    A row keeps when and where it last held. One whose network or data are not on this machine is told and left out.
    """
    from nqbench.board.board import Board
    from nqbench.board.checking import Checker
    from nqbench.cli import REGRESSION

    held = faults = missing = 0
    with Checker(device, allow_plugins, seconds) as checker:
        for row, verdict in Board.open(board).verify(checker, sample=sample, seed=seed):
            held += not verdict.faults
            missing += verdict.missing
            faults += bool(verdict.faults) and not verdict.missing
            for fault in verdict.faults:
                _say(f"{'not looked at' if verdict.missing else 'DIFFERS'}: {row.id}: {fault}", err=True)
    if not held + faults + missing:
        raise click.ClickException(f"{board}: has no row to verify")
    _say(f"{held} of {held + faults} rows hold" + (f", {missing} could not be looked at here" if missing else ""))
    if faults:
        click.get_current_context().exit(REGRESSION)


@command.command("build")
@click.argument("board", type=click.Path(path_type=Path))
@click.option("--site", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of the site.")
@click.option("--url", default="", metavar="URL", help="Where the site will be, for the feeds: https://...")
def build(board: Path, site: Path, url: str) -> None:
    """Write BOARD as a static site that needs no server: a page a network and a row, the files, JSON for others."""
    from nqbench.board.board import Board
    from nqbench.board.site import build_site

    pages = build_site(Board.open(board), site, url)
    _say(f"{site / 'index.html'}: {pages} pages")


def told(outcomes: Iterable[Outcome]) -> Iterable[Outcome]:
    """The same, each said as it comes."""
    from nqbench.report.numbers import figure

    for one in outcomes:
        if one.state == "refused":
            for fault in one.faults:
                _say(f"refused {one.name}: {fault}", err=True)
        elif one.row is not None:
            with_code = f" (decoded with {'; '.join(one.row.code)})" if one.row.code else ""
            figures = f"{one.row.found.file_bytes:,} B, {figure(one.row.found.metric, one.row.metric_unit)}"
            _say(f"{one.state} {one.name}: {figures}{with_code}")
        yield one


def closing(board: Path, outcomes: list[Outcome]) -> None:
    from nqbench.cli import REGRESSION

    counts = {state: sum(one.state == state for one in outcomes) for state in ("added", "there", "refused")}
    _say(f"{board}: {counts['added']} added, {counts['there']} there already, {counts['refused']} refused")
    if counts["refused"]:
        click.get_current_context().exit(REGRESSION)


def _say(text: str, err: bool = False) -> None:
    """Text of others for a terminal."""
    from nqbench import printable

    click.echo(printable.line(text), err=err)
