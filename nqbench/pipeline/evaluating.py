"""The stage that evaluates: the float network once, and every distinct decoded network once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nqbench.api import BadInput, Evaluation, Quantizer
from nqbench.pipeline.context import Context
from nqbench.pipeline.decoder import Decoder
from nqbench.pipeline.filing import on_cpu
from nqbench.pipeline.network import deployed_weights, fill
from nqbench.pipeline.quantization import Quantization
from nqbench.results.record import pack_correct


class Evaluating:
    def __init__(self, quantization: Quantization, decoder: Decoder) -> None:
        self.quantization = quantization
        self.preparation = quantization.preparation
        self.decoder = decoder

    def metrics(self, context: Context, content: str, path: Path) -> dict[str, Any]:
        """The metric fields of a record; nothing for a model without data. content: hash of the decoded tensors."""
        metric = context.model.metric()
        if metric is None:
            return {}
        before = self._evaluation(context, f"float network {context.keys.load}", "evaluate_float", None)
        after = self._evaluation(context, content, "evaluate", path)
        if metric.name not in after["metrics"]:
            raise BadInput(f"model '{context.trial.model.name}' gave no metric '{metric.name}'")
        value, reference = after["metrics"][metric.name], before["metrics"][metric.name]
        return {
            "metric_name": metric.name,
            "metric_unit": metric.unit,
            "metric_higher_is_better": metric.higher_is_better,
            "metric": value,
            "metric_float": reference,
            "metric_delta": value - reference,
            "metrics": after["metrics"],
            "metrics_float": before["metrics"],
            "correct": after["correct"],
            "examples": after["examples"],
        }

    def _evaluation(self, context: Context, content: str, stage: str, path: Path | None) -> dict[str, Any]:
        """Metrics of the float network (path None) or of a file's, by the hash of its tensors."""
        cache = context.around.cache
        key = context.around.maker.evaluate(context.trial, content)
        entry = cache.get("evaluate", key)
        if entry is not None:
            context.watch.hit(stage)
            return entry.meta
        network = self.preparation.network(context)
        module = network.module
        if path is not None:
            module = network.spare
            fill(module, self.decoder.decode(path).tensors)
        with context.watch.stage(stage):
            result = evaluation_fields(context.model.evaluate(module, "test"))
        with cache.put("evaluate", key, result):
            pass
        return result

    def loss_increase(self, context: Context, content: str) -> dict[str, float]:
        """Predicted and measured increase of the training loss, around the pruned network."""
        from nqbench.api.toolkit.curvature import loss_increase

        cache, key = context.around.cache, context.around.maker.loss(context.trial, context.keys, content)
        entry = cache.get("loss", key)
        if entry is not None:
            context.watch.hit("loss")
            return entry.meta
        prepare = self.preparation
        network, pruned = prepare.network(context), prepare.pruned(context)
        model, _ = self.quantization.result(context)
        like = {name: pruned.state[name] for name in network.names}
        quantizer = context.plugin(context.trial.quantizer, Quantizer)
        weights = deployed_weights(quantizer, on_cpu(model), pruned.masks, like)
        task = prepare.task(context, module=network.variant(pruned.state), masks=pruned.masks)
        with context.watch.stage("loss"):
            found = dict(loss_increase(task, {n: t.to(context.around.device) for n, t in weights.items()}))
        with cache.put("loss", key, found):
            pass
        return found


def evaluation_fields(evaluation: Evaluation) -> dict[str, Any]:
    """An evaluation as JSON."""
    correct = None if evaluation.correct is None else np.asarray(evaluation.correct.cpu(), dtype=bool)
    return {
        "metrics": {name: float(value) for name, value in evaluation.metrics.items()},
        "correct": None if correct is None else pack_correct(correct),
        "examples": None if correct is None else int(correct.size),
    }
