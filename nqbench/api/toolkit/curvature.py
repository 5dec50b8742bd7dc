"""The loss's curvature around a network: diagonals, products, and what they predict of a quantization.

Around trained weights w, with d = q - w:  delta L ~ g^T d + 1/2 d^T G d,  G the generalized Gauss-Newton matrix
1/M sum_n J_n^T A_n J_n, J_n the Jacobian of sample n's outputs and A_n the Hessian of its loss in them (for
cross-entropy diag(p) - p p^T). Keeping G's diagonal only is the approximation of arXiv:1612.01543, equation 4.
The network is always in evaluation mode, samples are the first of the training split.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.func import jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from nqbench.api.errors import BadInput
from nqbench.api.modules import evaluating
from nqbench.api.network import Network
from nqbench.api.toolkit.persample import accumulate, gradients, squares
from nqbench.api.toolkit.samples import first_samples


def output_factor(task: Network, outputs: Tensor) -> Iterator[Tensor]:
    """Cotangents s (B, C), one after another, with sum s s^T = A_n for every sample.

    Categorical: s_c = sqrt(p_c) (e_c - p), the score of label c weighted by its probability. Gaussian (half the
    squared error): the unit vectors.
    """
    kind = task.model.likelihood()
    if kind == "other" or outputs.dim() != 2:
        raise BadInput(f"the Gauss-Newton matrix of {task.model.name} is not known: use the sensitivity fisher")
    unit = torch.eye(outputs.shape[1], dtype=outputs.dtype, device=outputs.device)
    if kind == "gaussian":
        yield from (row.expand_as(outputs) for row in unit)
        return
    p = outputs.detach().double().softmax(1).to(outputs.dtype)
    for c, row in enumerate(unit):
        yield p[:, c : c + 1].sqrt() * (row - p)


def drawn_factor(task: Network, outputs: Tensor, generator: torch.Generator) -> Tensor:
    """One random cotangent s (B, C) with E[s s^T] = A_n: e_y - p, y drawn from the model; or a standard normal."""
    kind = task.model.likelihood()
    if kind == "other" or outputs.dim() != 2:
        raise BadInput(f"labels cannot be drawn from {task.model.name}: use the sensitivity fisher")
    return drawn_scores(kind, outputs, generator)


def drawn_scores(kind: Literal["categorical", "gaussian"], outputs: Tensor, generator: torch.Generator) -> Tensor:
    """(n, C) scores of labels that are drawn from outputs (n, C): e_y - p, or for a gaussian standard normals."""
    if kind == "gaussian":
        return torch.randn(outputs.shape, generator=generator).to(outputs)
    p = outputs.detach().double().softmax(1)
    drawn = torch.multinomial(p.cpu(), 1, generator=generator).to(outputs.device)
    return p.neg_().scatter_add_(1, drawn, torch.ones_like(drawn, dtype=p.dtype)).to(outputs.dtype)


def gauss_newton_diagonal(
    task: Network, names: Sequence[str], samples: int, *, draws: int = 0, seed: int = 0
) -> dict[str, Tensor]:
    """name -> float32 diagonal of G, of the parameter's shape. draws: 0, exact over all outputs; else so many drawn
    labels a sample, an unbiased estimate."""
    generator = torch.Generator().manual_seed(seed)
    total: dict[str, Tensor] = {}
    seen = 0
    with evaluating(task.module), squares(task.module, names) as tape:
        for batch, size in first_samples(task, samples, tape.batch):
            outputs = task.predict(batch)
            factors = (
                (drawn_factor(task, outputs, generator) / draws**0.5 for _ in range(draws))
                if draws
                else output_factor(task, outputs)
            )
            for factor in factors:
                accumulate(total, tape.squared(outputs, factor))
            tape.forget()
            seen += size
    return {name: (value / seen).float() for name, value in total.items()}


def empirical_fisher(task: Network, names: Sequence[str], samples: int) -> dict[str, Tensor]:
    """name -> float32 mean over samples of the squared gradient of each sample's own loss."""
    total: dict[str, Tensor] = {}
    seen = 0
    with evaluating(task.module), squares(task.module, names) as tape:
        for batch, size in first_samples(task, samples, tape.batch):
            outputs = task.predict(batch)
            at = outputs.detach().requires_grad_()
            (score,) = torch.autograd.grad(task.losses(at, batch).sum(), at)
            accumulate(total, tape.squared(outputs, score))
            tape.forget()
            seen += size
    return {name: (value / seen).float() for name, value in total.items()}


def mean_loss(task: Network, samples: int, tensors: Mapping[str, Tensor] | None = None) -> float:
    """The mean training loss of the first samples; tensors: stand in for the network's own."""
    total, seen = 0.0, 0
    with evaluating(task.module), torch.no_grad():
        for batch, size in first_samples(task, samples, 250):
            total += float(task.losses(task.predict(batch, tensors=tensors), batch).double().sum())
            seen += size
    return total / seen


def gauss_newton_product(task: Network, direction: Mapping[str, Tensor], samples: int) -> float:
    """d^T G d: the mean over samples of (J d)^T A (J d), by forward-mode products."""
    at = {name: task.parameter(name).detach() for name in direction}
    total, seen = 0.0, 0
    with evaluating(task.module), torch.no_grad(), _without_fused_attention():
        for batch, size in first_samples(task, samples):
            pair = jvp(lambda t, b=batch: task.predict(b, tensors=t), (at,), (dict(direction),))
            outputs, moved = pair[0], pair[1]
            for factor in output_factor(task, outputs):
                total += float((factor * moved).double().sum(1).square().sum())
            seen += size
    return total / seen


@contextmanager
def _without_fused_attention() -> Iterator[None]:
    """Inside the block attention is made of plain products: what is fused, scaled products and the whole layers that
    take a fast path in evaluation mode, has no forward mode."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@dataclass(frozen=True, eq=False)
class Expansion:
    """The mean training loss of the first ``samples`` around a network, which any number of quantizations of it share.

    loss: L(w). gradient: name -> its gradient. diagonal: name -> the exact diagonal of G. Both float32.
    """

    samples: int
    loss: float
    gradient: Mapping[str, Tensor]
    diagonal: Mapping[str, Tensor]


def expand(task: Network, names: Sequence[str], samples: int = 1000) -> Expansion:
    """The loss around the task's network as it stands."""
    return Expansion(
        samples,
        mean_loss(task, samples),
        mean_gradient(task, names, samples),
        gauss_newton_diagonal(task, names, samples),
    )


def mean_gradient(task: Network, names: Sequence[str], samples: int) -> dict[str, Tensor]:
    """name -> float32 gradient of the mean loss over the samples."""
    total: dict[str, Tensor] = {}
    seen = 0
    with evaluating(task.module):
        for batch, size in first_samples(task, samples, 250):
            loss = task.losses(task.predict(batch), batch).sum()
            found = gradients(loss, [task.parameter(name) for name in names])
            accumulate(total, {name: gradient.double() for name, gradient in zip(names, found, strict=True)})
            seen += size
    return {name: (value / seen).float() for name, value in total.items()}


def dot(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The sum of products over all entries of tensors of the same names, in float64."""
    return sum(float((one[name].double() * other[name].double()).sum()) for name in other)


def loss_increase(
    task: Network, deployed: Mapping[str, Tensor], samples: int = 1000, *, around: Expansion | None = None
) -> dict[str, float]:
    """What quantizing does to the mean training loss of the first samples, predicted and measured.

    deployed: name -> tensor as deployed. Predictions are about the compressible tensors; ``measured`` puts every given
    tensor into the network (so biases and statistics that a training changed count there alone). The task's network
    must be the one before quantization, and ``around`` its expansion (default: made here). Keys: ``linear`` g^T d,
    ``diagonal`` 1/2 sum h d^2 with h the exact Gauss-Newton diagonal, ``gauss_newton`` 1/2 d^T G d, ``measured``
    L(q) - L(w).
    """
    names = [name for name in task.names if name in deployed]
    around = expand(task, names, samples) if around is None else around
    direction = {name: (deployed[name] - task.parameter(name)).detach() for name in names}
    return {
        "linear": dot(around.gradient, direction),
        "diagonal": 0.5 * dot(around.diagonal, {name: d.double().square() for name, d in direction.items()}),
        "gauss_newton": 0.5 * gauss_newton_product(task, direction, around.samples),
        "measured": mean_loss(task, around.samples, deployed) - around.loss,
    }
