"""How long a trial, and each of its stages, may take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nqbench.pipeline.chain import place_of
from nqbench.pipeline.stage import TRIAL


@dataclass(frozen=True)
class Deadlines:
    """limits: seconds by stage, the whole trial's under ``trial``; stages that are not listed have no limit."""

    limits: Mapping[str, float] = field(default_factory=dict)

    @property
    def trial(self) -> float | None:
        return self.limits.get(TRIAL)

    @property
    def by_stage(self) -> bool:
        """Whether any stage has its own limit."""
        return bool(self.limits.keys() - {TRIAL})

    def passed(self, step: str, seconds: float) -> str | None:
        """The error text for a step that takes longer than its limit; None while it is within the limit."""
        limit = self.limits.get(place_of(step))
        return None if limit is None or seconds < limit else f"stopped: the stage '{step}' took more than {limit:g} s"
