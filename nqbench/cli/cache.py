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

    It lies in NQBENCH_CACHE (default: the user's cache folder) and is pruned after each run to NQBENCH_CACHE_LIMIT
    (default: 20G). Trained networks are kept apart from it, under ``trained``, and are not touched but by ``add``.
    """


@command.command("info")
def info() -> None:
    """What is in it, by stage."""
    from tabulate import tabulate

    from nqbench.pipeline.cache import limit_from_environment

    cache, limit = _cache(), limit_from_environment()
    found = cache.info()
    rows = [(stage, entries, _size(size)) for stage, (entries, size) in found.items()]
    rows.append(("all", sum(e for e, _ in found.values()), _size(sum(s for _, s in found.values()))))
    click.echo(tabulate(rows, ("stage", "entries", "size"), colalign=("left", "right", "right")))
    click.echo(f"folder: {cache.root}\nlimit: {_size(limit)}")


@command.command("prune")
@click.option("--limit", help="Leave at most this much, such as 500M.  [default: NQBENCH_CACHE_LIMIT, or 20G]")
def prune(limit: str | None) -> None:
    """Drop what was not used for longest."""
    from nqbench.pipeline.cache import limit_from_environment, parse_size

    _dropped(*_cache().prune(parse_size(limit) if limit else limit_from_environment()))


@command.command("clear")
@click.option("--stage", help="Only this stage: load, prune, sense, knob, quantize, file, evaluate, loss or trial.")
def clear(stage: str | None) -> None:
    """Drop everything."""
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
    """Take trained networks from elsewhere: files of a store, or folders of them.

    A run that would train a network by the same recipe then takes it instead. A damaged file is refused, and one that a
    SHA256SUMS beside it lists otherwise.
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
