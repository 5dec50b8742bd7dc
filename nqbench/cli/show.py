"""``nqbench show``: one plugin's page: what it does, where it comes from, its parameters, an example, its formulas."""

from __future__ import annotations

import json

import click


@click.command("show")
@click.argument("plugin", nargs=-1, required=True, metavar="[KIND] NAME")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(plugin: tuple[str, ...], as_json: bool) -> None:
    """Show a plugin: its parameters with defaults, bounds and meaning, its source paper, what it uses, an example entry
    of a suite, and its formulas. For a coder, also the meaning of each byte that it writes."""
    from nqbench.cli._page import page_of
    from nqbench.cli._plugins import find
    from nqbench.registry import registry

    page = page_of(find(registry(), plugin, "nqbench show"))
    click.echo(json.dumps(page.data(), indent=2) if as_json else page.text())
