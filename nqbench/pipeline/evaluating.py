"""The stage that evaluates: the float network once, and every distinct decoded network once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from nqbench.api import BadInput, Model, Split, Task
from nqbench.pipeline.artifacts import content_hash, load_tensors, save_tensors
from nqbench.pipeline.cache import Cache, Entry
from nqbench.pipeline.context import Context, Recent
from nqbench.pipeline.decoder import Decoder
from nqbench.pipeline.filing import Filed
from nqbench.pipeline.network import fill
from nqbench.pipeline.precision import whole_float32
from nqbench.pipeline.preparation import Preparation
from nqbench.results.record import pack_correct

if TYPE_CHECKING:
    from nqbench.api.toolkit.curvature import Expansion

Json = dict[str, Any]


class Evaluating:
    def __init__(self, preparation: Preparation, decoder: Decoder) -> None:
        self.preparation = preparation
        self.decoder = decoder
        self._floats = Recent(4)
        self._loss_around = Recent(1)

    def metrics(self, context: Context, filed: Filed) -> dict[str, Any]:
        """The metric fields of a record; nothing for a model without data."""
        metric = context.model.metric()
        if metric is None:
            return {}
        before, after = self._before_and_after(context, filed, "test")
        if metric.name not in after["metrics"]:
            raise BadInput(f"model '{context.trial.model.name}' gave no metric '{metric.name}'")
        value, reference = after["metrics"][metric.name], before["metrics"][metric.name]
        metrics, metrics_float = dict(after["metrics"]), dict(before["metrics"])
        split = context.trial.selected_on
        if split in ("train", "validation"):
            looked_at = self._before_and_after(context, filed, split)
            for found, evaluation in zip((metrics_float, metrics), looked_at, strict=True):
                found.update({f"{split}.{name}": value for name, value in evaluation["metrics"].items()})
        return {
            "metric_name": metric.name,
            "metric_unit": metric.unit,
            "metric_higher_is_better": metric.higher_is_better,
            "metric": value,
            "metric_float": reference,
            "metric_delta": value - reference,
            "metrics": metrics,
            "metrics_float": metrics_float,
            "correct": after["correct"],
            "examples": after["examples"],
        }

    def _before_and_after(self, context: Context, filed: Filed, split: Split) -> tuple[Json, Json]:
        """The evaluations of the float network and of the file's on a split. Stages: ``evaluate_float``, ``evaluate``
        and, on another split than the test's, the same with the split's name."""
        beside = "" if split == "test" else f"_{split}"
        network = f"float network {context.keys.load}"
        before = self._floats.find(
            network + beside,
            lambda: self._evaluation(context, network, f"evaluate_float{beside}", None, split),
            lambda: context.watch.hit(f"evaluate_float{beside}"),
        )
        return before, self._evaluation(context, filed.figures["decoded_sha256"], f"evaluate{beside}", filed, split)

    def _evaluation(self, context: Context, content: str, stage: str, filed: Filed | None, split: Split) -> Json:
        """Metrics of the float network (filed None) or of a file's, by the hash of its tensors."""

        def make(_: Path | None) -> dict[str, Any]:
            network = self.preparation.network(context)
            module = network.module
            if filed is not None:
                module = network.spare
                fill(module, self._tensors(filed))
            with context.watch.stage(stage):
                return evaluated(context.model, module, split)

        # the float network's is a reference, not a result: it is not measured anew
        cache = context.around.cache if filed is None else context.around.results
        key = context.around.maker.evaluate(context.trial, content, split)
        return self._once(context, cache, "evaluate", stage, key, make)

    def _tensors(self, filed: Filed) -> Mapping[str, Tensor]:
        """What the file decodes to. Raises BadInput where a cached one is not what it was when it was filed."""
        if filed.tensors is not None:
            return filed.tensors
        tensors = self.decoder.decode(filed.path).tensors
        if content_hash(tensors) != filed.figures["decoded_sha256"]:
            raise BadInput(f"{filed.path} decodes to other tensors than when it was cached: run nqbench cache clear")
        return tensors

    def loss_increase(self, context: Context, filed: Filed) -> dict[str, float]:
        """Predicted and measured increase of the training loss, around the pruned network."""
        from nqbench.api.toolkit.curvature import loss_increase

        def make(_: Path | None) -> dict[str, Any]:
            network = self.preparation.network(context)
            around, tensors = context.around, self._tensors(filed)
            # every float tensor: biases and statistics that a training changed count in what is measured
            deployed = {n: t.to(around.device) for n, t in tensors.items() if t.is_floating_point()}
            deployed = {n: t for n, t in deployed.items() if n not in network.aliases}
            task, expansion = self._loss_around.find(context.keys.prune, lambda: self._expand(context))
            with context.watch.stage("loss"):
                return dict(loss_increase(task, deployed, around=expansion))

        content = filed.figures["decoded_sha256"]
        key = context.around.maker.loss(context.trial, context.keys, content)
        return self._once(context, context.around.results, "loss", "loss", key, make)

    def _expand(self, context: Context) -> tuple[Task, Expansion]:
        """The pruned network and the loss around it: of all trials that start there, the first computes it."""
        from nqbench.api.toolkit.curvature import expand

        prepare, around = self.preparation, context.around
        pruned = prepare.pruned(context)
        task = prepare.task(context, module=prepare.network(context).variant(pruned.state), masks=pruned.masks)

        def make(_: Path | None) -> Expansion:
            with context.watch.stage("loss"):
                return expand(task, task.names)

        # as the float network's evaluation it is a reference, not a result
        expansion, _ = around.cache.once(
            "loss",
            around.maker.loss(context.trial, context.keys, "the loss around the network"),
            load=lambda entry: load_expansion(entry, around.device),
            make=make,
            save=save_expansion,
            meta=lambda made: {"samples": made.samples, "loss": made.loss},
        )
        return task, expansion

    def _once(
        self, context: Context, cache: Cache, stage: str, shown: str, key: str, make: Callable[[Path | None], Json]
    ) -> Json:
        result, hit = cache.once(stage, key, load=lambda entry: entry.meta, make=make, meta=lambda r: r)
        if hit:
            context.watch.hit(shown)
        return result


def save_expansion(made: Expansion, path: Path) -> None:
    parts = {"gradient": made.gradient, "diagonal": made.diagonal}
    save_tensors({f"{part}.{n}": t for part, tensors in parts.items() for n, t in tensors.items()}, path)


def load_expansion(entry: Entry, device: torch.device) -> Expansion:
    from nqbench.api.toolkit.curvature import Expansion

    parts: dict[str, dict[str, Tensor]] = {"gradient": {}, "diagonal": {}}
    for name, tensor in load_tensors(entry.path, device)[0].items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    return Expansion(entry.meta["samples"], entry.meta["loss"], parts["gradient"], parts["diagonal"])


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
