"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


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
