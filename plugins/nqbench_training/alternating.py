"""Trainings that alternate between moving real weights and quantizing them (arXiv:1707.04319).

Both start at the reference weights, with theta from direct compression, and both end at w = Delta(theta). An
interrupted alternation can be resumed: after every quantization the network, the groups and the multipliers are written
to the task's workdir, and within a pass of training the training loop keeps its own checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from pydantic import Field, ValidationError, model_validator
from torch import Tensor

from nqbench.api import BadInput, Group, QuantizedModel, Quantizer, Task, Training, begin
from nqbench.api.toolkit import interrupted
from nqbench.api.toolkit.masters import sums_of
from nqbench_training.optimised import Optimised, deployed_as, fit_network, grown, install, workfile

FILE = "alternation.safetensors"


class Alternation:
    """State of an alternation: theta (groups), its weights Delta(theta), the multipliers l, the next iteration."""

    def __init__(self, task: Task, groups: tuple[Group, ...]) -> None:
        self.task = task
        self.groups = groups
        self.iteration = 0
        self.multipliers = {name: sums_of(task.parameter(name)) for name in task.names}
        path = workfile(task, FILE)
        if path is not None:
            self._restore(path)

    @property
    def deployed(self) -> dict[str, Tensor]:
        """Delta(theta) by name, detached."""
        return {name: t.detach() for name, t in self.task.reconstruct(self.groups).items()}

    def save(self) -> None:
        path = workfile(self.task, FILE)
        if path is not None:
            tensors = {f"multipliers/{k}": v for k, v in self.multipliers.items()}
            interrupted.save(path, self.task, self.groups, tensors, {"iteration": self.iteration})

    def _restore(self, path: Path) -> None:
        found = interrupted.restore(path, self.task)
        if found is not None:
            self.groups, tensors, notes = found
            self.iteration = int(notes["iteration"])
            self.multipliers = {name: tensors[f"multipliers/{name}"] for name in self.task.names}


class Resensing(Optimised):
    """What alternations that quantize share besides the recipe of the training loop."""

    resense: bool = False
    """Whether the sensitivity is estimated again before each quantization, for the current weights, instead of only
    once before the first; each estimate takes the full time of the sensitivity."""

    def sensed(self, task: Task) -> Mapping[str, Tensor] | None:
        """The sensitivity of the current network; None: the trial's own is used."""
        # moments that training kept are those of the weights that it ended with
        return replace(task, moments=None).sense() if self.resense else None


class IteratedDirect(Resensing, Training, name="iterated-direct", paper="arXiv:1707.04319, section 2.1"):
    """Iterated direct compression: training from the quantized weights and quantization, in alternation."""

    iterations: int = Field(10, ge=1)
    """Number of iterations of training and quantizing; ``epochs`` is the length of each training."""
    decay: float = Field(1.0, gt=0, le=1)
    """Factor of the learning rate from one iteration to the next."""

    def train(self, task: Task, start: QuantizedModel | None) -> QuantizedModel:
        if start is not None:
            install(task, start)
        state = Alternation(task, begin(task, start).groups)
        while (j := state.iteration) < self.iterations:
            task.assign(state.deployed)
            recipe = self.recipe(task.seed + j, lr=self.lr * self.decay**j)
            fit_network(
                task,
                recipe,
                checkpoint=f"iteration-{j}.safetensors",
                second_moments=False,
            )
            state.groups = task.quantize(task.weights(), sensed=self.sensed(task), previous=state.groups)
            state.iteration += 1
            state.save()
        return deployed_as(task, state.groups)


class Penalized(Optimised):
    """The L steps of the augmented Lagrangian, for mu_j = mu0 * growth^j: SGD on L(w) + mu/2 |w - target|^2 with the
    target Delta(theta) + l/mu and a learning rate of at most 1/mu."""

    lr: float = Field(0.09, gt=0)
    """Learning rate of the first L step; in each L step it is at most 1/mu."""
    decay: float = Field(0.98, gt=0, le=1)
    """Factor of the learning rate from one L step to the next."""
    epochs: int = Field(20, ge=1)
    """Passes over the training data in an L step."""
    first_epochs: int = Field(40, ge=1)
    """Epochs of the first L step."""
    batch_size: int = Field(256, ge=1)
    """Batch size."""
    mu0: float = Field(9e-5, gt=0)
    """The first penalty."""
    growth: float = Field(1.1, ge=1)
    """Factor of the penalty from one iteration to the next."""
    iterations: int = Field(40, ge=1)
    """Number of pairs of an L and a C step."""
    multipliers: bool = True
    """Whether to use the augmented Lagrangian; ``false``: the quadratic penalty alone (l = 0)."""

    def l_step(self, task: Task, j: int, targets: Mapping[str, Tensor], checkpoint: str | Path) -> None:
        """Train the network's weights towards the targets. targets: name -> Delta(theta) + l/mu."""
        mu = grown(self.mu0, self.growth, j)
        pulled = [(task.parameter(name), target, task.masks.get(name)) for name, target in targets.items()]

        def penalize() -> None:
            for p, target, mask in pulled:
                if p.grad is None:  # the loss does not reach it
                    p.grad = torch.zeros_like(p)
                p.grad.add_(p.detach() - target, alpha=mu)
                if mask is not None:
                    p.grad.mul_(mask)

        epochs = self.first_epochs if j == 0 else self.epochs
        fit_network(
            task,
            self.recipe(task.seed + j, lr=min(self.lr * self.decay**j, 1 / mu), epochs=epochs),
            before_step=penalize,
            checkpoint=checkpoint,
            second_moments=False,
        )


class LearningCompression(
    Penalized, Resensing, Training, name="learning-compression", paper="arXiv:1707.04319, section 3, Fig. 2"
):
    """LC: min L(w) subject to w = Delta(theta), by the augmented Lagrangian, for mu_j = mu0 * growth^j.

    L step: SGD on L(w) + mu/2 |w - Delta(theta) - l/mu|^2 with a learning rate of at most 1/mu; C step: the quantizer
    on w - l/mu, started from the last theta; then l <- l - mu (w - Delta(theta)). Batch-norm statistics at the end are
    those of the last real-valued weights; a ``batchnorm`` later in the list re-estimates them.
    """

    alpha: float | None = Field(None, gt=0)
    """For min L + alpha H, H the bits a weight (of ``low-rank`` the numbers): the C step's lambda becomes
    2 alpha / (mu n), n the weights."""
    lambda_field: str = "lam"
    """The quantizer's parameter that ``alpha`` sets."""

    def train(self, task: Task, start: QuantizedModel | None) -> QuantizedModel:
        if start is not None:
            install(task, start)
        task = replace(task)  # the quantizer changes with mu if alpha is given
        mu = self.mu0
        compress = self._c_step(task)
        groups = compress(mu, task.weights(), None) if start is None else start.groups
        state = Alternation(task, groups)
        while (j := state.iteration) < self.iterations:
            mu = grown(self.mu0, self.growth, j)
            targets = {name: q + state.multipliers[name] / mu for name, q in state.deployed.items()}
            self.l_step(task, j, targets, f"iteration-{j}.safetensors")
            shifted = {n: w - state.multipliers[n] / mu for n, w in task.weights().items()}
            state.groups = compress(mu, shifted, state.groups)
            if self.multipliers:
                deployed = state.deployed
                for name, w in task.weights().items():
                    state.multipliers[name] = state.multipliers[name] - mu * (w - deployed[name])
            state.iteration += 1
            state.save()
        return deployed_as(task, state.groups)

    @model_validator(mode="after")
    def _said(self) -> LearningCompression:
        if self.alpha is None and self.lambda_field != "lam":
            raise ValueError(f"lambda_field '{self.lambda_field}' has an effect with 'alpha' alone, which sets it")
        return self

    def _priced(self, quantizer: type[Quantizer], fields: Mapping[str, Any]) -> Quantizer:
        try:
            return quantizer.model_validate(fields)
        except ValidationError as error:
            reason = error.errors(include_url=False)[0]["msg"]
            raise BadInput(
                f"quantizer '{quantizer.name}': alpha makes its '{self.lambda_field}' "
                f"{fields[self.lambda_field]:g}, and {reason[0].lower()}{reason[1:]}: is it the price?"
            ) from None

    def _c_step(self, task: Task) -> Callable[[float, dict[str, Tensor], tuple[Group, ...] | None], tuple[Group, ...]]:
        plain = task.quantizer
        if plain is None:
            raise BadInput("this task has no quantizer")
        n = sum(task.kept(name, task.parameter(name)).numel() for name in task.names)
        absolute: dict[str, Any] = {}
        if self.alpha is not None:
            if self.lambda_field not in type(plain).model_fields:
                raise BadInput(f"quantizer '{plain.name}' has no parameter '{self.lambda_field}' for alpha to set")
            absolute = _absolute(plain)

        def compress(mu: float, weights: dict[str, Tensor], previous: tuple[Group, ...] | None) -> tuple[Group, ...]:
            if self.alpha is not None:
                fields = plain.model_dump() | absolute | {self.lambda_field: 2 * self.alpha / (mu * max(n, 1))}
                task.quantizer = self._priced(type(plain), fields)
            sensed = None if previous is None else self.sensed(task)
            return task.quantize(weights, sensed=sensed, previous=previous)

        return compress


def _absolute(quantizer: Quantizer) -> dict[str, Any]:
    """The parameter by which the price of a bit (or of a number) is in squared weights, as the formula's. Raises
    BadInput for a quantizer whose price is in another unit."""
    unit = type(quantizer).model_fields.get("unit")
    if unit is None or "absolute" not in get_args(unit.annotation):
        raise BadInput(
            f"quantizer '{quantizer.name}' has no price in squared weights for alpha to set: that would be a parameter"
            " 'unit' with the value 'absolute'"
        )
    return {"unit": "absolute"}
