"""Diagonal sensitivities: how much the training loss changes with each weight (arXiv:1612.01543, section 3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from nqbench.api import Network, Sensitivity
from nqbench.api.modules import evaluating
from nqbench.api.toolkit.curvature import empirical_fisher, gauss_newton_diagonal
from nqbench.api.toolkit.masters import sums_of, widened
from nqbench.api.toolkit.persample import gradients
from nqbench.api.toolkit.samples import first_samples


class Sampled(Sensitivity):
    """A sensitivity that is estimated from the first training samples."""

    samples: int = Field(1000, ge=1)
    """Training samples, the first of the split; all if there are fewer."""


class Hessian(Sampled, name="hessian", paper="arXiv:1612.01543, sections 3.1 and 4.2"):
    """The diagonal of the Gauss-Newton matrix of the loss, h_i = 1/M sum_n sum_c p_c (d log p_c / d w_i)^2.

    For cross-entropy it is the Fisher information with labels drawn from the model. ``exact`` sums over all classes;
    ``drawn`` samples labels, which takes one backward pass per label instead of one per class.
    """

    labels: Literal["exact", "drawn"] = "exact"
    """``exact``: sums over all classes, weighted by their probabilities. ``drawn``: an unbiased estimate."""
    draws: int = Field(1, ge=1)
    """With ``drawn``: number of labels drawn per sample."""

    def uses_seed(self) -> bool:
        return self.labels == "drawn"

    def sense(self, task: Network, names: Sequence[str]) -> Mapping[str, Tensor]:
        draws = self.draws if self.labels == "drawn" else 0
        return gauss_newton_diagonal(task, names, self.samples, draws=draws, seed=task.seed)


class Fisher(Sampled, name="fisher", paper="arXiv:1612.01543, section 3"):
    """The empirical Fisher information, the mean of the squared gradient of each sample's loss at its true label.

    h_i = 1/M sum_n (d loss_n / d w_i)^2.
    """

    def sense(self, task: Network, names: Sequence[str]) -> Mapping[str, Tensor]:
        return empirical_fisher(task, names, self.samples)


class Hutchinson(Sampled, name="hutchinson", paper="Bekas, Kokiopoulou, Saad 2007; Hutchinson 1989"):
    """The Hessian's diagonal by random signs: E[v * (H v)] = diag H, since E[v_i v_j] = 0 for i != j.

    Estimates may be negative; for quantizers such values are raised to a small fraction of the mean.
    """

    draws: int = Field(30, ge=1)
    """Number of sign vectors; the error is proportional to 1 / the square root of it."""

    def uses_seed(self) -> bool:
        return True

    def sense(self, task: Network, names: Sequence[str]) -> Mapping[str, Tensor]:
        return mean_sign_products(task, names, self.samples, self._signs(task, names))

    def _signs(self, task: Network, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        # drawn on the CPU, so that they are the same for every device
        generator = torch.Generator().manual_seed(task.seed)
        for _ in range(self.draws):
            yield {
                name: torch.randint(0, 2, task.parameter(name).shape, generator=generator).to(task.device) * 2.0 - 1.0
                for name in names
            }


class Adam(Sensitivity, name="adam", paper="arXiv:1612.01543, section 3.5"):
    """The square root of Adam's second-moment estimate at the end of training.

    If training kept none, or not those of every tensor (a posterior over convolutions has none of embeddings, and the
    two are not in one unit), Adam's recurrence v <- b v + (1 - b) g^2 (bias-corrected) is run over mini-batches at the
    trained weights instead.
    """

    batches: int = Field(200, ge=1)
    """Number of mini-batches for the estimate, if training kept no moments."""
    batch_size: int = Field(128, ge=1)
    """Size of a mini-batch."""
    beta: float = Field(0.999, ge=0, lt=1)
    """Decay rate of the moving average."""

    def sense(self, task: Network, names: Sequence[str]) -> Mapping[str, Tensor]:
        if task.moments is not None and all(name in task.moments for name in names):
            moments: Mapping[str, Tensor] = task.moments
        else:
            moments = self.recurrence(task, names)
        return {name: moments[name].float().clamp(min=0).sqrt() for name in names}

    def recurrence(self, task: Network, names: Sequence[str]) -> dict[str, Tensor]:
        """Second moments of the mini-batch gradients at the current weights, epoch after epoch in stored order."""
        total = [sums_of(task.parameter(name)) for name in names]
        parameters = [task.parameter(name) for name in names]
        step = 0
        with evaluating(task.module):
            while step < self.batches:
                for batch in task.batches("train", batch_size=self.batch_size):
                    slopes = [widened(g) for g in gradients(task.loss(batch), parameters)]
                    for v, g in zip(total, slopes, strict=True):
                        v.mul_(self.beta).addcmul_(g, g, value=1 - self.beta)
                    step += 1
                    if step == self.batches:
                        break
        return {name: v / (1 - self.beta**step) for name, v in zip(names, total, strict=True)}


def mean_sign_products(
    task: Network, names: Sequence[str], samples: int, signs: Iterable[Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """The mean over sign vectors v of v * (H v), H the Hessian of the mean loss with respect to the named
    parameters."""
    parameters = [task.parameter(name) for name in names]
    total = [torch.zeros(p.shape, dtype=torch.float64, device=p.device) for p in parameters]
    draws = 0
    for sign in signs:
        v = [sign[name] for name in names]
        seen = 0
        product = [torch.zeros_like(t) for t in total]
        # fused attention has no second derivative
        with evaluating(task.module), sdpa_kernel(SDPBackend.MATH):
            for batch, size in first_samples(task, samples, 250):
                loss = task.losses(task.predict(batch), batch).sum()
                slopes = gradients(loss, parameters, create_graph=True)
                inner = torch.stack([(g * s).sum() for g, s in zip(slopes, v, strict=True)]).sum()
                for p, hv in zip(product, gradients(inner, parameters), strict=True):
                    p += hv
                seen += size
        for t, p, s in zip(total, product, v, strict=True):
            t += s * p / seen
        draws += 1
    return {name: (t / draws).float() for name, t in zip(names, total, strict=True)}
