"""Wanda: pruning by weights and activations [Sun, Liu, Bair, Kolter, ICLR 2024; arXiv:2306.11695].

The score of the weight from input j to output i of a layer is |W_ij| * ||X_j||_2, X_j the values of input j over the
calibration samples (im2col for convolutions): (|W_ij| ||X_j||)^2 = W_ij^2 H_jj is the squared error of the output if
this weight alone is removed. Scores are compared within each output's row. There is no retraining.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from nqbench.api import Moments, Pruned, Pruner, Task


class Wanda(Pruner, name="wanda", paper="arXiv:2306.11695"):
    """Keeps, in the row of each output, the weights with the largest product of magnitude and norm of their input."""

    takes = frozenset({"second-moments"})

    keep: float = Field(0.5, gt=0, le=1)
    """Share of weights to keep in every row, rounded to whole weights, at least one."""
    sensitivity: str = "second-moments"
    """The sensitivity that gives the second moments of the inputs."""

    def prune(self, task: Task) -> Pruned:
        sensed = task.sense()
        assert sensed is not None  # ``takes`` requires it
        return Pruned.of(task, {name: self._mask(name, task.parameter(name), sensed[name]) for name in task.names})

    def _mask(self, name: str, weight: Tensor, packed: Tensor) -> Tensor:
        """packed: the second moments of the weight's inputs. If all are 0, the scores are the magnitudes."""
        moments = Moments.of_tensor(packed, name, weight.shape)
        if not weight.numel():
            return torch.ones_like(weight, dtype=torch.bool)
        power = moments.gram[:, 0] if moments.diagonal else moments.gram.diagonal(dim1=1, dim2=2)
        norms = power.sqrt() if bool(power.any()) else torch.ones_like(power)
        rows = moments.rows(weight.detach())
        scores = rows.reshape(len(norms), -1, rows.shape[1]).abs() * norms[:, None, :]
        kept = max(1, round(self.keep * rows.shape[1]))
        best = scores.argsort(dim=-1, descending=True, stable=True)[..., :kept]  # ties: the first is kept
        mask = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, best, True)
        return moments.tensor(mask.reshape(rows.shape), weight.shape)
