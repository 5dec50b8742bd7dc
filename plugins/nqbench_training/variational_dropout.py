"""Sparse variational dropout (Molchanov, Ashukha, Vetrov, arXiv:1701.05369)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from nqbench.api import Pruner, Task
from nqbench.api.modules import hooked
from nqbench_training.gaussian_weights import local_names, log_alpha, log_uniform_kl, noise, output_variance
from nqbench_training.variational import Posterior, Variational


class VariationalDropout(Variational, Pruner, name="variational-dropout", paper="arXiv:1701.05369"):
    """q(w) = N(theta, alpha theta^2) with a log-uniform prior; a weight is pruned if log alpha > ``threshold``.

    The variance of each weight is learned; for weights that the loss does not need, alpha tends to infinity. The factor
    of the divergence is warmed up. Linear and convolution layers use local reparametrization; other weights are
    sampled.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"epochs": 4}, {"epochs": 2, "keep": 0.3, "tune": 1}]})

    threshold: float = Field(3.0)
    """The log alpha above which a weight is pruned (3 corresponds to a binary dropout rate of 95 %)."""
    log_variance: float = Field(-10.0)
    """Initial log sigma^2 of all weights."""

    def posterior(self, task: Task) -> Posterior:
        return GaussianWeights(task, self.log_variance)

    def limit(self) -> float:
        return self.threshold


class GaussianWeights:
    """theta (the network's own weights) and a variance for each."""

    def __init__(self, task: Task, log_variance: float) -> None:
        self.task = task
        self.leaves = {  # in half precision a step of training would be rounded away
            name: torch.full_like(task.parameter(name), log_variance, dtype=torch.float32).requires_grad_()
            for name in task.names
        }
        self.local = local_names(task)

    def noisy(self) -> AbstractContextManager[None]:
        handles = []
        for name in self.local:

            def hook(layer: nn.Module, args: tuple[Any, ...], out: Tensor, name: str = name) -> Tensor:
                return out + noise(output_variance(layer, args[0], self.variance(name))).to(out.dtype)

            handles.append(self.task.layer(name).register_forward_hook(hook))
        return hooked(handles)

    def drawn(self) -> Mapping[str, Tensor]:
        rest = [name for name in self.task.names if name not in self.local]
        return {name: self.task.parameter(name) + self.drawn_noise(name) for name in rest}

    def drawn_noise(self, name: str) -> Tensor:
        """Of a weight whose layer's outputs cannot be sampled instead, in its dtype."""
        return noise(self.variance(name)).to(self.task.parameter(name).dtype)

    def variance(self, name: str) -> Tensor:
        """Of each weight, as the noise has it."""
        return self.leaves[name].exp()

    def alpha(self) -> dict[str, Tensor]:
        return {name: log_alpha(self.task.parameter(name), leaf) for name, leaf in self.leaves.items()}

    def kl(self) -> Tensor:
        return torch.stack([log_uniform_kl(a).sum() for a in self.alpha().values()]).sum()

    def weights(self) -> Mapping[str, Tensor]:
        return self.task.weights()

    def scores(self) -> Mapping[str, Tensor]:
        return {name: a.detach() for name, a in self.alpha().items()}

    def variances(self) -> Mapping[str, Tensor]:
        return {name: leaf.detach().exp() for name, leaf in self.leaves.items()}

    def unit_biases(self) -> Mapping[str, str]:
        return {}
