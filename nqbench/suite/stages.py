"""Which work trials share: what each stage of a trial depends on, as far as names and parameters tell.

Equal values mean that the stage runs once for all of those trials. The pipeline's keys say the same of a certain
environment: they add the code, the versions and the data.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from nqbench.api.quantizer import Quantizer
from nqbench.registry import Registry
from nqbench.suite.trial import Choice, Trial


@dataclass(frozen=True)
class Stages:
    """One value a stage, each holding what the stage before it depends on; None where the trial skips the stage."""

    load: Hashable
    prune: Hashable
    sense: Hashable
    quantize: Hashable
    encode: Hashable
    evaluate: Hashable

    def named(self) -> list[tuple[str, Hashable]]:
        """(stage, what it depends on), in order."""
        return [(stage.name, getattr(self, stage.name)) for stage in fields(self)]


STAGES = tuple(stage.name for stage in fields(Stages))


def stages(trial: Trial, registry: Registry) -> Stages:
    """The inputs of a trial's stages, in pipeline order. A codec quantizes and encodes in one piece: ``encode``.

    Coders are lossless: trials that differ by how symbols are written evaluate one network.
    """

    def key(*choices: Choice | None) -> Hashable:
        used = [choice for choice in choices if choice is not None]
        return tuple((choice, trial.seed if uses_seed(choice, registry) else None) for choice in used)

    load = key(trial.model)
    pruned = (load, key(trial.pruner))
    sensed = (pruned, key(trial.sensitivity))
    quantized: Hashable = None
    if trial.quantizer is not None:
        rate = key(trial.coder) if uses_rate(trial.quantizer, registry) else None
        quantized = (sensed, trial.granularity, key(trial.quantizer, *trial.training), rate)
    unquantized = (trial.unquantized, trial.fold_batchnorm)
    written = (quantized or pruned, unquantized, trial.streams, key(trial.positions, trial.coder, trial.codec))
    return Stages(
        load=load,
        prune=pruned if trial.pruner else None,
        sense=sensed if trial.sensitivity else None,
        quantize=quantized,
        encode=written,
        evaluate=(quantized, unquantized) if quantized else written,
    )


def first_needed(trials: Sequence[Trial], registry: Registry) -> list[list[str]]:
    """For each trial, the stages that no trial before it has run."""
    seen: set[tuple[str, Hashable]] = {(name, None) for name in STAGES}
    needed = []
    for trial in trials:
        work = stages(trial, registry).named()
        needed.append([stage for stage, inputs in work if (stage, inputs) not in seen])
        seen.update(work)
    return needed


def uses_seed(choice: Choice, registry: Registry) -> bool:
    """Whether the plugin, with these parameters, depends on the trial's seed."""
    return bool(_instance(registry.get(choice.kind, choice.name), choice.json).uses_seed())


def uses_rate(choice: Choice, registry: Registry) -> bool:
    """Whether the quantizer, with these parameters, depends on the coder."""
    plugin = _instance(registry.get(choice.kind, choice.name), choice.json)
    return isinstance(plugin, Quantizer) and plugin.uses_rate()


@cache
def _instance(cls: Any, json: str) -> Any:
    return cls.model_validate_json(json)
