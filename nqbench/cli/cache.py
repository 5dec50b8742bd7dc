"""``nqbench cache info|prune|clear|add``: the store of stage results, and of trained networks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from nqbench.pipeline.cache import Cache


@click.group("cache")
def command() -> None:
    """Show, prune or clear the cache of stages.

    The cache is in the folder NQBENCH_CACHE (default: the user's cache folder). After each run, the results that were
    unused for longest are removed until it is no larger than NQBENCH_CACHE_LIMIT (default: 20G). Trained networks are
    stored separately, under ``trained``; only ``add`` changes them.
    """


@command.command("info")
def info() -> None:
    """Print the number and size of cached results, by stage."""
    from tabulate import tabulate

    from nqbench.pipeline.cache import limit_from_environment

    cache, limit = _cache(), limit_from_environment()
    found = cache.info()
    rows = [(stage, entries, _size(size)) for stage, (entries, size) in found.items()]
    rows.append(("all", sum(e for e, _ in found.values()), _size(sum(s for _, s in found.values()))))
    click.echo(tabulate(rows, ("stage", "entries", "size"), colalign=("left", "right", "right")))
    click.echo(f"folder: {cache.root}\nlimit: {_size(limit)}")


@command.command("prune")
@click.option("--limit", help="Largest size to keep, such as 500M.  [default: NQBENCH_CACHE_LIMIT, or 20G]")
def prune(limit: str | None) -> None:
    """Remove the results that were unused for longest."""
    from nqbench.pipeline.cache import limit_from_environment, parse_size

    _dropped(*_cache().prune(parse_size(limit) if limit else limit_from_environment()))


@command.command("clear")
@click.option("--stage", help="Only this stage: load, prune, sense, knob, quantize, file, evaluate, loss or trial.")
def clear(stage: str | None) -> None:
    """Remove all cached results."""
    from nqbench.api.errors import BadInput
    from nqbench.pipeline.cache import WORK
    from nqbench.pipeline.chain import PLACES
    from nqbench.registry import did_you_mean

    if stage is not None and stage not in (stages := [*PLACES, WORK]):
        raise BadInput(f"unknown stage '{stage}'{did_you_mean(stage, stages)}")
    _dropped(*_cache().clear(stage))


@command.command("add")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
def add(paths: tuple[Path, ...]) -> None:
    """Add trained networks from another machine: files of its ``trained`` folder, or the whole folder.

    A run that needs a network trained by the same recipe then uses the file instead of training. A file is refused if
    it is damaged, or if a file SHA256SUMS in the same folder lists another hash for it.
    """
    from nqbench.api.errors import BadInput
    from nqbench.api.toolkit.store import adopt

    for path in paths:
        files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
        if not files:
            raise BadInput(f"{path}: no *.safetensors file in this folder")
        for file in files:
            click.echo(f"added {adopt(file)}")


def _cache() -> Cache:
    from nqbench.pipeline.cache import Cache

    return Cache.default()


def _dropped(entries: int, size: int) -> None:
    click.echo(f"dropped {entries} entries, {_size(size)}")


def _size(size: int) -> str:
    value = float(size)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
