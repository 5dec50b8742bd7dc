"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


class Place(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.3 on
    """Where records are: a path, or the URL of a server's store, which stays as it is."""

    name = "path or URL"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | Path:
        return value if isinstance(value, Path) or "://" in value else Path(value)


PLACE = Place()

store_option = click.option(
    "--store",
    envvar="NQBENCH_STORE",
    metavar="URL",
    help="Records go to (or are in) this server's store, not the folder's own: postgresql://USER@HOST/DATABASE.  "
    "[default: NQBENCH_STORE, if set]",
)


def suite_options(command: Command) -> Command:
    """Argument SUITE, and --profile, --set, --only: parameters ``suite``, ``profile``, ``sets``, ``only``."""
    options = (
        click.argument("suite"),
        click.option("--profile", metavar="NAME", help="Use the suite's variant of this name, such as 'small'."),
        click.option(
            "--set", "sets", multiple=True, metavar="KEY=VALUE",
            help="Override a value of the suite: coders=[huffman,lzw], quantizers.kmeans.k=8. Repeatable.",
        ),
        click.option(
            "--only", multiple=True, metavar="AXIS=VALUE[,...]",
            help="Keep only these trials: quantizer=kmeans,coder=huffman; quantizer.k=8; model=lenet*. Repeatable.",
        ),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def engine_option(command: Command) -> Command:
    """--engine: where trials run."""
    return click.option(
        "--engine",
        metavar="NAME[:PLACE]",
        help="Where trials run: local, dask (a cluster of this machine), dask:tcp://HOST:PORT, dask:SCHEDULER_FILE.  "
        "[default: local]",
    )(command)


def engine_options(command: Command) -> Command:
    """--jobs and --engine: how many workers, and where."""
    jobs = click.option(
        "--jobs", type=click.IntRange(min=1), help="Worker processes.  [default: 1; on a cluster all there are]"
    )
    return jobs(engine_option(command))
