"""The stage that evaluates: the float network once, and every distinct decoded network once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from nqbench.api import BadInput, Model, Split, Task
from nqbench.api.toolkit.content import content_hash
from nqbench.pipeline.artifacts import load_tensors, save_tensors
from nqbench.pipeline.filing import Filed
from nqbench.pipeline.network import fill
from nqbench.pipeline.precision import whole_float32
from nqbench.pipeline.preparation import network_of, pruned_of, task_of
from nqbench.results.record import pack_correct

if TYPE_CHECKING:
    from nqbench.api.toolkit.curvature import Expansion
    from nqbench.pipeline.context import Context

Json = dict[str, Any]


def of_float(context: Context) -> Json:
    """The float network's evaluation on the test split."""
    return _evaluation(context, "evaluate_float", None, "test")


def of_file(context: Context) -> Json:
    """The evaluation of what the file decodes to on the test split."""
    return _evaluation(context, "evaluate", context.result("file"), "test")


def of_float_selected(context: Context) -> Json:
    """As ``of_float``, on the split that a search looks at."""
    return _evaluation(context, f"evaluate_float_{_looked_at(context)}", None, _looked_at(context))


def of_file_selected(context: Context) -> Json:
    return _evaluation(context, f"evaluate_{_looked_at(context)}", context.result("file"), _looked_at(context))


def _looked_at(context: Context) -> Split:
    assert context.trial.looked_at is not None
    return context.trial.looked_at


def _evaluation(context: Context, step: str, filed: Filed | None, split: Split) -> Json:
    network = network_of(context)
    module = network.module
    if filed is not None:
        module = network.spare
        fill(module, _tensors(context, filed))
    with context.watch.stage(step):
        return evaluated(context.model, module, split)


def _tensors(context: Context, filed: Filed) -> Mapping[str, Tensor]:
    """The decoded tensors of the file. Raises BadInput if a cached file decodes to other tensors than when it was
    made."""
    if filed.tensors is not None:
        return filed.tensors
    tensors = context.bench.decoder.decode(filed.path).tensors
    if content_hash(tensors) != filed.figures["decoded_sha256"]:
        raise BadInput(f"{filed.path} decodes to other tensors than when it was cached: run nqbench cache clear")
    return tensors


def judge_float(context: Context) -> None:
    """Evaluate the float network, before anything is quantized. Raises BadInput if it has no usable metric."""
    if context.model.metric() is not None:
        stage = "evaluate_float" if context.trial.tested else "evaluate_float_selected"
        _headline(context, context.result(stage), "float")


def _headline(context: Context, evaluation: Json, whose: str) -> float:
    """The headline metric of an evaluation. Raises BadInput if it is missing or not finite."""
    metric = context.model.metric()
    assert metric is not None
    found = evaluation["metrics"]
    if metric.name not in found:
        given = f"it gave {', '.join(found)}: name one of these" if found else "it gave none"
        raise BadInput(f"model '{context.trial.model.name}' gave no metric '{metric.name}'; {given}")
    value = float(found[metric.name])
    if not math.isfinite(value):
        raise BadInput(
            f"the metric '{metric.name}' of the {whose} network is {value}: "
            "it must be a finite number, since files are ranked by it"
        )
    return value


def metrics(context: Context) -> dict[str, Any]:
    """The metric fields of a record; empty for a model without data. Raises BadInput if the headline metric is
    missing."""
    metric, trial = context.model.metric(), context.trial
    if metric is None:
        return {}
    found: dict[str, Any] = {
        "metric_name": metric.name,
        "metric_unit": metric.unit,
        "metric_higher_is_better": metric.higher_is_better,
        "metrics": {},
        "metrics_float": {},
    }
    if trial.tested:
        before, after = context.result("evaluate_float"), context.result("evaluate")
        value, reference = _headline(context, after, "decoded"), _headline(context, before, "float")
        found |= {"metric": value, "metric_float": reference, "metric_delta": value - reference}
        found |= {"correct": after["correct"], "examples": after["examples"]}
        found |= {"metrics": dict(after["metrics"]), "metrics_float": dict(before["metrics"])}
    split = trial.looked_at
    if split is not None:
        for into, stage in (("metrics_float", "evaluate_float_selected"), ("metrics", "evaluate_selected")):
            looked_at = context.result(stage)
            _headline(context, looked_at, "float" if into == "metrics_float" else "decoded")
            found[into].update({f"{split}.{name}": value for name, value in looked_at["metrics"].items()})
    return found


# -- the increase of the training loss ---------------------------------------------------------------------------
def loss_expansion(context: Context) -> Expansion:
    """The loss around the pruned network: of all trials that start there, the first computes it."""
    from nqbench.api.toolkit.curvature import expand

    task = _loss_task(context)
    with context.watch.stage("loss"):
        return expand(task, task.names)


def loss(context: Context) -> dict[str, float]:
    """Predicted and measured increase of the training loss, around the pruned network."""
    from nqbench.api.toolkit.curvature import loss_increase

    device, network = context.bench.device, network_of(context)
    tensors = _tensors(context, context.result("file"))
    # all float tensors, since a training may have changed biases and statistics too
    deployed = {n: t.to(device) for n, t in tensors.items() if t.is_floating_point()}
    deployed = {n: t for n, t in deployed.items() if n not in network.aliases}
    with context.watch.stage("loss"):
        return dict(loss_increase(_loss_task(context), deployed, around=context.result("loss_expansion")))


def _loss_task(context: Context) -> Task:
    def make() -> Task:
        pruned = pruned_of(context)
        return task_of(context, network_of(context).variant(pruned.state), pruned)

    return context.kept("loss task", "prune", make)


def save_expansion(made: Expansion, path: Path) -> None:
    parts = {"gradient": made.gradient, "diagonal": made.diagonal}
    save_tensors({f"{part}.{n}": t for part, tensors in parts.items() for n, t in tensors.items()}, path)


def load_expansion(path: Path, meta: Mapping[str, Any], device: torch.device) -> Expansion:
    from nqbench.api.toolkit.curvature import Expansion

    parts: dict[str, dict[str, Tensor]] = {"gradient": {}, "diagonal": {}}
    for name, tensor in load_tensors(path, device)[0].items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    return Expansion(meta["samples"], meta["loss"], parts["gradient"], parts["diagonal"])


def evaluated(model: Model, module: nn.Module, split: Split) -> dict[str, Any]:
    """The network's evaluation on a split, as JSON, in float32 on every device."""
    with whole_float32():
        evaluation = model.evaluate(module, split)
    correct = None if evaluation.correct is None else np.asarray(evaluation.correct.cpu(), dtype=bool)
    return {
        "metrics": {name: float(value) for name, value in evaluation.metrics.items()},
        "correct": None if correct is None else pack_correct(correct),
        "examples": None if correct is None else int(correct.size),
    }
