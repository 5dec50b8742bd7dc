"""Straight-through training with learned levels: LSQ (Esser et al., arXiv:1902.08153)."""

from __future__ import annotations

import math
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
    (section 2.2). At the end, weights are rounded to their levels. A
    quantizer's result of any other form does not change, which a note in the record says, while everything else is
    trained.
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


class Grid(Fixed):
    """A uniform grid: its step, or one step per tensor, and the range of its levels."""

    def __init__(self, group: Group, task: Task) -> None:
        super().__init__(group, task)
        q = group.quantized
        self.low = float(q.side["offset"])
        self.high = self.low + q.alphabet - 1
        self.first = q.parameters["step"].detach()
        self.step = self.first.clone().requires_grad_()
        self.leaves = {"step": self.step}
        self.stays = [float(self._entry(self.first, index)) <= 0 for index in range(len(group.names))]
        """Which tensors have no step to learn: those of equal weights, whose step makes a level their value, whatever
        its sign, or 0."""
        self.factor = 1 / math.sqrt(q.n / self.first.numel() * max(abs(self.low), abs(self.high), 1.0))

    @staticmethod
    def _entry(steps: Tensor, index: int) -> Tensor:
        return steps.reshape(-1)[index if steps.numel() > 1 else 0]

    def _of(self, index: int) -> Tensor:
        return self._entry(self.step, index)

    def _levels(self, real: Tensor, step: Tensor) -> Tensor:
        part = self.low % 1
        return ((real / step - part).round() + part).clamp(self.low, self.high)

    def tensors(self) -> dict[str, Tensor]:
        found = {}
        for index, name in enumerate(self.group.names):
            if self.stays[index]:
                found[name] = self.deployed[name]
                continue
            p, step = self.task.parameter(name), self._of(index)
            ratio = (p / step).detach()
            inside = (ratio > self.low) & (ratio < self.high)
            # the value is s level; d/ds: level - w / s inside, level outside; d/dw: 1 inside, 0 outside
            value = step * self._levels(p.detach(), step.detach())
            found[name] = value + torch.where(inside, p - step * ratio, p.new_zeros(()))
            if name in self.task.masks:
                found[name] = found[name] * self.task.masks[name]
        return found

    def settle(self) -> None:
        with torch.no_grad():
            least = _LEAST * self.first
            self.step.copy_(torch.where(self.first > 0, torch.maximum(self.step, least), self.first))

    def quantized(self) -> Group:
        q = self.group.quantized
        symbols = list(torch.split(q.symbols, list(q.sizes)))
        for index, name in enumerate(self.group.names):
            if self.stays[index]:
                continue
            real = self.task.kept(name, self.task.parameter(name).detach())
            symbols[index] = (self._levels(real, self._of(index).detach()) - self.low).round().to(torch.int32)
        parameters = {**q.parameters, "step": self.step.detach()}
        return Group(self.group.names, replace(q, symbols=torch.cat(symbols), parameters=parameters))


class Codebook(Fixed):
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

    def tensors(self) -> dict[str, Tensor]:
        found = {}
        order = self.table.detach().argsort()
        middles = scalar.midpoints(self.table.detach()[order])
        for name in self.group.names:
            p = self.task.parameter(name)
            nearest = order[scalar.assign(p.detach().reshape(-1), middles).long()]
            found[name] = self.table[nearest].reshape(p.shape) + (p - p.detach())
            if name in self.task.masks:
                found[name] = found[name] * self.task.masks[name]
        return found

    def settle(self) -> None:
        with torch.no_grad():
            self.table.copy_(torch.where(self.held, self.first, self.table))

    def quantized(self) -> Group:
        source = self.task.source(self.group.names, self.task.weights(self.group.names))
        table, order = self.table.detach().sort()
        return Group(self.group.names, scalar.nearest(source, table, self.held[order]))


class Scale(Fixed):
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

    def tensors(self) -> dict[str, Tensor]:
        found = {}
        for name in self.group.names:
            p = self.task.parameter(name)
            levels = self.table[self._nearest(p.detach().reshape(-1)).long()]
            found[name] = (self.scale * levels).reshape(p.shape) + (p - p.detach())
            if name in self.task.masks:
                found[name] = found[name] * self.task.masks[name]
        return found

    def settle(self) -> None:
        with torch.no_grad():
            self.scale.copy_(torch.maximum(self.scale, _LEAST * self.first))

    def quantized(self) -> Group:
        q = self.group.quantized
        kept = [self.task.kept(name, self.task.parameter(name).detach()) for name in self.group.names]
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
