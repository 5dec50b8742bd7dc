"""Soft-to-hard vector quantization (Agustsson et al., arXiv:1704.00648)."""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from nqbench.api import Batch, Group, QuantizedModel, Task, Training, begin, scalar
from nqbench_training.gaussian_weights import examples
from nqbench_training.optimised import (
    Distilled,
    deployed_as,
    deployed_values,
    fit_network,
    grown,
    install,
    trainable,
)


class SoftToHard(Distilled, Training, name="soft-to-hard", paper="arXiv:1704.00648"):
    """The loss is computed at w~ = sum_j softmax_j(-sigma |w - c_j|^2) c_j; w and c are learned while sigma grows.

    The initial codebook, of scalars or vectors, is that of the trial's quantizer; if its result has another form, it
    consists of the decoded values, at most ``codewords`` of them. ``beta`` is the price of the entropy: ``beta`` x bits
    / examples is added to the loss, bits being the cross entropy of the mean soft assignments and the histogram of the
    hard ones (eq. 7). A codeword's gradient is averaged over its (soft) members. At the end each weight is set to its
    nearest codeword.
    """

    codewords: int = Field(256, ge=2)
    """Largest number of codewords, if the quantizer's result has no codebook."""
    hardness: float = Field(2.0, gt=0)
    """Initial sigma, in units of 1 / the mean squared distance of codewords to their nearest neighbours."""
    growth: float = Field(1.5, ge=1)
    """Factor of sigma from one epoch to the next."""
    beta: float = Field(0.0, ge=0)
    """The price of a bit, in nats of the training loss summed over all examples."""

    def train(self, task: Task, start: QuantizedModel | None) -> QuantizedModel:
        first = begin(task, start)
        if start is not None:
            install(task, start)
        books = [Codewords(self.codewords, group, task) for group in first.groups if group.quantized.n]
        n = examples(task, self.batch_size) if self.beta else 1
        teacher = self.teacher(task)

        def harden(epoch: int) -> None:
            for book in books:
                book.harden(grown(self.hardness, self.growth, epoch))

        def loss(batch: Batch) -> Tensor:
            tensors: dict[str, Tensor] = {}
            bits = torch.zeros((), device=task.device)
            for book in books:
                soft, price = book.soft(priced=self.beta > 0)
                tensors |= soft
                bits = bits + price
            value = self.loss(task, batch, task.predict(batch, tensors=tensors), teacher)
            return value + self.beta / n * bits if self.beta else value

        def before() -> None:
            for book in books:
                book.average()

        def after() -> None:
            for book in books:
                book.settle()

        recipe = self.recipe(task.seed)
        fit_network(
            task,
            recipe,
            parameters=trainable(task) | {f"codebook/{i}": book.table for i, book in enumerate(books)},
            loss=loss,
            state={f"sigma/{i}": book.sigma for i, book in enumerate(books)},
            before_step=before,
            after_step=after,
            before_epoch=harden,
            checkpoint="soft-to-hard.safetensors",
            second_moments=False,
        )
        hard = {book.group.names: book.hard() for book in books}
        groups = tuple(hard.get(group.names, group) for group in first.groups)
        return deployed_as(task, groups)


class Codewords:
    """A group's codebook, (k, d), as a leaf tensor, and the assignment of its weights to codewords."""

    def __init__(self, most: int, group: Group, task: Task) -> None:
        self.group, self.task = group, task
        q = group.quantized
        table, held = q.parameters.get("codebook"), q.held.get("codebook")
        if q.form != "lookup" or q.structure is not None or table is None or "scale" in {*q.parameters, *q.side}:
            table, held = deployed_values(task, group, most), None
        self.d = table.shape[1] if table.dim() == 2 else 1
        self.table = table.detach().reshape(-1, self.d).clone().requires_grad_()
        self.first = self.table.detach().clone()
        self.held = torch.zeros_like(self.first, dtype=torch.bool) if held is None else held.reshape(-1, self.d)
        """Entries that no training moves."""
        apart = torch.cdist(self.table.detach(), self.table.detach()).square()
        apart.fill_diagonal_(torch.inf)
        near = apart.min(1).values
        near = near[torch.isfinite(near) & (near > 0)]
        self.unit = float(near.mean()) if near.numel() else 1.0
        self.sigma = torch.zeros((), device=task.device)
        self.members = torch.ones(len(self.table), device=task.device)

    def harden(self, hardness: float) -> None:
        self.sigma.fill_(min(hardness / self.unit, 1e30))

    def _vectors(self) -> Tensor:
        """(m, d) kept weights, concatenated and padded with zeros at the end; differentiable."""
        flat = torch.cat([self.task.kept(name, self.task.parameter(name)) for name in self.group.names])
        return torch.nn.functional.pad(flat, (0, -flat.numel() % self.d)).reshape(-1, self.d)

    def _distances(self, vectors: Tensor) -> Tensor:
        """(m, k) squared distances."""
        return (vectors[:, None, :] - self.table).square().sum(2)

    def soft(self, *, priced: bool) -> tuple[dict[str, Tensor], Tensor]:
        """name -> w~, and the cost of all symbols in bits."""
        vectors = self._vectors()
        distances = self._distances(vectors)
        phi = torch.softmax(-self.sigma * distances, 1)
        self.members = phi.detach().sum(0).clamp_min(1)
        with torch.autocast(phi.device.type, enabled=False):  # codewords near one another must stay apart
            flat = (phi.float() @ self.table).reshape(-1)[: self.group.quantized.n]
        parts = torch.split(flat, list(self.group.quantized.sizes))
        tensors = {name: self.task.spread(name, part) for name, part in zip(self.group.names, parts, strict=True)}
        if not priced:
            return tensors, phi.new_zeros(())
        return tensors, cross_entropy_bits(phi, distances.detach().argmin(1))

    def average(self) -> None:
        if self.table.grad is not None:
            self.table.grad.div_(self.members[:, None])

    def settle(self) -> None:
        """After a step: neither a gradient nor a decay moves what is held."""
        self.table.data.copy_(torch.where(self.held, self.first, self.table.data))

    def hard(self) -> Group:
        with torch.no_grad():
            q, names = self.group.quantized, self.group.names
            if self.d == 1:
                source = self.task.source(names, self.task.weights(names))
                table, order = self.table.detach().reshape(-1).sort()
                return Group(names, scalar.nearest(source, table, self.held.reshape(-1)[order]))
            symbols = self._distances(self._vectors()).argmin(1).to(torch.int32)
            parameters = {**q.parameters, "codebook": self.table.detach()}
            return Group(names, replace(q, symbols=symbols, parameters=parameters))


def cross_entropy_bits(phi: Tensor, hard: Tensor) -> Tensor:
    """() m x -sum_j q_j log2 p_j: q the mean of (m, k) soft assignments, p the histogram of (m,) hard ones, in which
    codewords without members count as half a member."""
    m, k = phi.shape
    counts = torch.bincount(hard, minlength=k).to(phi).clamp_min(0.5)
    return -(phi.mean(0) * (counts / m).log2()).sum() * m
