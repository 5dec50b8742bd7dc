"""``nqbench plan SUITE``: what a run would do, without doing it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from nqbench import printable
from nqbench.cli.options import suite_options

if TYPE_CHECKING:
    from nqbench.registry import Registry
    from nqbench.results.labels import Labels
    from nqbench.results.record import Record
    from nqbench.suite import Suite, Target, Trial

SHOWN = 20
"""Trials listed without --all."""

COLUMNS = ("model", "pruner", "sensitivity", "granularity", "quantizer", "training", "codec", "positions", "coder",
           "streams", "seed", "unquantized", "fold_batchnorm")  # fmt: skip
"""What tells trials apart; a column that says the same of every trial is left out."""


@click.command("plan")
@suite_options
@click.option("--all", "everything", is_flag=True, help=f"List every trial, not only the first {SHOWN}.")
def command(suite: str, profile: str | None, sets: tuple[str, ...], only: tuple[str, ...], everything: bool) -> None:
    """Print SUITE's trials and the work they share, without running any.

    SUITE is a YAML file, or the name of a suite that ships with nqbench.
    """
    from nqbench.registry import registry
    from nqbench.suite import load

    plugins = registry()
    loaded = load(suite, profile=profile, sets=sets, registry=plugins)
    trials = loaded.trials(only)
    for block in (_heading(loaded, only, plugins), _work(trials, plugins), _listing(trials, plugins, everything)):
        click.echo(printable.plain(block) + "\n")
    for dropped in loaded.dropped:
        count = f"{dropped.count} combinations" if dropped.count != 1 else "1 combination"
        click.echo(f"left out: {count if dropped.count else 'nothing'}: {dropped.reason}")


def _heading(suite: Suite, only: Sequence[str], registry: Registry) -> str:
    trials = suite.trials(only)
    count = f"{len(trials)} of {len(suite.all_trials)}" if len(trials) < len(suite.all_trials) else f"{len(trials)}"
    lines = [f"suite {suite.name}: {count} trials"]
    if suite.target is not None:
        bound = suite.schedule(only, registry).upper_bound()
        lines = [f"suite {suite.name}: a search of {count} methods, at most {bound} trials"]
        lines.append(f"target: {_goal(suite.target)}; below, each method stands as the suite writes it")
    lines += [f"question: {suite.question}"] if suite.question else []
    lines += [f"takes: {suite.takes}"] if suite.takes else []
    if suite.measure:
        rounds = f" in {suite.measure.rounds} passes" if suite.measure.rounds > 1 else ""
        times = suite.measure.per_round * suite.measure.rounds
        lines.append(f"measured: each trial {times} times{rounds}; nothing is taken from the cache")
    return "\n".join(lines)


def _goal(target: Target) -> str:
    """What a search is to hold, where it looks, and how long."""
    return f"{target.goal} on the {target.split} split, in at most {target.trials} points a method"


def _work(trials: Sequence[Trial], registry: Registry) -> str:
    """How often each stage runs, with nothing cached, and how many trials use it."""
    from tabulate import tabulate

    from nqbench.pipeline.chain import shares

    work = [shares(trial, registry) for trial in trials]
    rows = []
    for stage in work[0]:
        used = [one[stage] for one in work if one[stage] is not None]
        rows.append((stage, len(set(used)), len(used)))
    return tabulate(rows, ("stage", "runs", "for trials"))


def _listing(trials: Sequence[Trial], registry: Registry, everything: bool) -> str:
    """A table of the trials, each with the stages that no trial above it runs."""
    from tabulate import tabulate

    from nqbench.pipeline.chain import first_needed
    from nqbench.results.labels import Labels
    from nqbench.results.record import Record

    planned = [Record.planned(trial.config()) for trial in trials]
    labels = Labels(planned)
    cells = {column: [_cell(record, column, labels) for record in planned] for column in COLUMNS}
    varied = [column for column, values in cells.items() if len(set(values)) > 1]
    same = {column: _in_full(trials[0], column, registry) for column in COLUMNS if column not in varied}
    fixed = [f"{column} {value}" for column, value in same.items() if value != "-"]
    shown = len(trials) if everything else min(SHOWN, len(trials))
    needed = first_needed(trials, registry)
    rows = [[i + 1, *(cells[column][i] for column in varied), ", ".join(needed[i])] for i in range(shown)]
    table = tabulate(rows, ("#", *varied, "runs"), disable_numparse=True)
    more = len(trials) - shown
    return f"every trial: {', '.join(fixed)}\n\n{table}" + (f"\n... and {more} more; --all lists them" if more else "")


def _cell(record: Record, column: str, labels: Labels) -> str:
    """What of a trial's column differs from the other trials', as reports and progress have it."""
    from nqbench.results.labels import short
    from nqbench.results.record import KINDS

    value = labels.plugin(record, column) if column in KINDS else getattr(record, column)
    return "-" if value in (None, False, "") else short(value)


def _in_full(trial: Trial, column: str, registry: Registry) -> str:
    """What all trials have in common, with every parameter that is not its default."""
    if column == "granularity" and trial.codec is not None:
        return "-"
    value = getattr(trial, column)
    if isinstance(value, tuple):
        return " + ".join(str(choice.make(registry)) for choice in value) or "-"
    if hasattr(value, "make"):
        return str(value.make(registry))
    return "-" if value is None or value is False else str(value)
