"""The hooks of the entry-point group ``nqbench``. A package implements any of them in the module it names there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pluggy

from nqbench.api.plugin import Plugin

PROJECT = "nqbench"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Hooks:
    """Specifications. A hook that raises is reported once and never stops a run."""

    @hookspec
    def nqbench_plugins(self) -> Sequence[type[Plugin]]:  # type: ignore[empty-body]
        """The plugin classes that this package registers."""

    @hookspec
    def nqbench_run_started(self, suite: str, output: str, trials: int) -> None:
        """A run is about to start its first trial. ``trials``: an upper bound of their number."""

    @hookspec
    def nqbench_trial_ended(self, record: Mapping[str, Any]) -> None:
        """A trial ended, however it did. ``record``: the fields that records.json has."""

    @hookspec
    def nqbench_run_ended(self, suite: str, output: str, records: Sequence[Mapping[str, Any]]) -> None:
        """The run's reports are written."""
