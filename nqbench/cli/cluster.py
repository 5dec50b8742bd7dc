"""``nqbench cluster``: a commented text that starts a cluster and runs a suite on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from nqbench.api.engine import Engine


@click.command("cluster")
@click.argument("kind", metavar="slurm|kubernetes")
@click.option("--suite", default="quickstart", show_default=True, help="The suite that is run.")
@click.option("--slots", default=4, show_default=True, type=click.IntRange(min=1), help="Trials at a time.")
@click.option("--cpus", default=4, show_default=True, type=click.IntRange(min=1), help="Cores of a slot.")
@click.option("--memory", default="16G", show_default=True, help="Main memory that a trial may take.")
@click.option("--gpus", default=0, show_default=True, type=click.IntRange(min=0), help="GPUs of a slot.")
@click.option("--time", default="24:00:00", show_default=True, help="What the job may take.")
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help="The file to write.  [default: standard output]"
)
def command(
    kind: str, suite: str, slots: int, cpus: int, memory: str, gpus: int, time: str, output: Path | None
) -> None:
    """Write a commented text that starts a cluster and runs a suite on it: a Slurm job, or Kubernetes objects.

    It is a beginning: read it, and change it to what your cluster wants. See the page on clusters.
    """
    from nqbench.api.engine import Start
    from nqbench.api.errors import BadInput
    from nqbench.pipeline.cache import parse_size

    engine = _engine(kind)
    for name, value in (("--suite", suite), ("--time", time)):
        if any(sign in value for sign in '"\\$`\n'):
            raise BadInput(f"{name} {value!r}: quotes, backslashes and dollar signs cannot stand in a script")
    start = Start(suite, f"reports/{Path(suite).stem}", slots, cpus, parse_size(memory), gpus, time)
    text = engine.starter(kind, start)
    if output is None:
        click.echo(text, nl=False)
    elif output.exists():
        raise BadInput(f"{output} is there already: choose another --output")
    else:
        output.write_text(text, encoding="utf-8")
        click.echo(f"{output}: read it, change what your cluster wants, and start it as its first lines say")


def _engine(kind: str) -> type[Engine]:
    """Of the engines that are there, the first that starts such clusters. Raises BadInput where none does."""
    from nqbench.api.engine import Engine
    from nqbench.api.errors import BadInput
    from nqbench.registry import did_you_mean, registry

    known = registry()
    engines = [entry.cls for entry in known.all("engine") if issubclass(entry.cls, Engine)]
    for engine in engines:
        if kind in engine.starters:
            return engine
    names = [name for engine in engines for name in engine.starters]
    absent = [f"; engine '{one.name}' {one.reason}" for one in known.absent.values() if one.kind == "engine"]
    raise BadInput(f"no engine starts a cluster of the kind '{kind}'{did_you_mean(kind, names)}{''.join(absent)}")
