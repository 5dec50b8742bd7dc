"""What a stage of a trial is: a value that says what its result depends on, how it is made, and how it is kept."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nqbench.api.quantizer import Quantizer
from nqbench.pipeline.trial import Choice, Trial
from nqbench.registry import Registry

if TYPE_CHECKING:
    from nqbench.pipeline.context import Context

TRIAL = "trial"
"""The name of a whole trial, where it stands beside the names of stages: in the cache and in deadlines."""
Meta = Mapping[str, Any]


@dataclass(frozen=True)
class Stage:
    """One stage of the chain. A name in these fields is the name of another stage or of a field of ``Trial``.

    Its result
        make: computes the result. Its module, and all that this imports, is the code that the stage's key covers.
        inputs: the stages whose results ``make`` takes. Where a trial skips this stage, the first of them stands for
        it. lazy: inputs that ``make`` may not need after all; they are made only when it asks for them.

    What it depends on, besides its inputs
        plugins, options: the fields of the trial that it reads. The seed counts too if one of the plugins draws random
        numbers. rate: the coder counts too if the quantizer uses the coder's rate. when: trials without this field
        skip the stage. content: later stages depend on the content of the result, not on how it was made: two
        networks trained by one recipe differ. lossless: those of ``plugins`` and ``options`` that change the file but
        not the weights that it decodes to.

    How it is kept
        meta: the part of the result that is JSON. save: writes the rest into a file. load: the result again from that
        file and ``meta``; None if every worker makes it anew. hashed: a hash of the content, for ``content``. kept: the
        name under which the cache keeps it and under which a deadline is given (default: its own name). memory: how
        many results a worker keeps in memory. checkpoints: trials with this field keep checkpoints, so that an
        interruption does not cost the whole stage. alone: other workers wait for the one that makes it; False where no
        two trials need the same result. filed: what ``load`` gives stays in its file until it is read, so that it takes
        the place of what was made.

    How it is run
        stays: trials that share the result go to the worker that has it. measured: made anew where a suite measures
        times. origins: the plugins whose distributions the result names. planned: ``nqbench plan`` counts it.
    """

    name: str
    make: Callable[[Context], Any]
    inputs: tuple[str, ...] = ()
    lazy: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    rate: bool = False
    when: str = ""
    content: bool = False
    lossless: tuple[str, ...] = ()
    meta: Callable[[Any], Meta] = lambda result: {}
    save: Callable[[Any, Path], object] | None = None
    load: Callable[[Path, Meta, torch.device], Any] | None = None
    hashed: Callable[[Any], str] | None = None
    kept: str = ""
    memory: int = 0
    checkpoints: str = ""
    alone: bool = True
    filed: bool = False
    stays: bool = False
    measured: bool = False
    origins: tuple[str, ...] = ()
    planned: bool = True

    @property
    def place(self) -> str:
        """The name under which the cache keeps results and under which deadlines are given."""
        return self.kept or self.name

    def skipped(self, trial: Trial) -> bool:
        return bool(self.when) and not getattr(trial, self.when)

    def shown(self, trial: Trial) -> str:
        """Its name in a record's ``seconds`` and ``cached``: with the split, where that is not the test split."""
        return self.name.replace("selected", str(trial.selected_on))

    def fields(self, trial: Trial) -> tuple[Hashable, ...]:
        """The values of all fields of the trial that this stage's key may depend on, its inputs aside."""
        coder = ("coder",) if self.rate else ()
        return tuple(getattr(trial, n) for n in (*self.plugins, *self.options, *self.origins, *coder, "seed"))


def reads(
    stage: Stage, trial: Trial, registry: Registry, without: Iterable[str] = ()
) -> tuple[tuple[tuple[Choice, int | None], ...], tuple[Hashable, ...]]:
    """What a stage reads of a trial, except the fields ``without``: the plugins, each with the seed if it uses one, and
    the options."""
    fields = [getattr(trial, name) for name in stage.plugins if name not in without]
    if stage.rate and trial.quantizer is not None and uses_rate(trial.quantizer, registry):
        fields.append(trial.coder)
    choices = [c for field in fields for c in (field if isinstance(field, tuple) else (field,)) if c is not None]
    options = tuple(getattr(trial, name) for name in stage.options if name not in without)
    return tuple((c, trial.seed if uses_seed(c, registry) else None) for c in choices), options


def uses_seed(choice: Choice, registry: Registry) -> bool:
    """Whether the plugin, with these parameters, depends on the trial's seed."""
    plugin = _instance(registry.get(choice.kind, choice.name), choice.json)
    asked = registry.sensitivity_of(plugin)
    return bool(plugin.uses_seed()) or (asked is not None and asked.uses_seed())


def uses_rate(choice: Choice, registry: Registry) -> bool:
    """Whether the quantizer, with these parameters, depends on the coder."""
    plugin = _instance(registry.get(choice.kind, choice.name), choice.json)
    return isinstance(plugin, Quantizer) and plugin.uses_rate()


@cache
def _instance(cls: Any, json: str) -> Any:
    return cls.model_validate_json(json)
