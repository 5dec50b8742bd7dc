"""``nqbench show``: one plugin's page: where it comes from, what it does, its parameters, its specification."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from nqbench.cli._describe import Parameter


@click.command("show")
@click.argument("plugin", nargs=-1, required=True, metavar="[KIND] NAME")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(plugin: tuple[str, ...], as_json: bool) -> None:
    """Show a plugin's parameters with defaults, bounds and meaning, its source paper, what it uses, and its
    specification: of a coder, each byte that it writes."""
    from nqbench.cli._describe import document, former, habits, parameters_of, specification
    from nqbench.cli._plugins import find
    from nqbench.registry import registry

    entry = find(registry(), plugin, "nqbench show")
    cls = entry.cls
    parameters = parameters_of(cls)
    if as_json:
        page = {
            "kind": cls.kind, "name": cls.name, "distribution": entry.distribution, "version": entry.version,
            "class": f"{cls.__module__}.{cls.__qualname__}", "paper": cls.paper, "documentation": document(entry),
            "specification": specification(entry),
            "parameters": [asdict(parameter) for parameter in parameters], "habits": habits(cls),
            "schema": cls.documented_schema(),
        }  # fmt: skip
        click.echo(json.dumps(page, indent=2))
        return
    facts = {"from": f"{entry.distribution} {entry.version}, {cls.__module__}.{cls.__qualname__}"}
    facts |= {"paper": cls.paper} if cls.paper else {}
    facts |= former(cls) | habits(cls)
    width = max(map(len, facts))
    click.echo(f"{cls.kind} {cls.name}\n")
    click.echo(document(entry) + "\n")
    for label, words in facts.items():
        click.echo(f"{label:{width}}  {words}")
    click.echo("\n" + (_table(parameters) if parameters else "It has no parameters."))
    if pages := specification(entry):
        click.echo("\n" + pages)


def _table(parameters: list[Parameter]) -> str:
    from tabulate import tabulate

    from nqbench.cli._describe import default_text

    rows = [(p.name, p.type, default_text(p), p.bounds, p.meaning) for p in parameters]
    headers = ("parameter", "type", "default", "bounds", "meaning")
    return tabulate(rows, headers, tablefmt="simple", disable_numparse=True, maxcolwidths=[None, 24, None, 20, 60])
