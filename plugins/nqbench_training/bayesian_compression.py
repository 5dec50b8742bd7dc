"""Bayesian compression: scales shared by the weights of a unit, with priors under which whole units are pruned
(1705.08665)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from nqbench.api import BadInput, Pruner, Task
from nqbench.api.modules import hooked
from nqbench.api.toolkit.masters import widened
from nqbench_training.gaussian_weights import (
    batch_of,
    local_names,
    log_alpha,
    log_normal_kl,
    log_uniform_kl,
    noise,
    normal_kl,
    output_variance,
    per_example,
)
from nqbench_training.variational import Posterior, Variational

Axis = Literal[0, 1]


class BayesianCompression(Variational, Pruner, name="bayesian-compression", paper="arXiv:1705.08665"):
    """w = z mu + noise, with a scale z per input of a linear layer or filter of a convolution; units are pruned by z.

    ``jeffreys``: q(z) = N(mu_z, sigma_z^2) against a log-uniform prior; a unit is pruned if log(sigma_z^2 / mu_z^2)
    exceeds ``threshold``. ``horseshoe``: z = sqrt(s_a s_b a b), all log-normal, against half-Cauchy priors; a unit is
    pruned if -log mode(z) exceeds it. q(w | z) = N(z mu, z^2 sigma^2) against N(0, z^2). A filter that is pruned takes
    its bias with it.

    Bits for each layer by the posterior's variance (section 3.3 there) are had by the sensitivity ``adam``, which reads
    the precisions that the pruner leaves, and ``radio: {companding: false, granularity: layer}``, whose steps cost each
    layer the same under them.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"prior": "jeffreys", "epochs": 2, "keep": 0.5},
                {"prior": "horseshoe", "epochs": 2, "keep": 0.5},
                {"epochs": 2, "threshold": 3.0},
            ]
        }
    )

    VERSION: ClassVar[int] = 4
    """To be increased when a change of the code changes the posterior."""
    CUT: ClassVar[int] = 1

    prior: Literal["jeffreys", "horseshoe"] = "jeffreys"
    """The prior: normal-Jeffreys, or the horseshoe."""
    threshold: float | None = None
    """The score above which a unit is pruned; none: -3 for ``jeffreys``, 0 for ``horseshoe``. The paper chooses one for
    each layer from a histogram; ``keep`` gives the share of kept weights instead."""
    tau: float = Field(1e-5, gt=0)
    """The horseshoe's global scale tau_0, towards which scales of units are pulled down, alike from any height."""
    log_variance: float = -9.0
    """Initial log sigma^2 of weights and scales."""

    def posterior(self, task: Task) -> Posterior:
        if not local_names(task):
            raise BadInput(f"pruner '{self.name}' needs a linear or convolution layer; the network has none")
        return ScaledUnits(task, self.prior, self.tau, self.log_variance)

    def limit(self) -> float:
        if self.threshold is not None:
            return self.threshold
        return -3.0 if self.prior == "jeffreys" else 0.0


class ScaledUnits:
    """mu (the network's own weights), their variances, and the posteriors of the scales. Layers that are neither linear
    nor convolutions, and weights with other uses, stay as they are."""

    def __init__(self, task: Task, prior: str, tau: float, log_variance: float) -> None:
        self.task = task
        self.prior = prior
        self.tau = tau
        self.names = local_names(task)
        self.axis: dict[str, Axis] = {n: 1 if isinstance(task.layer(n), nn.Linear) else 0 for n in self.names}
        self.leaves: dict[str, Tensor] = {}
        self.biases: dict[str, str] = {}
        """The weight's name -> that of its layer's bias, where that is compressible: it is N(b, sigma^2), too."""
        for name in self.names:
            w = task.parameter(name)
            units = w.shape[self.axis[name]]

            def leaf(kind: str, value: float, *shape: int, like: Tensor = w, owner: str = name) -> None:
                # in half precision a step of training would be rounded away
                start = torch.full(shape, value, dtype=torch.float32, device=like.device)
                self.leaves[f"{owner}/{kind}"] = start.requires_grad_()

            leaf("log_variance", log_variance, *w.shape)
            if prior == "jeffreys":
                leaf("mean", 1.0, units)
                leaf("scale_log_variance", log_variance, units)
            else:
                # where the divergences are least, E[s_a] = tau^2 / 2, E[1 / s_b] = E[a] = 1 / 2, but for b, whose tail
                # is heavy and by which z starts at 1: from s_a = 1 the way is further than a training goes, and b of
                # units that say nothing falls at half a nat a unit of log b
                least = 2 * math.log(tau) - math.log(2)
                start = {"s_a": least, "s_b": math.log(2), "a": -math.log(2), "b": -least}
                for kind, mean in start.items():
                    count = 1 if kind.startswith("s_") else units
                    leaf(f"{kind}_mean", mean, count)
                    leaf(f"{kind}_log_variance", log_variance, count)
            bias = name.removesuffix("weight") + "bias"
            if bias in task.names:
                leaf("bias_log_variance", log_variance, *task.parameter(bias).shape)
                self.biases[name] = bias

    # -- scales ------------------------------------------------------------------------------------------------------
    def _logs(self, name: str) -> tuple[Tensor, Tensor]:
        """(units,) mean and (units,) variance of log z for the horseshoe: half the sum of the four factors' means, a
        quarter of the sum of their variances."""
        get = self.leaves.__getitem__
        kinds = ("s_a", "s_b", "a", "b")
        mean = sum((get(f"{name}/{k}_mean") for k in kinds), start=torch.zeros((), device=self.task.device)) / 2
        spread = sum(
            (get(f"{name}/{k}_log_variance").exp() for k in kinds), start=torch.zeros((), device=self.task.device)
        )
        return mean, spread / 4

    def scale(self, name: str) -> tuple[Tensor, Tensor]:
        """(units,) mean and (units,) variance of z."""
        if self.prior == "jeffreys":
            return self.leaves[f"{name}/mean"], self.leaves[f"{name}/scale_log_variance"].exp()
        mean, spread = self._logs(name)
        expected = (mean + spread / 2).exp()
        return expected, (spread.exp() - 1) * expected * expected

    def _draw(self, name: str, batch: int) -> Tensor:
        """(batch, units) draws of z."""
        if self.prior == "jeffreys":
            mean, variance = self.scale(name)
            return mean + noise(variance.expand(batch, -1))
        mean, spread = self._logs(name)
        return (mean + noise(spread.expand(batch, -1))).exp()

    # -- the network with noise --------------------------------------------------------------------------------------
    def noisy(self) -> AbstractContextManager[None]:
        handles = []
        for name in self.names:
            layer = self.task.layer(name)
            if self.axis[name] == 1:
                handles.append(layer.register_forward_pre_hook(self._scaling(name)))
            handles.append(layer.register_forward_hook(self._noise(name)))
        return hooked(handles)

    def _scaling(self, name: str) -> Any:
        def hook(layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            x = args[0]
            return (x * per_example(self._draw(name, batch_of(x, 0)), x, 0).to(x.dtype), *args[1:])

        return hook

    def _noise(self, name: str) -> Any:
        behind = self.task.parameter(name).dim() - 2

        def hook(layer: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
            variance = output_variance(layer, args[0], self.leaves[f"{name}/log_variance"].exp())
            drawn = noise(variance).to(out.dtype)
            if self.axis[name] == 1:
                shown = out + drawn
            else:
                z = per_example(self._draw(name, batch_of(out, behind)), out, behind).to(out.dtype)
                bias = layer.bias
                shift = 0 if bias is None else bias.reshape(-1, *[1] * behind)  # type: ignore[operator]
                shown = (out - shift + drawn) * z + shift
            if name not in self.biases:
                return shown
            own = self.leaves[f"{name}/bias_log_variance"].exp()  # one draw an example, the same at all places
            return shown + per_example(noise(own.expand(batch_of(out, behind), -1)), out, behind).to(out.dtype)

        return hook

    def drawn(self) -> Mapping[str, Tensor]:
        return {}

    def kl(self) -> Tensor:
        total = []
        for name in self.names:
            get = {k.removeprefix(f"{name}/"): v for k, v in self.leaves.items() if k.startswith(f"{name}/")}
            total.append(normal_kl(self.task.parameter(name), get["log_variance"]).sum())
            if name in self.biases:
                total.append(normal_kl(self.task.parameter(self.biases[name]), get["bias_log_variance"]).sum())
            if self.prior == "jeffreys":
                total.append(log_uniform_kl(log_alpha(get["mean"], get["scale_log_variance"])).sum())
                continue
            total.append(log_normal_kl(get["s_a_mean"], get["s_a_log_variance"], 2 * math.log(self.tau)).sum())
            total.append(log_normal_kl(-get["s_b_mean"], get["s_b_log_variance"]).sum())
            total.append(log_normal_kl(get["a_mean"], get["a_log_variance"]).sum())
            total.append(log_normal_kl(-get["b_mean"], get["b_log_variance"]).sum())
        return torch.stack(total).sum()

    # -- what is left ------------------------------------------------------------------------------------------------
    def _over(self, name: str, units: Tensor) -> Tensor:
        """Values of units, reshaped to broadcast with the parameter."""
        w = self.task.parameter(name)
        return units.reshape([-1 if axis == self.axis[name] else 1 for axis in range(w.dim())])

    def weights(self) -> Mapping[str, Tensor]:
        return {n: (self.task.parameter(n) * self._over(n, self.scale(n)[0])).detach() for n in self.names}

    def scores(self) -> Mapping[str, Tensor]:
        scores = {}
        for name in self.names:
            if self.prior == "jeffreys":
                of = log_alpha(self.leaves[f"{name}/mean"], self.leaves[f"{name}/scale_log_variance"])
            else:
                mean, spread = self._logs(name)
                of = spread - mean  # -log mode
            scores[name] = self._over(name, of.detach()).expand_as(self.task.parameter(name)).contiguous()
        return scores

    def variances(self) -> Mapping[str, Tensor]:
        """V[w] = V[z] (sigma^2 + mu^2) + sigma^2 E[z]^2; of a bias sigma^2."""
        found = {}
        for name in self.names:
            mean, spread = (self._over(name, t) for t in self.scale(name))
            own = self.leaves[f"{name}/log_variance"].exp()
            found[name] = (spread * (own + widened(self.task.parameter(name)).square()) + own * mean * mean).detach()
            if name in self.biases:
                found[self.biases[name]] = self.leaves[f"{name}/bias_log_variance"].exp().detach()
        return found

    def unit_biases(self) -> Mapping[str, str]:
        """Those of convolutions, whose filters are pruned; a linear layer's inputs are."""
        own = dict(self.task.module.named_parameters())
        biases = {name: name.removesuffix("weight") + "bias" for name in self.names if self.axis[name] == 0}
        return {name: bias for name, bias in biases.items() if bias in own}
