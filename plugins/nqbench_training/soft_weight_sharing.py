"""Soft weight sharing: a Gaussian mixture as the prior of the weights, learned with them (Ullrich et al.,
1702.04008)."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from nqbench.api import Batch, Group, Quantized, QuantizedModel, Task, Training, begin, scalar
from nqbench_training.gaussian_weights import examples
from nqbench_training.optimised import (
    Distilled,
    deployed_as,
    deployed_values,
    fit_network,
    install,
    leaves_of,
    trainable,
)


class SoftWeightSharing(Distilled, Training, name="soft-weight-sharing", paper="arXiv:1702.04008"):
    """L + tau / examples x (-sum_i log sum_j pi_j N(w_i; mu_j, sigma_j^2)), weights and mixture learned together.

    The initial means are the decoded values of the trial's quantizer; the one nearest to 0 is set to 0 and stays there,
    with the fixed mixing proportion ``zero``. Precisions have Gamma hyper-priors. At the end, components with a
    divergence below ``merge`` are merged, and each weight is set to the mean of the component with the largest
    responsibility for it.
    """

    lr: float = Field(5e-4, gt=0)
    """Learning rate of the weights in the first epoch."""
    optimizer: Literal["sgd", "adam"] = "adam"
    """``adam`` is AdamW (decoupled weight decay)."""
    components: int = Field(17, ge=2)
    """Largest number of components; if the quantizer has more values, this many quantiles of them are used."""
    tau: float = Field(0.003, ge=0)
    """Factor tau of the prior's negative log-likelihood."""
    zero: float = Field(0.99, gt=0, lt=1)
    """pi_0, the mixing proportion of the component at 0, which is fixed."""
    means_rate: float = Field(0.2, ge=0)
    """Learning rate of the means, as a multiple of that of the weights."""
    mixture_rate: float = Field(6.0, ge=0)
    """The same for precisions and mixing proportions, which are learned as logarithms."""
    shape: float = Field(250.0, gt=1)
    """alpha of the Gamma hyper-prior of the precisions; 20 times that for the component at 0."""
    rate: float = Field(0.1, gt=0)
    """beta of that hyper-prior; 20 times that for the component at 0. Its mode is (alpha - 1) / beta, a value of 1 /
    sigma^2."""
    merge: float = Field(1e-10, ge=0)
    """The divergence KL(p || q) + KL(q || p) below which two components are merged."""

    def train(self, task: Task, start: QuantizedModel | None) -> QuantizedModel:
        first = begin(task, start)
        if start is not None:
            install(task, start)
        # of one value there is nothing to share, and it is no 0 that may be set to 0
        stay = {group.names for group in first.groups if deployed_values(task, group, 2).numel() < 2}
        mixtures = [Mixture(self, group, task) for group in first.groups if group.names not in stay]
        settled = {name for names in stay for name in names}
        said = f"stays as quantized: '{self.name}' needs two values to share"
        n = examples(task, self.batch_size)
        teacher = self.teacher(task)

        def loss(batch: Batch) -> Tensor:
            value = self.loss(task, batch, task.predict(batch), teacher)
            # a pruner may have left no weights to price
            return value + self.tau / n * sum((m.cost() for m in mixtures), start=value.new_zeros(()))

        recipe = self.recipe(task.seed)
        fit_network(
            task,
            recipe,
            parameters={name: p for name, p in trainable(task).items() if name not in settled}
            | leaves_of("mixture", (mixture.leaves for mixture in mixtures)),
            loss=loss,
            checkpoint="soft-weight-sharing.safetensors",
            second_moments=False,
        )
        snapped = {mixture.group.names: mixture.snapped() for mixture in mixtures}
        groups = tuple(snapped.get(group.names, group) for group in first.groups)
        noted = dict.fromkeys(settled, said)
        return deployed_as(task, groups, {**first.notes, **noted})


class Mixture:
    """pi, mu and log 1 / sigma^2 of a group's components, of which the first is at 0."""

    def __init__(self, method: SoftWeightSharing, group: Group, task: Task) -> None:
        self.method, self.group, self.task = method, group, task
        table = deployed_values(task, group, method.components)
        nearest = int(table.abs().argmin())
        rest = torch.cat([table[:nearest], table[nearest + 1 :]])
        self.first_means = rest
        # standard deviation: a third of the distance between means, or that of the weights if there is only one
        w = torch.cat([task.kept(name, task.parameter(name).detach()) for name in group.names])
        gaps = torch.sort(table).values.diff()
        deviation = float(gaps.mean()) / 3 if gaps.numel() else float(w.std(correction=0)) or 1.0
        start = -2 * math.log(max(deviation, 1e-6))
        self.leaves = {
            "means": torch.zeros_like(rest).requires_grad_(),
            "precisions": torch.zeros(table.numel(), device=task.device).requires_grad_(),
            "shares": torch.zeros_like(rest).requires_grad_(),
        }
        self.first_precision = start

    def _factor(self, rate: float) -> float:
        """What a leaf is multiplied by to move at ``rate`` times the weights' learning rate. Adam's steps do not depend
        on the gradient's size; those of SGD have the factor once more."""
        return rate if self.method.optimizer == "adam" else math.sqrt(rate)

    def means(self) -> Tensor:
        """(k,)"""
        moved = self.first_means + self._factor(self.method.means_rate) * self.leaves["means"]
        return torch.cat([moved.new_zeros(1), moved])

    def log_precisions(self) -> Tensor:
        """(k,)"""
        return self.first_precision + self._factor(self.method.mixture_rate) * self.leaves["precisions"]

    def log_shares(self) -> Tensor:
        """(k,)"""
        shares = self._factor(self.method.mixture_rate) * self.leaves["shares"]
        zero = self.method.zero if shares.numel() else 1.0
        rest = torch.log_softmax(shares, 0) + math.log1p(-zero) if shares.numel() else shares
        return torch.cat([shares.new_tensor([math.log(zero)]), rest])

    def joint(self, w: Tensor) -> Tensor:
        """(n, k) log pi_j N(w_i; mu_j, sigma_j^2)."""
        logs = self.log_precisions()
        squares = (w[:, None] - self.means()).square()
        return self.log_shares() + 0.5 * (logs - math.log(2 * math.pi)) - 0.5 * logs.exp() * squares

    def weights(self) -> Tensor:
        """(n,) kept weights, differentiable."""
        return torch.cat([self.task.kept(name, self.task.parameter(name)) for name in self.group.names])

    def cost(self) -> Tensor:
        """(): -log p(w) minus the log density of the precisions under their hyper-priors, up to constants."""
        logs = self.log_precisions()
        times = torch.ones_like(logs)
        times[0] = 20
        hyper = times * ((self.method.shape - 1) * logs - self.method.rate * logs.exp())
        return surprisal(self.weights(), self.log_shares(), self.means(), logs) - hyper.sum()

    def snapped(self) -> Group:
        with torch.no_grad():
            w = self.weights()
            owner, means = merged(self.log_shares(), self.means(), self.log_precisions(), self.method.merge)
            symbols = owner[self.joint(w).argmax(1)]
            table, order = means.sort()
            symbols = torch.argsort(order)[symbols].to(torch.int32)
            used = torch.bincount(symbols.long(), minlength=table.numel()) > 0
            q = Quantized(
                symbols=scalar.dense(symbols, used),
                alphabet=int(used.sum()),
                sizes=self.group.quantized.sizes,
                parameters={"codebook": table[used].float()},
                held={"codebook": table[used] == 0},
                statistics={"components": float(means.numel())},
            )
        return Group(self.group.names, q)


_LEAST = -60.0  # of a log-density beside the largest: far below float32's rounding, and exp is slow where it underflows
_CHUNK = 1 << 13  # weights at a time: (k, _CHUNK) temporaries stay in the processor's cache


class _Surprisal(torch.autograd.Function):
    """-sum_i log sum_j pi_j N(w_i; mu_j, 1 / p_j), with its gradients in closed form. In the responsibilities r_ij and
    the deviations d_ij = w_i - mu_j they are for w_i: sum_j r_ij p_j d_ij, for mu_j: -sum_i r_ij p_j d_ij, for log p_j:
    sum_i r_ij (p_j d_ij^2 - 1) / 2, and for log pi_j: -sum_i r_ij. Automatic differentiation would write and read a
    dozen matrices of all weights by all components."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, log_shares: Tensor, means: Tensor, log_precisions: Tensor) -> Tensor:
        precisions = log_precisions.exp()
        constant = (log_shares + 0.5 * (log_precisions - math.log(2 * math.pi)))[:, None]
        total = w.new_zeros((), dtype=torch.float64)
        by_weight, sums = torch.empty_like(w), w.new_zeros(3, len(means), dtype=torch.float64)
        for at in range(0, w.numel(), _CHUNK):
            d = w[None, at : at + _CHUNK] - means[:, None]
            joint = constant - 0.5 * precisions[:, None] * d.square()
            largest = joint.amax(0)
            r = joint.sub_(largest).clamp_(min=_LEAST).exp_()
            whole = r.sum(0)
            total -= (largest + whole.log()).sum(dtype=torch.float64)
            rd = r.div_(whole) * d
            by_weight[at : at + _CHUNK] = precisions @ rd
            sums += torch.stack([r.sum(1), rd.sum(1), rd.mul_(d).sum(1)])
        counts, first, second = sums.to(w)
        ctx.save_for_backward(by_weight, -counts, -precisions * first, 0.5 * (precisions * second - counts))
        return total.to(w)

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor, ...]:
        return tuple(given * gradient for gradient in ctx.saved_tensors)


def surprisal(w: Tensor, log_shares: Tensor, means: Tensor, log_precisions: Tensor) -> Tensor:
    """(): the negative log-likelihood of (n,) weights under a mixture of (k,) components, in nats; differentiable once
    in all arguments."""
    return _Surprisal.apply(w, log_shares, means, log_precisions)  # type: ignore[no-any-return, no-untyped-call]


def merged(log_shares: Tensor, means: Tensor, log_precisions: Tensor, limit: float) -> tuple[Tensor, Tensor]:
    """Merge components with a divergence below ``limit``; the new mean is that of their means, weighted by mixing
    proportions, and the mean of the first component stays 0.

    Returns:
        (k,) the new component of each old one, and the new means.
    """
    k = means.numel()
    variances = (-log_precisions).exp()
    owner = torch.arange(k)
    for i in range(k):
        for j in range(i + 1, k):
            apart = (means[i] - means[j]).square()
            ratio = variances[i] / variances[j]
            both = 0.5 * (ratio + 1 / ratio) - 1 + 0.5 * apart * (1 / variances[i] + 1 / variances[j])
            if float(both) < limit:
                one, other = int(owner[i]), int(owner[j])
                owner[(owner == one) | (owner == other)] = min(one, other)  # that of the component at 0 stays 0
    kept = torch.unique(owner)
    shares = log_shares.exp()
    new = []
    for c in kept.tolist():
        members = (owner == c).to(means.device)
        new.append(means[0] if c == 0 else (shares[members] * means[members]).sum() / shares[members].sum())
    place = {c: at for at, c in enumerate(kept.tolist())}
    index = torch.tensor([place[c] for c in owner.tolist()], device=means.device)
    return index, torch.stack(new)
