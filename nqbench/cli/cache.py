"""``nqbench cache info|prune|clear|push|pull|add``: the results of stages and trained networks, here and shared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from nqbench.pipeline.cache import Cache
    from nqbench.shared.tier import Shared


@click.group("cache")
def command() -> None:
    """Show, prune or clear the cache of stages.

    The cache is in the folder NQBENCH_CACHE (default: the user's cache folder). After each run, the results that were
    unused for longest are removed until it is no larger than NQBENCH_CACHE_LIMIT (default: 20G). Trained networks are
    stored separately, under ``trained``, and are neither pruned nor cleared.

    NQBENCH_SHARED_CACHE can name a shared tier behind it, for several machines: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX
    or file:///FOLDER. A run takes from there what the folder lacks, and writes its results to both.
    """


@command.command("info")
def info() -> None:
    """Print the number and size of cached results, by stage, in the folder and in the shared tier."""
    from tabulate import tabulate

    from nqbench.pipeline.cache import limit_from_environment
    from nqbench.pipeline.sharing import networks, shared_info

    cache, limit = _cache(), limit_from_environment()
    found = cache.info()
    columns = [(found, _total(found))]
    header = ["stage", "entries", "size"]
    if cache.shared is not None:
        cache.shared.check()
        shared = shared_info(cache.shared)
        kept = [path.stat().st_size for path in networks()]
        columns = [({**found, **({"trained": (len(kept), sum(kept))} if kept else {})}, _total(found))]
        columns.append((shared, _total(shared)))
        header += ["shared", "size there"]
    stages = list(dict.fromkeys(stage for column, _ in columns for stage in column))
    rows = [[stage, *(f for column, _ in columns for f in _cells(column.get(stage)))] for stage in stages]
    rows.append(["all", *(f for _, total in columns for f in _cells(total))])
    click.echo(tabulate(rows, header, colalign=("left", *("right",) * (len(header) - 1))))
    click.echo(f"folder: {cache.root}\nlimit: {_size(limit)}")
    if cache.shared is not None:
        click.echo(f"shared: {cache.shared.url}")


@command.command("prune")
@click.option("--limit", help="Largest size to keep, such as 500M.  [default: NQBENCH_CACHE_LIMIT, or 20G]")
@click.option("--shared", is_flag=True, help="Prune the shared tier instead: the entries written first are removed.")
def prune(limit: str | None, shared: bool) -> None:
    """Remove the results that were unused for longest."""
    from nqbench.api.errors import BadInput
    from nqbench.pipeline.cache import limit_from_environment, parse_size

    if not shared:
        _dropped(*_cache().prune(parse_size(limit) if limit else limit_from_environment()))
    elif limit is None:
        raise BadInput("--shared: say how much to leave to all who use it, as in --limit 500G")
    else:
        _dropped(*_shared(_cache()).prune(parse_size(limit)))


@command.command("push")
def push() -> None:
    """Copy results and trained networks that the shared tier lacks to it."""
    from nqbench.pipeline.sharing import push_all

    cache = _cache()
    _moved("pushed", *push_all(cache, _shared(cache)))


@command.command("pull")
def pull() -> None:
    """Copy results and trained networks from the shared tier, newest first, up to NQBENCH_CACHE_LIMIT."""
    from nqbench.pipeline.cache import limit_from_environment
    from nqbench.pipeline.sharing import pull_all

    cache = _cache()
    _moved("pulled", *pull_all(cache, _shared(cache), limit_from_environment()))


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


def _shared(cache: Cache) -> Shared:
    """The shared tier, which can be reached. Raises BadInput."""
    from nqbench.api.errors import BadInput
    from nqbench.shared.tier import VARIABLE

    if cache.shared is None:
        raise BadInput(f"{VARIABLE} is not set: it names the place that machines share, such as s3://BUCKET/PREFIX")
    cache.shared.check()
    return cache.shared


def _total(found: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    return sum(entries for entries, _ in found.values()), sum(size for _, size in found.values())


def _cells(figures: tuple[int, int] | None) -> tuple[object, str]:
    return ("", "") if figures is None else (figures[0], _size(figures[1]))


def _moved(verb: str, entries: int, size: int, left: int) -> None:
    click.echo(f"{verb} {entries} entries, {_size(size)}")
    if left:
        raise click.ClickException(f"{left} entries were not {verb}: no room, no right, or the place is away")


def _dropped(entries: int, size: int) -> None:
    click.echo(f"dropped {entries} entries, {_size(size)}")


def _size(size: int) -> str:
    value = float(size)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
