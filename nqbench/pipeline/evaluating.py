"""The stage that evaluates: the float network once, and every distinct decoded network once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

import torch
from torch import Tensor, nn

from nqbench.api import BadInput, Metric, Model, PerExample, Split, Task
from nqbench.api.errors import NoFigure
from nqbench.api.modules import device_of
from nqbench.api.toolkit.content import content_hash
from nqbench.api.toolkit.judging import judging, under_way
from nqbench.api.toolkit.pace import Pace
from nqbench.pipeline.artifacts import load_tensors, save_tensors
from nqbench.pipeline.filing import Filed, decoded_own
from nqbench.pipeline.held import check_held
from nqbench.pipeline.precision import whole_float32
from nqbench.pipeline.preparation import network_of, pruned_of, task_of
from nqbench.results.record import on_split, pack_correct, pack_values

if TYPE_CHECKING:
    from nqbench.api.toolkit.curvature import Expansion
    from nqbench.pipeline.context import Context

Json = dict[str, Any]


class Figures(TypedDict):
    """An evaluation on a split, as it is kept: JSON. metrics: by name. examples: by metric, the ``statistic`` that
    makes the metric of the examples' packed ``values``, and the number of ``examples``. pace: the batches in which the
    network was evaluated, as ``Pace.as_json``, where they are known, and on the CPU with how many ``threads``: no key
    holds these, so that what the cache gives may be of other ones than this process has."""

    metrics: dict[str, float]
    examples: dict[str, Json]
    pace: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Judged:
    """The float network's evaluation: figures, and its outputs, here or in a file of the cache."""

    figures: Figures
    made: Tensor | None = None
    path: Path | None = None

    @property
    def outputs(self) -> Tensor | None:
        """What compressed networks' outputs are compared with; None where there is nothing to compare. Read from the
        file each time: a language model's take gigabytes. Raises OSError or ValueError where the cache lost it."""
        return self.made if self.path is None else load_tensors(self.path)[0].get(_OUTPUTS)


_OUTPUTS = "outputs"
_THREADS = "threads"


def save_judged(judged: Judged, path: Path) -> None:
    save_tensors({} if judged.made is None else {_OUTPUTS: judged.made}, path)


def load_judged(path: Path, meta: Mapping[str, Any], device: torch.device) -> Judged:
    return Judged(cast(Figures, dict(meta)), path=path)


def of_float(context: Context) -> Judged:
    """The float network's evaluation on the test split."""
    return _float(context, "evaluate_float", "test")


def of_file(context: Context) -> Figures:
    """The evaluation of what the file decodes to on the test split."""
    return _decoded(context, "evaluate", "evaluate_float", "test")


def of_float_selected(context: Context) -> Judged:
    """As ``of_float``, on the split that a search looks at."""
    return _float(context, f"evaluate_float_{_looked_at(context)}", _looked_at(context))


def of_file_selected(context: Context) -> Figures:
    split = _looked_at(context)
    return _decoded(context, f"evaluate_{split}", "evaluate_float_selected", split)


def _looked_at(context: Context) -> Split:
    assert context.trial.looked_at is not None
    return context.trial.looked_at


def _float(context: Context, step: str, split: Split) -> Judged:
    network = network_of(context)
    check_held(context.model, network.variant(network.state), split)
    module = network.variant(network.state)
    with context.watch.stage(step):
        return judged_float(context.model, module, split)


def _decoded(context: Context, step: str, beside: str, split: Split) -> Figures:
    """beside: the stage of the float network's evaluation, in whose batches this one is made, too."""
    before = context.result(beside)
    pace = pace_in(before.figures)
    network = network_of(context)
    module = network.variant(_tensors(context, context.result("file")))
    with context.watch.stage(step):
        try:
            outputs = before.outputs
        except (OSError, ValueError):  # the cache was cleared meanwhile
            outputs = judged_float(context.model, network.variant(network.state), split, pace).outputs
        return judged_beside(context.model, module, split, outputs, pace)


def _tensors(context: Context, filed: Filed) -> Mapping[str, Tensor]:
    """The decoded tensors of the file. Raises BadInput if a cached file decodes to other tensors than when it was
    made."""
    if filed.tensors is not None:
        return filed.tensors
    tensors = decoded_own(context, filed.path).tensors
    if content_hash(tensors) != filed.figures["decoded_sha256"]:
        raise BadInput(f"{filed.path} decodes to other tensors than when it was cached: run nqbench cache clear")
    return tensors


def judge_float(context: Context) -> None:
    """Evaluate the float network, before anything is quantized. Raises BadInput if it has no usable metric."""
    if context.model.metric() is not None:
        stage = "evaluate_float" if context.trial.tested else "evaluate_float_selected"
        _headline(context, context.result(stage).figures, "float")


def metric_of(context: Context) -> Metric | None:
    """The metric that the trial is judged by: the one that the suite names, else the model's headline. Raises BadInput
    for one that the model does not give."""
    return chosen_metric(context.model.metrics(), context.trial.judged_by, context.model.name)


def chosen_metric(known: Sequence[Metric], name: str | None, model: str) -> Metric | None:
    """The metric of that name, or the first. Raises BadInput."""
    if name is None:
        return known[0] if known else None
    found = next((metric for metric in known if metric.name == name), None)
    if found is None:
        names = ", ".join(metric.name for metric in known) or "none"
        raise BadInput(f"model '{model}' gives no metric '{name}'; it gives {names}")
    return found


def _headline(context: Context, evaluation: Figures, whose: str) -> float:
    """The headline metric of an evaluation. Raises BadInput if it is missing or not finite; NoFigure
    if it is the decoded network's that is not finite."""
    metric = metric_of(context)
    assert metric is not None
    found = evaluation["metrics"]
    if metric.name not in found:
        given = f"it gave {', '.join(found)}: name one of these" if found else "it gave none"
        raise BadInput(f"model '{context.trial.model.name}' gave no metric '{metric.name}'; {given}")
    value = float(found[metric.name])
    if not math.isfinite(value):
        kind = NoFigure if whose == "decoded" else BadInput
        raise kind(
            f"the metric '{metric.name}' of the {whose} network is {value}: "
            "it must be a finite number, since files are ranked by it"
        )
    return value


def metrics(context: Context) -> dict[str, Any]:
    """The metric fields of a record; empty for a model without data. Raises BadInput if the headline metric is
    missing."""
    metric, trial = metric_of(context), context.trial
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
        before, after = context.result("evaluate_float").figures, context.result("evaluate")
        value, reference = _headline(context, after, "decoded"), _headline(context, before, "float")
        found |= {"metric": value, "metric_float": reference, "metric_delta": value - reference}
        found |= {**paired(after, metric.name), "evaluated_in": _made_in(before, after)}
        found |= {"metrics": dict(after["metrics"]), "metrics_float": dict(before["metrics"])}
    split = trial.looked_at
    if split is not None:
        before, after = context.result("evaluate_float_selected").figures, context.result("evaluate_selected")
        for into, looked_at in (("metrics_float", before), ("metrics", after)):
            _headline(context, looked_at, "float" if into == "metrics_float" else "decoded")
            found[into].update({on_split(name, split): value for name, value in looked_at["metrics"].items()})
        found.setdefault("evaluated_in", _made_in(before, after))
    return found


def _made_in(before: Figures, after: Figures) -> Json:
    """What a record says of how its evaluation was made, and of the float network's where its threads were others."""
    floats = before["pace"].get(_THREADS)
    apart = floats is not None and floats != after["pace"].get(_THREADS)
    return {**after["pace"], **({"float_threads": floats} if apart else {})}


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

    # two models may have one network and other data
    return context.kept("loss task", "prune", make, extra=f"{context.trial.model} {context.seed}")


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


def evaluated(model: Model, module: nn.Module, split: Split) -> Figures:
    """The network's evaluation on a split in float32 on every device, compared and in the batches that the
    ``judging`` around it says."""
    with whole_float32():
        evaluation = model.evaluate(module, split)
    judgement = under_way()
    pace = {} if judgement is None or judgement.pace is None else judgement.pace.as_json()
    threads = {_THREADS: torch.get_num_threads()} if device_of(module).type == "cpu" else {}
    metric = model.metric()
    examples = dict(evaluation.examples)
    if metric is not None and evaluation.correct is not None:
        counted = _counted(metric, evaluation.metrics.get(metric.name), evaluation.correct)
        examples.setdefault(metric.name, PerExample(counted, "share"))
    return {
        "metrics": {name: float(value) for name, value in evaluation.metrics.items()},
        "examples": {name: _packed(values) for name, values in examples.items()},
        "pace": {**pace, **threads},
    }


def _counted(metric: Metric, value: float | None, correct: Tensor) -> Tensor:
    """(examples,) bool: the examples of which the metric is the share, so that pairs say the same as the metric does.
    Of an error these are the wrong ones."""
    share = 100 * float(correct.double().mean()) if correct.numel() else 0.0
    turned = not metric.higher_is_better and value is not None and abs(100 - share - value) < abs(share - value)
    return ~correct if turned else correct


def judged_float(model: Model, module: nn.Module, split: Split, pace: Pace | None = None) -> Judged:
    """The float network's evaluation with its outputs. pace: in which batches; None: the fastest."""
    with judging(pace=pace) as judgement:
        figures = evaluated(model, module, split)
    return Judged(figures, judgement.outputs)


def judged_beside(model: Model, module: nn.Module, split: Split, outputs: Tensor | None, pace: Pace | None) -> Figures:
    """The evaluation of a compressed network, compared with the float network's outputs, in the batches of those."""
    with judging(outputs, pace, compares=True):
        return evaluated(model, module, split)


def pace_in(figures: Figures) -> Pace | None:
    """As which batches an evaluation was made, as it says itself."""
    said = {name: value for name, value in figures["pace"].items() if name != _THREADS}
    return Pace(**said) if said else None


def _packed(values: PerExample) -> Json:
    share = values.statistic == "share"
    found = (values.values if share else values.values.detach().float()).cpu().numpy()
    packed = pack_correct(found) if share else pack_values(found)
    return {"statistic": values.statistic, "values": packed, "examples": len(found)}


def paired(evaluation: Figures, metric: str) -> Json:
    """What a record keeps of the examples: right and wrong, or the values that its metric follows from."""
    found = evaluation["examples"].get(metric)
    if found is None:
        return {}
    name = "correct" if found["statistic"] == "share" else "values"
    return {name: found["values"], "examples": found["examples"], "statistic": found["statistic"]}
