"""Checks of models: light ones, but the network is loaded (and trained first, where that is the recipe)."""

from __future__ import annotations

import copy
import math
from functools import lru_cache
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from nqbench.api import Model
from nqbench.testing.check import check, require
from nqbench.testing.tiny import changed, state_of

CPU = torch.device("cpu")


@lru_cache(maxsize=1)
def _loaded(model: Model) -> nn.Module:
    return model.load(CPU)


def network(model: Model) -> nn.Module:
    """The model's network, a copy of its own for each check. Raises DataMissing where its data are not at hand."""
    model.prepare()
    return copy.deepcopy(_loaded(model))


@check("model")
def fingerprint_is_stable(model: Model) -> None:
    """The fingerprint is text, the same for an equal configuration, before and after loading."""
    first = model.fingerprint()
    require(isinstance(first, str) and first, "the fingerprint is empty, or no text")
    again = type(model).model_validate_json(model.canonical_json())
    require(again.fingerprint() == first, "an equal configuration has another fingerprint")
    network(model)
    require(model.fingerprint() == first, "the fingerprint is another one once the network is loaded")


@check("model")
def loads_in_evaluation_mode(model: Model) -> None:
    """The network is in evaluation mode, on the device, finite, and the same when loaded again."""
    module = network(model)
    require(isinstance(module, nn.Module), f"load returns {type(module).__name__}, not a module")
    training = [name or "itself" for name, part in module.named_modules() if part.training]
    require(not training, f"loaded in training mode: {', '.join(training[:3])}")
    for name, value in module.state_dict().items():
        require(value.device.type == CPU.type, f"'{name}' is on {value.device}, not on {CPU}")
        require(torch.isfinite(value.float()).all(), f"'{name}' has values that are not finite")
    differing = changed(model.load(CPU), state_of(module))
    require(not differing, f"loaded again, other values: {', '.join(differing[:3])}")


@check("model")
def compressible_names(model: Model) -> None:
    """The compressible tensors are parameters of the network, each named once, in the state's order."""
    module = network(model)
    names = model.compressible(module)
    require(len(names) > 0, "names no compressible tensor")
    require(len(set(names)) == len(names), "names a compressible tensor twice")
    known = dict(module.named_parameters())
    stray = [name for name in names if name not in known]
    require(not stray, f"names '{stray[0] if stray else ''}', which is no parameter of the network")
    in_order = [name for name in module.state_dict() if name in set(names)]
    require(list(names) == in_order, "names the compressible tensors in another order than the state's")


@check("model", when=lambda model: model.metric() is not None)
def batches_are_deterministic(model: Model) -> None:
    """The same split and seed give the same batches, in stored order too."""
    model.prepare()
    for split in ("train", "test"):
        for seed in (None, 3):
            if model.has_split(split):
                first, second = ([*islice(model.batches(split, batch_size=16, shuffle=seed), 2)] for _ in range(2))
                require(len(first) > 0, f"split '{split}' gives no batch")
                require(_equal(first, second), f"split '{split}', shuffle={seed}: a second pass gives other batches")


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    return bool(a == b)


@check("model", when=lambda model: model.metric() is not None)
def losses_are_finite(model: Model) -> None:
    """One finite loss an example, with a finite gradient in every compressible tensor."""
    module = network(model)
    batch = next(iter(model.batches("train", batch_size=16)))
    outputs = model.predict(module, batch)
    losses = model.losses(outputs, batch)
    require(losses.dim() == 1 and len(losses) == len(outputs), f"losses have the shape {tuple(losses.shape)}")
    require(torch.isfinite(losses).all(), "a loss is not finite")
    losses.mean().backward()  # type: ignore[no-untyped-call]
    for name in model.compressible(module):
        gradient = module.get_parameter(name).grad
        good = gradient is not None and bool(torch.isfinite(gradient).all())
        require(good, f"'{name}' has no finite gradient: nothing can be fine-tuned")


@check("model", when=lambda model: model.metric() is not None)
def evaluation(model: Model) -> None:
    """Evaluating gives the headline metric, finite, and leaves the network as it was; twice gives the same."""
    module = network(model)
    before = state_of(module)
    first, second = model.evaluate(module), model.evaluate(module)
    metric = model.metric()
    assert metric is not None
    require(metric.name in first.metrics, f"evaluate gives no '{metric.name}', its headline metric")
    for name, value in first.metrics.items():
        require(math.isfinite(value), f"metric '{name}' is {value}")
        require(second.metrics.get(name) == value, f"metric '{name}' is another one in a second evaluation")
    if first.correct is not None:
        good = first.correct.dtype == torch.bool and first.correct.dim() == 1
        require(good, "correct is not a bool vector")
    require(not changed(module, before), "evaluation changes the network")
    require(not module.training, "evaluation leaves the network in training mode")


@check("model")
def moments_match_parameters(model: Model) -> None:
    """Second moments, where training kept them, are of parameters' names and shapes, and not negative."""
    module = network(model)
    known = dict(module.named_parameters())
    for name, value in (model.moments(CPU) or {}).items():
        require(name in known, f"moments of '{name}', which is no parameter")
        require(value.shape == known[name].shape, f"moments of '{name}' have the shape {tuple(value.shape)}")
        require(bool((value >= 0).all()), f"moments of '{name}' are negative")
