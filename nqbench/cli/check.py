"""``nqbench check``: run the conformance checks of an installed plugin's kind."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import click


@click.command("check")
@click.argument("plugin", nargs=-1, required=True, metavar="[KIND] NAME")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="A parameter of the plugin. Repeatable.")
@click.option("--only", multiple=True, metavar="CHECK", help="Run only this check. Repeatable.")
def command(plugin: tuple[str, ...], changes: tuple[str, ...], only: tuple[str, ...]) -> None:
    """Run the conformance checks of a plugin's kind; print one line per check. Exit code 1 if a check fails.

    Without --set, the default parameters are checked, and then every example configuration of the plugin.
    """
    from nqbench.cli._plugins import find
    from nqbench.registry import registry
    from nqbench.testing import checks_for

    entry = find(registry(), plugin, "nqbench check")
    name = f"{entry.cls.kind} {entry.cls.name}"
    target = registry().make(entry.cls.kind, entry.cls.name, _parameters(changes)) if changes else entry.cls
    bound = _chosen(checks_for(target), only)
    click.echo(f"{name} ({entry.distribution} {entry.version}): {len(bound)} checks")
    width = max(len(one.check.id) for one in bound)
    tally: Counter[str] = Counter()
    shown = ""
    for one in bound:
        if str(one.plugin) != shown:
            shown = str(one.plugin)
            click.echo(shown)
        result = one.result()
        tally[result.status] += 1
        status = "FAILED" if result.status == "failed" else result.status
        click.echo(f"  {status:8}  {result.check:{width}}  {result.reason or one.check.about}")
    click.echo(", ".join(f"{count} {status}" for status, count in sorted(tally.items(), reverse=True)))
    click.get_current_context().exit(1 if tally["failed"] else 0)


def _chosen(bound: list[Any], only: tuple[str, ...]) -> list[Any]:
    from nqbench.api import BadInput
    from nqbench.registry import did_you_mean

    known = {one.check.id for one in bound}
    for name in only:
        if name not in known:
            raise BadInput(f"no check of this plugin is called '{name}'{did_you_mean(name, sorted(known))}")
    return [one for one in bound if not only or one.check.id in only]


def _parameters(changes: tuple[str, ...]) -> dict[str, Any]:
    """``k=4`` -> {"k": 4}: values are JSON, or else text."""
    from nqbench.api import BadInput

    parameters: dict[str, Any] = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise BadInput(f"--set takes KEY=VALUE, not '{change}'")
        try:
            parameters[key] = json.loads(value)
        except json.JSONDecodeError:
            parameters[key] = value
    return parameters
