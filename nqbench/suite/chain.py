"""The chain of a trial's stages: what each takes, and so what trials share, how they are ordered and what a key holds.

``load -> prune -> sense -> quantize -> file (encode, write, decode, check) -> evaluate -> loss -> the record``. Here a
stage is names alone; how its result is made, kept and found again stands in ``nqbench.pipeline.chain``. The plan, the
order of a grid, the content keys, and which trials stay with a worker all follow from this list.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from nqbench.api.quantizer import Quantizer
from nqbench.registry import Registry
from nqbench.suite.trial import Choice, Trial

K = TypeVar("K")


@dataclass(frozen=True)
class Stage:
    """One stage. All names are of other stages, or of a trial's fields.

    inputs: the stages whose results it takes; a trial that skips the stage hands on the first of them. lazy: those of
    them that it may do without. plugins, options: what it reads of the trial; of a plugin that draws, also the seed.
    rate: the coder, too, where the quantizer reads its rate. when: the field without which a trial skips the stage.

    content: what follows is keyed by what came out, not by how: two networks by one recipe are two. lossless: what of
    ``plugins`` and ``options`` changes the result's form alone, not its content.

    origins: the plugins whose distributions the result names. stays: trials that share the result stay with the worker
    that holds it. measured: made anew where a suite measures. kept: the name under which results are kept and deadlines
    are given (default: its own). planned: ``nqbench plan`` counts it.
    """

    name: str
    inputs: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    when: str = ""
    lazy: tuple[str, ...] = ()
    rate: bool = False
    content: bool = False
    lossless: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    stays: bool = False
    measured: bool = False
    kept: str = ""
    planned: bool = True

    @property
    def place(self) -> str:
        return self.kept or self.name

    def fields(self, trial: Trial) -> tuple[Hashable, ...]:
        """All of the trial that its own part of a key may depend on, the results that it takes aside."""
        coder = ("coder",) if self.rate else ()
        return tuple(getattr(trial, n) for n in (*self.plugins, *self.options, *self.origins, *coder, "seed"))

    def skipped(self, trial: Trial) -> bool:
        return bool(self.when) and not getattr(trial, self.when)

    def shown(self, trial: Trial) -> str:
        """Its name in a record's ``seconds`` and ``cached``: with the split, where that is not the test split."""
        return self.name.replace("selected", str(trial.selected_on))


def _evaluation(name: str, of: tuple[str, ...], *, selected: bool = False) -> Stage:
    """Of the float network or of a file's, on the test split or on the one that a search looks at."""
    return Stage(
        name,
        of,
        ("model",),
        ("looked_at",) if selected else (),
        when="looked_at" if selected else "tested",
        measured="file" in of,
        kept="evaluate",
        planned=name == "evaluate",
    )


CHAIN = (
    Stage("load", (), ("model",), content=True),
    Stage("prune", ("load",), ("model", "pruner"), when="pruner", content=True),
    Stage("sense", ("prune", "load"), ("model", "sensitivity"), when="sensitivity", stays=True),
    Stage(
        "quantize",
        ("prune", "sense", "load"),
        ("model", "quantizer", "training"),
        ("granularity",),
        when="quantizer",
        lazy=("sense",),
        rate=True,
        stays=True,
        measured=True,
    ),
    Stage(
        "file",
        ("quantize", "prune", "load"),
        ("positions", "coder", "codec"),
        ("streams", "unquantized", "fold_batchnorm"),
        content=True,
        lossless=("positions", "coder", "streams"),
        origins=("quantizer", "coder", "codec", "positions"),
        measured=True,
    ),
    _evaluation("evaluate_float", ("load",)),
    _evaluation("evaluate", ("file", "load")),
    _evaluation("evaluate_float_selected", ("load",), selected=True),
    _evaluation("evaluate_selected", ("file", "load"), selected=True),
    Stage("loss_expansion", ("prune", "load"), ("model",), when="loss_increase", kept="loss", planned=False),
    Stage(
        "loss",
        ("file", "loss_expansion", "prune", "load"),
        ("model",),
        when="loss_increase",
        measured=True,
        planned=False,
    ),
)
KNOB = Stage(
    "knob", ("prune", "sense", "load"), ("model", "quantizer", "codec"), ("granularity",), lazy=("sense",), rate=True
)
"""What a search asks before its first trial; no part of a trial."""
STAGES = {stage.name: stage for stage in (*CHAIN, KNOB)}
NETWORK = "prune"
"""The stage from which on a trial's keys hold contents: its network is known once this one has been."""
TRIAL = "trial"
"""The name of the whole, beside those of its stages."""
PLACES = tuple(dict.fromkeys([*(stage.place for stage in STAGES.values()), TRIAL]))
"""Under which results are kept and deadlines are given."""
_STEPS = {"write": "file", "read": "file"}


def place_of(step: str) -> str:
    """The place of what a record's ``seconds`` name: ``evaluate_float`` -> ``evaluate``, ``write`` -> ``file``."""
    return _STEPS.get(step, step.partition("_")[0])


def walk(
    trial: Trial, key: Callable[[Stage, list[K]], K], content: Callable[[Stage, K, list[K]], K]
) -> tuple[dict[str, K], dict[str, K]]:
    """The key of each stage of a trial, and what stands for each stage's result in the keys of those that take it.

    key: of a stage and what stands for its inputs. content: of a stage whose content counts, its key and inputs.
    """
    keys: dict[str, K] = {}
    stands: dict[str, K] = {}
    for stage in CHAIN:
        inputs = [stands[name] for name in stage.inputs if name in stands]
        if not stage.skipped(trial):
            keys[stage.name] = key(stage, inputs)
            stands[stage.name] = content(stage, keys[stage.name], inputs) if stage.content else keys[stage.name]
        elif inputs:
            stands[stage.name] = inputs[0]
    return keys, stands


def reads(
    stage: Stage, trial: Trial, registry: Registry, without: Iterable[str] = ()
) -> tuple[tuple[tuple[Choice, int | None], ...], tuple[Hashable, ...]]:
    """What a stage reads of a trial, less some fields: plugins, each with the seed if it draws, and options."""
    fields = [getattr(trial, name) for name in stage.plugins if name not in without]
    if stage.rate and trial.quantizer is not None and uses_rate(trial.quantizer, registry):
        fields.append(trial.coder)
    choices = [c for field in fields for c in (field if isinstance(field, tuple) else (field,)) if c is not None]
    options = tuple(getattr(trial, name) for name in stage.options if name not in without)
    return tuple((c, trial.seed if uses_seed(c, registry) else None) for c in choices), options


def shares(trial: Trial, registry: Registry) -> dict[str, Hashable]:
    """What each planned stage of a trial depends on, as far as names and parameters tell; None where it is skipped.
    Equal values: one run for all.

    The pipeline's keys say the same of a certain environment: they add the code, the versions and the contents.
    """

    def key(stage: Stage, inputs: list[Hashable]) -> Hashable:
        return (reads(stage, trial, registry), *inputs)

    def content(stage: Stage, key: Hashable, inputs: list[Hashable]) -> Hashable:
        return (reads(stage, trial, registry, stage.lossless), *inputs) if stage.lossless else key

    keys, _ = walk(trial, key, content)
    return {stage.name: keys.get(stage.name) for stage in CHAIN if stage.planned}


def first_needed(trials: Sequence[Trial], registry: Registry) -> list[list[str]]:
    """For each trial, the stages that no trial before it has run."""
    seen: set[tuple[str, Hashable]] = set()
    needed = []
    for trial in trials:
        work = shares(trial, registry).items()
        needed.append([stage for stage, inputs in work if inputs is not None and (stage, inputs) not in seen])
        seen.update(work)
    return needed


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
