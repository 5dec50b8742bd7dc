"""Networks with random weights: sampling the noise of a layer, and the divergence of a Gaussian posterior from its
prior.

q(w_ij) = N(theta_ij, sigma_ij^2). The output of a linear or convolution layer F is then Gaussian with the mean F(x,
theta) and the variance F(x^2, sigma^2), and is sampled as such, separately for each example: the local
reparametrization of arXiv:1506.02557. For any other layer, and where a weight has uses besides its layer's call, the
weight itself is sampled, once per step for all examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd

from nqbench.api import Network
from nqbench.api.modules import evaluating, hooked
from nqbench.api.toolkit.persample import called_alone
from nqbench.api.toolkit.samples import first_samples

K1, K2, K3 = 0.63576, 1.87320, 1.48695  # the fit of arXiv:1701.05369, eq. 14
_LEAST = 1e-8  # lower bound of variances before the square root and of squares before the logarithm

_PLAIN = (
    (nn.Linear, "forward"), (nn.Conv1d, "_conv_forward"), (nn.Conv2d, "_conv_forward"), (nn.Conv3d, "_conv_forward"),
)  # fmt: skip
"""Layer classes, and the method that computes besides ``forward``."""

Hook = Callable[[nn.Module, tuple[Any, ...], Any], Any]


def is_local(layer: nn.Module) -> bool:
    """Whether sampling the layer's outputs can replace sampling its weight: linear layers and convolutions that compute
    as such. What is derived from them may pad, scale or standardize in its own way."""
    return "forward" not in vars(layer) and any(
        type(layer).forward is plain.forward and getattr(type(layer), own, None) is getattr(plain, own, None)
        for plain, own in _PLAIN
    )


def local_names(task: Network) -> list[str]:
    """The weights whose only uses are the calls of a local layer: not one that is tied to another, and not that of a
    layer that is never called, as the output layer of ``nn.MultiheadAttention``, or one whose weight the network hands
    to ``functional.linear`` itself."""
    owned = [name for name in task.names if name.endswith(".weight") and is_local(task.layer(name))]
    called: set[nn.Module] = set()
    layers = dict.fromkeys(task.layer(name) for name in owned)
    handles = [layer.register_forward_pre_hook(lambda layer, inputs: called.add(layer)) for layer in layers]
    with torch.no_grad(), evaluating(task.module), hooked(handles):
        for batch, _ in first_samples(task, 2, 2):
            task.predict(batch)
    return [name for name in owned if task.layer(name) in called and called_alone(task.module, name)]


def output_variance(layer: nn.Module, x: Tensor, variance: Tensor) -> Tensor:
    """F(x^2, sigma^2): the variance of a local layer's outputs, for inputs x and the weight's variances, in these
    variances' dtype."""
    x = x.to(variance.dtype)
    if isinstance(layer, nn.Linear):
        return functional.linear(x * x, variance)
    assert isinstance(layer, _ConvNd)
    drawn: Tensor = layer._conv_forward(x * x, variance, None)
    return drawn


def noise(variance: Tensor) -> Tensor:
    """A draw of N(0, variance)."""
    return variance.clamp_min(_LEAST).sqrt() * torch.randn_like(variance)


def per_example(z: Tensor, x: Tensor, behind: int) -> Tensor:
    """Samples (batch, units), reshaped to multiply x (batch, ..., units, *``behind`` further axes). If x has no batch
    axis, there is one sample and no batch axis."""
    if x.dim() <= behind + 1:
        return z.reshape(-1, *[1] * behind)
    return z.reshape(z.shape[0], *[1] * (x.dim() - 2 - behind), -1, *[1] * behind)


def batch_of(x: Tensor, behind: int) -> int:
    """The number of samples that ``per_example`` needs."""
    return x.shape[0] if x.dim() > behind + 1 else 1


def log_alpha(mean: Tensor, log_variance: Tensor) -> Tensor:
    """log sigma^2 / mean^2: how much of a weight (or scale) is noise, in the variance's dtype: in half precision the
    square of a small mean is 0."""
    mean = mean.to(log_variance.dtype)
    return log_variance - (mean * mean + _LEAST).log()


def log_uniform_kl(log_alpha: Tensor) -> Tensor:
    """KL(N(theta, alpha theta^2) || log-uniform), up to a constant, 0 where alpha is infinite.

    -KL ~ k1 sigmoid(k2 + k3 log alpha) - log(1 + 1 / alpha) / 2 - k1 (arXiv:1701.05369, eq. 14).
    """
    return K1 - K1 * torch.sigmoid(K2 + K3 * log_alpha) + 0.5 * functional.softplus(-log_alpha)


def normal_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, sigma^2) || N(0, 1)), entry by entry, in the variance's dtype."""
    mean = mean.to(log_variance.dtype)
    return 0.5 * (log_variance.exp() + mean * mean - 1 - log_variance)


def log_normal_kl(mean: Tensor, log_variance: Tensor, log_scale: float = 0.0) -> Tensor:
    """KL(log-normal || Gamma(1/2, scale)), entry by entry: arXiv:1705.08665, appendix A.

    E[x] / scale - E[ln x] / 2 + ln(scale) / 2 - (1 + ln 2 + ln sigma^2) / 2, E[x] = exp(mean + sigma^2 / 2), E[ln x] =
    mean. For an inverse Gamma(1/2, 1) prior it is the divergence for 1/x, that is with -mean instead of mean.
    """
    expected = (mean - log_scale + 0.5 * log_variance.exp()).exp()
    return expected - 0.5 * (mean - log_scale + log_variance + 1 + math.log(2))


def without_effect(task: Network, batch_size: int = 256) -> dict[str, Tensor]:
    """name -> bool mask, True where a weight reaches no output in any training example.

    These are weights into a unit whose outgoing weights are all pruned, weights from an input that is always 0, and
    weights of a unit that is never active. They are found by gradients of a random combination of the outputs, which
    are exactly 0 for them.
    """
    touched = {name: torch.zeros_like(task.parameter(name), dtype=torch.bool) for name in task.names}
    parameters = [task.parameter(name) for name in task.names]
    draw = torch.Generator().manual_seed(0)
    with evaluating(task.module):
        for batch in task.batches("train", batch_size=batch_size):
            outputs = task.predict(batch)
            mixed = (outputs * torch.randn(outputs.shape, generator=draw).to(outputs)).sum()
            slopes = torch.autograd.grad(mixed, parameters, allow_unused=True)
            for seen, slope in zip(touched.values(), slopes, strict=True):
                if slope is not None:
                    seen |= slope != 0
    return {name: ~seen for name, seen in touched.items()}


def examples(task: Network, batch_size: int) -> int:
    """Number of examples of the training data: the weight of the likelihood against the prior."""
    count = 0
    with torch.no_grad():
        for batch in task.batches("train", batch_size=batch_size):
            count += task.losses(task.predict(batch), batch).numel()
    return count
