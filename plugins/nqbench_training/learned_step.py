"""Straight-through training with learned levels: LSQ (Esser et al., arXiv:1902.08153)."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor

from nqbench.api import Batch, Group, QuantizedModel, Task, Training, begin, scalar
from nqbench_training.optimised import Distilled, deployed_as, fit_network, install, leaves_of, trainable

_LEAST = 1e-3  # lower bound of a step, as a share of its initial value: it must stay positive


class LearnedStep(Distilled, Training, name="learned-step", paper="arXiv:1902.08153"):
    """The steps of uniform grids are learned with the weights: dq/ds = q/s - w/s inside the grid, q/s at its ends.

    Scalar codebooks are learned likewise, with dq/dc_j = 1 for the weights nearest to c_j, and the scale s of a fixed
    one (``binary``, ``ternary``) with dq/ds = c_j. Gradients of all are divided by sqrt(weights x highest level)
    (section 2.2). At the end, weights are rounded to their levels. A quantizer's result of any other form does not
    change, which a note in the record says, while everything else is trained.
    """

    def train(self, task: Task, start: QuantizedModel | None) -> QuantizedModel:
        if start is not None:
            install(task, start)
        begun = begin(task, start)
        levels = [levels_of(group, task) for group in begun.groups]
        teacher = self.teacher(task)
        notes = dict(begun.notes)
        for group, own in zip(begun.groups, levels, strict=True):
            if not own.leaves and group.quantized.n:
                said = f"stays as quantized: '{self.name}' trains grids with one step per tensor, and scalar codebooks"
                notes |= dict.fromkeys(group.names, said)

        def loss(batch: Batch) -> Tensor:
            tensors = {name: t for own in levels for name, t in own.tensors().items()}
            return self.loss(task, batch, task.predict(batch, tensors=tensors), teacher)

        def before() -> None:
            for own in levels:
                for leaf in own.leaves.values():
                    if leaf.grad is not None:
                        leaf.grad.mul_(own.factor)

        def after() -> None:
            for own in levels:
                own.settle()

        recipe = self.recipe(task.seed)
        fit_network(
            task,
            recipe,
            parameters=trainable(task) | leaves_of("levels", (own.leaves for own in levels)),
            loss=loss,
            before_step=before,
            after_step=after,
            checkpoint="learned-step.safetensors",
            second_moments=False,
        )
        groups = tuple(own.quantized() for own in levels)
        return deployed_as(task, groups, notes)


class Fixed:
    """A group whose values do not change."""

    def __init__(self, group: Group, task: Task) -> None:
        self.group, self.task = group, task
        self.leaves: dict[str, Tensor] = {}
        self.factor = 1.0
        self.deployed = {name: t.detach() for name, t in task.reconstruct([group]).items()}

    def tensors(self) -> dict[str, Tensor]:
        """name -> the values at which the loss is computed."""
        return self.deployed

    def settle(self) -> None:
        """After a step: restore the constraints on the leaves."""

    def quantized(self) -> Group:
        """The final result."""
        return self.group


class Learned(Fixed):
    """A group whose levels are learned."""

    stays: Collection[str] = ()
    """Tensors that have nothing to learn."""

    def tensors(self) -> dict[str, Tensor]:
        found = {}
        for name in self.group.names:
            if name in self.stays:
                found[name] = self.deployed[name]
                continue
            p = self.task.parameter(name)
            value = self.value(name, p.float()).to(p.dtype)
            found[name] = value * self.task.masks[name] if name in self.task.masks else value
        return found

    def real(self, name: str) -> Tensor:
        """(n,) float32: a tensor's kept weights before they are rounded."""
        return self.task.kept(name, self.task.parameter(name).detach()).float()

    def value(self, name: str, p: Tensor) -> Tensor:
        """The levels of a float32 parameter, of its shape: differentiable in it, as if it were not rounded, and in the
        leaves."""
        raise NotImplementedError


class Grid(Learned):
    """A uniform grid: its step, or one step per tensor, and the range of its levels."""

    def __init__(self, group: Group, task: Task) -> None:
        super().__init__(group, task)
        q = group.quantized
        self.low = float(q.side["offset"])
        self.high = self.low + q.alphabet - 1
        self.first = q.parameters["step"].detach()
        self.step = self.first.clone().requires_grad_()
        self.leaves = {"step": self.step}
        self.index = {name: index for index, name in enumerate(group.names)}
        # the step of equal weights makes a level their value, whatever its sign, or is 0: there is nothing to learn
        self.stays = {name for name in group.names if float(self._entry(self.first, name)) <= 0}
        self.factor = 1 / math.sqrt(q.n / self.first.numel() * max(abs(self.low), abs(self.high), 1.0))

    def _entry(self, steps: Tensor, name: str) -> Tensor:
        return steps.reshape(-1)[self.index[name] if steps.numel() > 1 else 0]

    def _levels(self, real: Tensor, step: Tensor) -> Tensor:
        part = self.low % 1
        return ((real / step - part).round() + part).clamp(self.low, self.high)

    def value(self, name: str, p: Tensor) -> Tensor:
        step = self._entry(self.step, name)
        ratio = (p / step).detach()
        inside = (ratio > self.low) & (ratio < self.high)
        # the value is s level; d/ds: level - w / s inside, level outside; d/dw: 1 inside, 0 outside
        value = step * self._levels(p.detach(), step.detach())
        return value + torch.where(inside, p - step * ratio, p.new_zeros(()))

    def settle(self) -> None:
        with torch.no_grad():
            least = _LEAST * self.first
            self.step.copy_(torch.where(self.first > 0, torch.maximum(self.step, least), self.first))

    def quantized(self) -> Group:
        q = self.group.quantized
        symbols = list(torch.split(q.symbols, list(q.sizes)))
        for index, name in enumerate(self.group.names):
            if name in self.stays:
                continue
            real, step = self.real(name), self._entry(self.step, name)
            symbols[index] = (self._levels(real, step.detach()) - self.low).round().to(torch.int32)
        parameters = {**q.parameters, "step": self.step.detach()}
        return Group(self.group.names, replace(q, symbols=torch.cat(symbols), parameters=parameters))


class Codebook(Learned):
    """A scalar codebook."""

    def __init__(self, group: Group, task: Task) -> None:
        super().__init__(group, task)
        q = group.quantized
        self.table = q.parameters["codebook"].detach().clone().requires_grad_()
        self.leaves = {"codebook": self.table}
        held = q.held.get("codebook")
        self.held = torch.zeros_like(self.table, dtype=torch.bool) if held is None else held
        self.first = self.table.detach().clone()
        self.factor = 1 / math.sqrt(q.n)

    def value(self, name: str, p: Tensor) -> Tensor:
        order = self.table.detach().argsort()
        middles = scalar.midpoints(self.table.detach()[order])
        nearest = order[scalar.assign(p.detach().reshape(-1), middles).long()]
        return self.table[nearest].reshape(p.shape) + (p - p.detach())

    def settle(self) -> None:
        with torch.no_grad():
            self.table.copy_(torch.where(self.held, self.first, self.table))

    def quantized(self) -> Group:
        source = self.task.source(self.group.names, self.task.weights(self.group.names))
        table, order = self.table.detach().sort()
        return Group(self.group.names, scalar.nearest(source, table, self.held[order]))


class Scale(Learned):
    """The scale of a fixed scalar codebook."""

    def __init__(self, group: Group, task: Task) -> None:
        super().__init__(group, task)
        q = group.quantized
        table = q.side["codebook"]
        assert isinstance(table, Tensor)
        self.table, self.first = table, q.parameters["scale"].detach()
        self.scale = self.first.clone().requires_grad_()
        self.leaves = {"scale": self.scale}
        self.factor = 1 / math.sqrt(q.n * max(float(table.abs().max()), 1.0))

    def _nearest(self, real: Tensor) -> Tensor:
        """The symbols of weights, as long."""
        return scalar.assign(real, scalar.midpoints(self.table) * self.scale.detach().double())

    def value(self, name: str, p: Tensor) -> Tensor:
        levels = self.table[self._nearest(p.detach().reshape(-1)).long()]
        return (self.scale * levels).reshape(p.shape) + (p - p.detach())

    def settle(self) -> None:
        with torch.no_grad():
            self.scale.copy_(torch.maximum(self.scale, _LEAST * self.first))

    def quantized(self) -> Group:
        q = self.group.quantized
        kept = [self.real(name) for name in self.group.names]
        parameters = {**q.parameters, "scale": self.scale.detach()}
        return Group(self.group.names, replace(q, symbols=self._nearest(torch.cat(kept)), parameters=parameters))


def levels_of(group: Group, task: Task) -> Fixed:
    """The trainable form of a group."""
    q = group.quantized
    if not q.n or q.structure is not None:
        return Fixed(group, task)
    if q.form == "grid" and set(q.parameters) == {"step"} and "step" not in q.held:
        return Grid(group, task) if bool((q.parameters["step"] > 0).any()) else Fixed(group, task)
    if q.form == "lookup" and set(q.parameters) == {"codebook"} and q.dimension == 1 and "scale" not in q.side:
        return Codebook(group, task)
    if q.form == "lookup" and set(q.parameters) == {"scale"} and set(q.side) == {"codebook"} and q.dimension == 1:
        scale = q.parameters["scale"]
        return Scale(group, task) if scale.numel() == 1 and float(scale) > 0 and not q.held else Fixed(group, task)
    return Fixed(group, task)
