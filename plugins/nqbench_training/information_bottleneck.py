"""Pruning of units by the variational information bottleneck (Dai, Zhu, Wipf, arXiv:1802.10399)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from pydantic import ConfigDict
from torch import Tensor, nn

from nqbench.api import BadInput, Pruner, Task
from nqbench.api.modules import hooked
from nqbench_training.gaussian_weights import batch_of, local_names, log_alpha, noise, per_example
from nqbench_training.variational import Posterior, Variational


class InformationBottleneck(Variational, Pruner, name="information-bottleneck", paper="arXiv:1802.10399"):
    """Each input of a layer is multiplied by a gate z ~ N(mu, sigma^2); the penalty is sum log(1 + mu^2 / sigma^2).

    The gate of an input that the loss does not need becomes mostly noise; the input's weights are pruned if log(sigma^2
    / mu^2) exceeds ``threshold``. There are gates before linear layers (one per feature) and before convolutions of two
    or more channels (one per channel); at the end their means are multiplied into the weights.
    """

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"epochs": 2, "keep": 0.5}, {"epochs": 2, "threshold": 2.0}]}
    )

    CUT: ClassVar[int] = 1

    threshold: float = 0.0
    """The log(sigma^2 / mu^2) above which an input is pruned."""
    log_variance: float = -6.0
    """Initial log sigma^2."""

    def posterior(self, task: Task) -> Posterior:
        gates = Gates(task, self.log_variance)
        if not gates.names:
            raise BadInput(f"pruner '{self.name}' needs a linear or convolution layer of two inputs or more")
        return gates

    def limit(self) -> float:
        return self.threshold


class Gates:
    """Mean and log variance of each gate, by the name of the weight that follows it."""

    def __init__(self, task: Task, log_variance: float) -> None:
        self.task = task
        local = {n: task.layer(n) for n in local_names(task)}
        inputs = {n: getattr(layer, "in_features", getattr(layer, "in_channels", 0)) for n, layer in local.items()}
        self.names = [name for name, count in inputs.items() if count > 1]
        self.leaves: dict[str, Tensor] = {}
        for name in self.names:
            # in half precision a step of training would be rounded away
            one = torch.ones(inputs[name], dtype=torch.float32, device=task.device)
            self.leaves[f"{name}/mean"] = one.clone().requires_grad_()
            self.leaves[f"{name}/log_variance"] = (one * log_variance).requires_grad_()

    def _gate(self, name: str) -> tuple[Tensor, Tensor]:
        return self.leaves[f"{name}/mean"], self.leaves[f"{name}/log_variance"]

    def noisy(self) -> AbstractContextManager[None]:
        return hooked([self.task.layer(name).register_forward_pre_hook(self._gating(name)) for name in self.names])

    def _gating(self, name: str) -> Any:
        def hook(layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            x, (mean, log_variance) = args[0], self._gate(name)
            behind = 0 if isinstance(layer, nn.Linear) else self.task.parameter(name).dim() - 2
            z = mean + noise(log_variance.exp().expand(batch_of(x, behind), -1))
            return (x * per_example(z, x, behind).to(x.dtype), *args[1:])

        return hook

    def drawn(self) -> Mapping[str, Tensor]:
        return {}

    def kl(self) -> Tensor:
        alphas = [log_alpha(*self._gate(name)) for name in self.names]
        return torch.stack([nn.functional.softplus(-a).sum() for a in alphas]).sum()

    def _over(self, name: str, gates: Tensor) -> Tensor:
        """Values of the inputs, reshaped to broadcast with the weight; in a grouped convolution each output has the
        inputs of its own group."""
        w = self.task.parameter(name)
        groups = int(getattr(self.task.layer(name), "groups", 1))
        rows = gates.reshape(groups, 1, w.shape[1]).expand(groups, w.shape[0] // groups, w.shape[1])
        return rows.reshape(w.shape[0], w.shape[1], *[1] * (w.dim() - 2)).expand_as(w)

    def weights(self) -> Mapping[str, Tensor]:
        return {n: (self.task.parameter(n) * self._over(n, self._gate(n)[0])).detach() for n in self.names}

    def scores(self) -> Mapping[str, Tensor]:
        return {n: self._over(n, log_alpha(*self._gate(n)).detach()).contiguous() for n in self.names}

    def variances(self) -> Mapping[str, Tensor]:
        return {}

    def unit_biases(self) -> Mapping[str, str]:
        return {}
