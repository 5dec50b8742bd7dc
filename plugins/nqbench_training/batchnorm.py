"""Batch-norm statistics of the quantized network, re-estimated on training samples."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from nqbench.api import QuantizedModel, Task, Training, begin
from nqbench.api.modules import evaluating, hooked
from nqbench.api.toolkit.masters import is_half
from nqbench.api.toolkit.samples import first_samples
from nqbench_training.optimised import finished, install

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
BatchNorms = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


class BatchNorm(Training, name="batchnorm"):
    """Running means and variances become those of the quantized network; nothing else changes.

    They are plain averages over whole batches of the first training samples, not exponential ones. Labels are not used.
    """

    samples: int = Field(5000, ge=2)
    """Training samples, the first of the split."""
    batch_size: int = Field(250, ge=2)
    """Batch size; a smaller last batch is left out, unless it is the only one."""

    def train(self, task: Task, start: QuantizedModel | None) -> QuantizedModel:
        start = begin(task, start)
        install(task, start)
        return finished(task, start.groups, start.notes) if reestimate(task, self.samples, self.batch_size) else start


def reestimate(task: Task, samples: int, batch_size: int) -> bool:
    """Set the running statistics of the task's network to those of the first training samples. Returns whether the
    network has any batch norms."""
    norms = [m for m in task.module.modules() if isinstance(m, NORMS) and m.track_running_stats]
    if not norms:
        return False
    momenta = [m.momentum for m in norms]
    halves = [_Mean(n) for n in norms if n.running_mean is not None and is_half(n.running_mean)]
    with evaluating(task.module), torch.no_grad(), hooked([half.norm.register_forward_hook(half) for half in halves]):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the average of all batches
            norm.train()
        for half in halves:
            half.norm.momentum = 1.0
        first = True
        for batch, size in first_samples(task, samples, batch_size):
            if first or size == batch_size:
                task.predict(batch)
            first = False
        for half in halves:
            half.set()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return True


class _Mean:
    """The mean of a batch norm's statistics, of which it shows one batch's at a time: in half precision an average that
    is moved a little by each batch stays behind (in bfloat16 a variance is 1 % too small after forty)."""

    def __init__(self, norm: BatchNorms) -> None:
        self.norm, self.count = norm, 0
        self.sums = [torch.zeros_like(each, dtype=torch.float32) for each in self._shown()]

    def _shown(self) -> list[Tensor]:
        return [each for each in (self.norm.running_mean, self.norm.running_var) if each is not None]

    def __call__(self, *_: object) -> None:
        """After each pass of a batch."""
        self.count += 1
        for total, each in zip(self.sums, self._shown(), strict=True):
            total += each

    def set(self) -> None:
        """Set the statistics to their means."""
        if self.count:
            for total, each in zip(self.sums, self._shown(), strict=True):
                each.copy_(total / self.count)
