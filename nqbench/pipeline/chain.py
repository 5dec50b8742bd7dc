"""The chain of a trial's stages.

``load -> prune -> sense -> quantize -> file (encode, write, decode, check) -> evaluate -> loss -> the record``. Each
entry says what a stage depends on and how its result is made and kept. What ``nqbench plan`` counts, the order of a
grid, the content keys, the code that a key covers, which trials stay with a worker, and a record's ``seconds`` and
``cached`` are derived from these entries. A new stage is a new entry.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from nqbench.pipeline import evaluating, filing, knobs, preparation, quantization
from nqbench.pipeline.artifacts import load_quantized, save_quantized, save_tensors
from nqbench.pipeline.context import Context
from nqbench.pipeline.stage import TRIAL, Stage, reads
from nqbench.pipeline.trial import Trial
from nqbench.registry import Registry

K = TypeVar("K")


def _evaluation(name: str, make: Callable[[Context], Any], *, file: bool = False, selected: bool = False) -> Stage:
    """Of the float network or, beside its outputs, of what the file decodes to, on the test split or on the one that a
    search looks at."""
    return Stage(
        name,
        make,
        inputs=("file", name.replace("evaluate", "evaluate_float"), "load") if file else ("load",),
        plugins=("model",),
        options=("looked_at",) if selected else (),
        when="looked_at" if selected else "tested",
        meta=(lambda result: result) if file else (lambda judged: judged.figures),
        save=None if file else evaluating.save_judged,
        load=_meta_alone if file else evaluating.load_judged,
        kept="evaluate",
        memory=0 if file else 2,
        filed=not file,
        measured=file,
        planned=name == "evaluate",
    )


def _meta_alone(path: Path, meta: Mapping[str, Any], device: torch.device) -> Mapping[str, Any]:
    """A result that is all JSON."""
    return meta


CHAIN = (
    Stage(
        "load",
        preparation.load,
        plugins=("model",),
        options=("nonfinite",),
        content=True,
        hashed=preparation.content_of_network,
        memory=1,
    ),
    Stage(
        "prune",
        preparation.prune,
        inputs=("load",),
        plugins=("model", "pruner"),
        when="pruner",
        content=True,
        save=preparation.save_pruned,
        load=lambda path, meta, device: preparation.load_pruned(path, device),
        hashed=preparation.content_of_pruned,
        memory=1,
        checkpoints="pruner",
    ),
    Stage(
        "sense",
        preparation.sense,
        inputs=("prune", "load"),
        plugins=("model", "sensitivity"),
        when="sensitivity",
        save=save_tensors,
        load=lambda path, meta, device: preparation.load_sensed(path, device),
        memory=1,
        stays=True,
    ),
    Stage(
        "quantize",
        quantization.quantize,
        inputs=("prune", "sense", "load"),
        lazy=("sense",),
        plugins=("model", "quantizer", "training"),
        options=("granularity",),
        rate=True,
        when="quantizer",
        meta=lambda result: result[1],
        save=lambda result, path: save_quantized(result[0], path),
        load=lambda path, meta, device: (load_quantized(path, device), dict(meta)),
        memory=1,
        checkpoints="training",
        stays=True,
        measured=True,
    ),
    Stage(
        "file",
        filing.file,
        inputs=("quantize", "prune", "load"),
        plugins=("positions", "coder", "codec"),
        options=("streams", "unquantized", "fold_batchnorm"),
        content=True,
        lossless=("positions", "coder", "streams"),
        meta=lambda filed: filed.figures,
        save=lambda filed, path: path.write_bytes(filed.path.read_bytes()),
        load=lambda path, meta, device: filing.Filed(dict(meta), path),
        hashed=lambda filed: str(filed.figures["decoded_sha256"]),
        alone=False,
        measured=True,
        origins=("quantizer", "coder", "codec", "positions"),
    ),
    _evaluation("evaluate_float", evaluating.of_float),
    _evaluation("evaluate", evaluating.of_file, file=True),
    _evaluation("evaluate_float_selected", evaluating.of_float_selected, selected=True),
    _evaluation("evaluate_selected", evaluating.of_file_selected, file=True, selected=True),
    Stage(
        "loss_expansion",
        evaluating.loss_expansion,
        inputs=("prune", "load"),
        plugins=("model",),
        when="loss_increase",
        meta=lambda made: {"samples": made.samples, "loss": made.loss},
        save=evaluating.save_expansion,
        load=evaluating.load_expansion,
        kept="loss",
        memory=1,
        planned=False,
    ),
    Stage(
        "loss",
        evaluating.loss,
        inputs=("file", "loss_expansion", "prune", "load"),
        plugins=("model",),
        when="loss_increase",
        meta=lambda result: result,
        load=_meta_alone,
        measured=True,
        planned=False,
    ),
)
KNOB = Stage(
    "knob",
    knobs.knob,
    inputs=("prune", "sense", "load"),
    lazy=("sense",),
    plugins=("model", "quantizer", "codec"),
    options=("granularity",),
    rate=True,
    meta=knobs.to_json,
    load=lambda path, meta, device: knobs.from_json(meta),
)
"""What a search asks before its first trial; it is not part of a trial."""
STAGES = {stage.name: stage for stage in (*CHAIN, KNOB)}
NETWORK = "prune"
"""Once this stage's result is known, so is the network that a trial's other keys depend on."""
PLACES = tuple(dict.fromkeys([*(stage.place for stage in STAGES.values()), TRIAL]))
"""The names under which results are cached and deadlines are given."""
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
