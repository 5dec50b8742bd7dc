"""``nqbench list``: every plugin that is installed, and what could not be loaded."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from nqbench.registry import Broken, Registered, Registry


@click.command("list")
@click.argument("kind", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(kind: str | None, as_json: bool) -> None:
    """List the plugins, of every kind or of one, with the distribution and version they come from.

    KIND is model, pruner, sensitivity, quantizer, training, positions, coder, codec or engine.
    """
    from nqbench.cli._plugins import kind_named
    from nqbench.registry import KINDS, registry

    chosen = kind_named(kind) if kind else None
    found = registry()
    order = list(KINDS)
    entries = sorted(found.all(chosen), key=lambda entry: (order.index(entry.cls.kind), entry.cls.name))
    if as_json:
        click.echo(json.dumps(_machine(entries, found), indent=2))
        return
    click.echo(_table(entries) if entries else f"no plugin{f' of the kind {chosen}' if chosen else ''} is installed")
    absent = [found.absent[key] for key in sorted(found.absent) if chosen in (None, key[0])]
    for install in dict.fromkeys(one.install for one in absent):
        names = ", ".join(f"{one.kind} {one.name}" for one in absent if one.install == install)
        click.echo(f"\nnot installed: {names}: {install}")
    if found.broken:
        click.echo(f"\nbroken, and left out:\n{_broken_table(found.broken)}")


def _table(entries: list[Registered]) -> str:
    from tabulate import tabulate

    rows = [(e.cls.kind, e.cls.name, e.distribution, e.version, e.summary) for e in entries]
    headers = ("kind", "name", "distribution", "version", "description")
    # versions are text: 1.10 is not 1.1
    return tabulate(rows, headers, tablefmt="simple", disable_numparse=True)


def _broken_table(broken: list[Broken]) -> str:
    from tabulate import tabulate

    rows = [(b.what, b.distribution, b.version, b.reason) for b in broken]
    return tabulate(rows, ("what", "distribution", "version", "reason"), tablefmt="simple", disable_numparse=True)


def _machine(entries: list[Registered], found: Registry) -> dict[str, list[dict[str, str]]]:
    plugins = [
        {"kind": e.cls.kind, "name": e.cls.name, "distribution": e.distribution, "version": e.version,
         "description": e.summary}
        for e in entries
    ]  # fmt: skip
    absent = [asdict(one) for one in found.absent.values()]
    return {"plugins": plugins, "absent": absent, "broken": [asdict(b) for b in found.broken]}
