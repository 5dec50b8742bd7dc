"""The straight-through estimator, BinaryConnect (arXiv:1511.00363), for any quantizer; and methods with a gradual
transition to it.

W <- W - eta dL/dQ(W), with Q(W) the quantization of the real weights W (algorithm 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from nqbench.api import Batch, Group, QuantizedModel, Task, Training
from nqbench_training.masking import hold
from nqbench_training.optimised import Distilled, finished, fit_network, grown, install


class StraightThrough(Distilled, Training, name="straight-through", paper="arXiv:1511.00363"):
    """Trains real-valued weights; the loss and its gradient are computed at their quantization and applied to them.

    Everything else (biases, batch norm, its statistics) is trained together with the quantized weights. The result is
    the quantization of the final real-valued weights.
    """

    every: int = Field(1, ge=1)
    """Number of steps between two quantizations; in between, the quantized values do not change."""
    clip: float | None = Field(None, gt=0)
    """Real-valued weights are clipped to [-clip, clip] after each step (1 in BinaryConnect); none: no clipping."""

    def seen(self, quantized: Tensor, real: Tensor, epoch: int) -> Tensor:
        """The values at which the loss is computed.

        Args:
            quantized, real: a tensor's values, detached.
            epoch: counted from 0.
        """
        return quantized

    def moved(self, quantized: Tensor, real: Tensor, rate: float, step: int) -> Tensor:
        """The real-valued weights after a step of the optimizer.

        Args:
            quantized: the last quantized values; with ``every: 1`` the quantization of ``real``.
            real: the weights as updated by the optimizer.
            rate: the learning rate.
            step: counted from 1 over all epochs.
        """
        return real

    def train(self, task: Task, start: QuantizedModel | None) -> QuantizedModel:
        if start is not None:
            install(task, start)
        passing = _Passing(self, task)
        teacher = self.teacher(task)

        def loss(batch: Batch) -> Tensor:
            return self.loss(task, batch, task.predict(batch, tensors=passing.tensors()), teacher)

        recipe = self.recipe(task.seed)
        fit_network(
            task,
            recipe,
            loss=loss,
            state={"straight-through/steps": passing.steps},
            after_step=passing.step,
            before_epoch=passing.begin,
            checkpoint="straight-through.safetensors",
            second_moments=False,
        )
        passing.begin(self.epochs)
        task.assign(passing.deployed)
        return finished(task, passing.groups)


class _Passing:
    """The quantization at which the loss is computed, updated as the weights change."""

    def __init__(self, method: StraightThrough, task: Task) -> None:
        self.method, self.task = method, task
        self.epoch = 0
        self.steps = torch.zeros((), dtype=torch.int64)
        self.groups: tuple[Group, ...] = ()
        self.deployed: Mapping[str, Tensor] = {}

    def begin(self, epoch: int) -> None:
        """Quantize without a warm start, so that a resumed run gives the same result as an uninterrupted one."""
        self.epoch = epoch
        self._quantize(None)

    def tensors(self) -> dict[str, Tensor]:
        """name -> values given by the method's ``seen``, whose gradient passes to the real-valued weights."""
        shown = {}
        for name, q in self.deployed.items():
            p = self.task.parameter(name)
            real = p.detach()
            shown[name] = self.method.seen(q, real, self.epoch) + (p - real)
        return shown

    def step(self) -> None:
        task, method = self.task, self.method
        self.steps += 1
        hold(task, task.masks)
        if method.clip is not None:
            for name in task.names:
                task.parameter(name).data.clamp_(-method.clip, method.clip)
        if int(self.steps) % method.every == 0:
            self._quantize(self.groups)
        rate = method.recipe(task.seed).rate(self.epoch)
        task.assign(
            {n: method.moved(q, task.parameter(n).detach(), rate, int(self.steps)) for n, q in self.deployed.items()}
        )

    def _quantize(self, previous: tuple[Group, ...] | None) -> None:
        self.groups = self.task.quantize(self.task.weights(), previous=previous)
        self.deployed = {name: q.detach() for name, q in self.task.reconstruct(self.groups).items()}


class BinaryRelax(StraightThrough, name="binary-relax", paper="arXiv:1801.06313"):
    """The loss is computed at (lam Q(y) + y) / (lam + 1), y the real-valued weights; lam grows, in the end to infinity.

    The relaxed weight x minimizes |x - y|^2 / 2 + lam / 2 |x - Q(y)|^2 (eq. 9). In the last part of the epochs lam is
    infinite, which is BinaryConnect.
    """

    lam: float = Field(1.0, gt=0)
    """lambda in the first epoch."""
    growth: float = Field(1.2, ge=1)
    """Factor of lambda from one epoch to the next."""
    exact: float = Field(0.25, ge=0, le=1)
    """Share of the epochs, at the end, in which the loss is computed at the quantized weights."""

    def seen(self, quantized: Tensor, real: Tensor, epoch: int) -> Tensor:
        if epoch >= (1 - self.exact) * self.epochs:
            return quantized
        return torch.lerp(real.to(quantized.dtype), quantized, 1 / (1 + 1 / grown(self.lam, self.growth, epoch)))


class ProxQuant(StraightThrough, name="prox-quant", paper="arXiv:1810.00861"):
    """The loss is computed at the real-valued weights; after each step a growing prox moves them to their quantization.

    For R(w) = |w - Q(w)|^2 / 2: w <- (w + c Q(w)) / (1 + c), and for R(w) = |w - Q(w)|_1: w <- Q(w) + sign(d) max(|d| -
    c, 0), d = w - Q(w), with c = rate x ``lam`` x step, the homotopy of the paper's algorithm 1.
    """

    lam: float = Field(1e-3, gt=0)
    """Increase of the factor of R per step."""
    norm: Literal["l1", "l2"] = "l1"
    """R: the l1 distance to the quantized weights, or half the squared l2 distance."""

    def seen(self, quantized: Tensor, real: Tensor, epoch: int) -> Tensor:
        return real

    def moved(self, quantized: Tensor, real: Tensor, rate: float, step: int) -> Tensor:
        c = rate * self.lam * step
        if self.norm == "l2":
            return (real + c * quantized) / (1 + c)
        apart = real - quantized
        return quantized + apart.sign() * (apart.abs() - c).clamp_min(0)


class QuantNoise(StraightThrough, name="quant-noise", paper="arXiv:2004.07320"):
    """In each step a random part of the blocks is quantized; the others are not, and get exact gradients.

    ``proxy``: blocks are set to 0 instead of being quantized (the paper's phi_proxy, for product quantization). At the
    end all blocks are quantized.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"share": 0.5}, {"proxy": True, "block": 4}]})

    share: float = Field(0.1, gt=0, le=1)
    """The probability that a block is quantized in a step."""
    block: int = Field(8, ge=1)
    """Number of consecutive weights in a block."""
    proxy: bool = False
    """Whether drawn blocks are set to 0 instead of quantized."""

    def uses_seed(self) -> bool:
        return True

    def seen(self, quantized: Tensor, real: Tensor, epoch: int) -> Tensor:
        count = -(-real.numel() // self.block)
        drawn = torch.rand(count, device=real.device).repeat_interleave(self.block)[: real.numel()] < self.share
        return torch.where(drawn.reshape(real.shape), real.new_zeros(()) if self.proxy else quantized, real)
