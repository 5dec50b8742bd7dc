"""What runs tasks in a slot's process, as the run sends it there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nqbench.api.engine import Greeting, SlotShape
from nqbench.engine.deadlines import Deadlines
from nqbench.engine.greeting import greeting
from nqbench.engine.processes import Processes
from nqbench.engine.worker import WorkerSettings
from nqbench.pipeline.cache import Cache
from nqbench.results.environment import threads_each


@dataclass(frozen=True)
class TrialHost:
    """settings: of the workers; threads and folders of their own are filled in. distributions: whose plugins the run's
    trials use."""

    settings: WorkerSettings
    deadlines: Deadlines
    distributions: tuple[str, ...] = ()

    def greet(self) -> Greeting:
        return greeting(self.distributions, self.settings.device)

    def open(self, shapes: Sequence[SlotShape], scratch: Path, *, away: bool) -> Processes:
        share = threads_each(len(shapes))
        common = replace(self.settings, parent=os.getpid())
        if away:
            # another machine has a cache of its own, and no output folder
            cache = None if common.cache is None else str(Cache.folder())
            common = replace(common, cache=cache, files=str((scratch / "files").absolute()), carried=True)
        settings = {
            shape.name: replace(
                common,
                threads=share if shape.threads is None else shape.threads,
                gpus=shape.gpus,
                scratch=str((scratch / shape.name).absolute()),
                stage_file=str((scratch / f"stage-{shape.name}").absolute()),
            )
            for shape in shapes
        }
        return Processes(settings, scratch, self.deadlines, {shape.name: shape.memory for shape in shapes})
