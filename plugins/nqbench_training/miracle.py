"""Minimal random code learning (Havasi, Peharz, Hernandez-Lobato, 1810.00440): a posterior over weights of so many nats
as the file has bits for, coded block by block as the numbers of random codewords."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from nqbench.api import BadInput, Batch, Group, QuantizedModel, Task, Training, begin
from nqbench.api.toolkit.progress import tell
from nqbench.api.toolkit.random_code import RandomCode
from nqbench_training.gaussian_weights import examples
from nqbench_training.optimised import Distilled, deployed_as, fit_network, install, leaves_of, trainable
from nqbench_training.variational_dropout import GaussianWeights

_AT_ONCE = 1 << 24  # numbers of codewords, and scores of them
_MOST = 1 << 26  # numbers of codewords, which are drawn once and kept


class Miracle(Distilled, Training, name="miracle", paper="arXiv:1810.00440"):
    """q(w) = N(mu, sigma^2) of each weight is learned against p = N(0, s^2), s a scale of each tensor that is learned
    too: the loss plus, for each block b of the quantizer ``random-code``, price_b KL_b(q || p).

    Each price rises while its block's divergence is above the logarithm of the number of codewords, and else falls, so
    that a codeword's number can say what the block's posterior knows. In the last part of the training the blocks are
    coded one after another: of the codewords, draws of p, one is chosen with a probability proportional to q / p; its
    weights stay so, and the posterior of the others goes on being trained around them.

    A part of each block's weights is noise that p gave; that the loss does not mind it is what the training is for. The
    quantizer's ``bits`` and ``d`` are what a file takes: bits / d a weight. The paper trains 50 steps after each block,
    here are as many as the epochs have.
    """

    quantizers = frozenset({"random-code"})

    epochs: int = Field(20, ge=0)
    """Passes over the training data."""
    lr: float = Field(3e-3, gt=0)
    """Learning rate of means, variances and scales in the first epoch."""
    optimizer: Literal["sgd", "adam"] = "adam"
    """``adam`` is AdamW (decoupled weight decay)."""
    coding: float = Field(0.4, gt=0, le=1)
    """Share of the epochs, at the end, during which blocks are coded."""
    price: float = Field(0.01, gt=0)
    """Initial price of a nat of each block, in nats of the training loss summed over all examples: 1 is that of the
    evidence lower bound."""
    rate: float = Field(0.005, ge=0, le=1)
    """By how much, at most, the logarithm of a price changes in one step."""
    log_variance: float = -6.5
    """Initial log sigma^2 of all weights; of a tensor with smaller weights it is a quarter of their mean square."""

    def uses_seed(self) -> bool:
        return True

    def train(self, task: Task, start: QuantizedModel | None) -> QuantizedModel:
        first = begin(task, start)
        if start is not None:
            install(task, start)
        n = examples(task, self.batch_size)
        posterior = _Posterior(task, self.log_variance)
        kept = [_in_code(group, task) for group in first.groups if group.quantized.n]
        words: dict[RandomCode, Tensor] = {}
        coded = [_Coded(group, task, posterior, self.price / n, number, words) for number, group in enumerate(kept)]
        teacher = self.teacher(task)
        steps = self._steps(task)
        begins = round(steps * (1 - self.coding))
        taken = torch.zeros((), dtype=torch.int64)

        def loss(batch: Batch) -> Tensor:
            outputs = task.predict(batch, tensors=posterior.drawn() or None)
            return self.loss(task, batch, outputs, teacher) + sum((one.cost() for one in coded), start=0.0)

        def held() -> None:
            for one in coded:
                one.hold()

        def counted() -> None:
            taken.add_(1)
            done = (int(taken) - begins) / max(1, steps - begins)
            for one in coded:
                one.reprice(self.rate)
                if done > 0:
                    one.code_to(math.ceil(done * one.code.blocks))

        with posterior.noisy():
            fit_network(
                task,
                self.recipe(task.seed),
                masks=lambda: task.masks,
                parameters=trainable(task)
                | {f"log-variance/{name}": leaf for name, leaf in posterior.leaves.items()}
                | leaves_of("log-scale", ({"": one.log_scale} for one in coded)),
                loss=loss,
                state={"taken": taken} | leaves_of("coded", (one.state for one in coded)),
                after_step=held,
                between_steps=counted,
                before_epoch=lambda epoch: held(),
                checkpoint="miracle.safetensors",
                second_moments=False,
            )
        for one in coded:
            one.code_to(one.code.blocks)
        done = {one.group.names: one.result() for one in coded}
        return deployed_as(task, tuple(done.get(group.names, group) for group in first.groups), first.notes)

    def _steps(self, task: Task) -> int:
        recipe = self.recipe(task.seed)
        if not self.epochs:
            return 0
        batches = task.batches("train", batch_size=recipe.batch_size, shuffle=recipe.epoch_seed(0))
        return self.epochs * sum(1 for _ in islice(batches, recipe.steps))


def _in_code(group: Group, task: Task) -> Group:
    """The group by the trial's quantizer, where a training before left another form."""
    try:
        RandomCode.of(group.quantized)
        return group
    except BadInput:
        (again,) = task.quantize(names=group.names)
    try:
        RandomCode.of(again.quantized)
        return again
    except BadInput:
        found = task.quantizer.name if task.quantizer is not None else "none"
        raise BadInput(f"training 'miracle' codes weights by the quantizer 'random-code', not by '{found}'") from None


class _Posterior(GaussianWeights):
    """The posterior of all weights, of which those that are coded, or pruned, have no noise."""

    def __init__(self, task: Task, log_variance: float) -> None:
        super().__init__(task, log_variance)
        self.open = {}
        """name -> 1 where a weight is neither coded nor pruned."""
        self.sizes = {}
        """name -> the logarithm of its kept weights' root mean square; where that is 0, of twice the deviation."""
        with torch.no_grad():
            for name, leaf in self.leaves.items():
                mask = task.masks.get(name)
                self.open[name] = torch.ones_like(leaf) if mask is None else mask.to(leaf.dtype)
                weights = task.kept(name, task.parameter(name).detach()).double()
                power = float(weights.square().mean()) if weights.numel() else 0.0
                self.sizes[name] = 0.5 * (math.log(power) if power > 0 else log_variance + math.log(4))
                leaf.clamp_(max=2 * self.sizes[name] - math.log(4))

    def variance(self, name: str) -> Tensor:
        return self.leaves[name].exp() * self.open[name]

    def drawn_noise(self, name: str) -> Tensor:
        return super().drawn_noise(name) * self.open[name].to(self.task.parameter(name).dtype)


class _Coded:
    """A group's code: the price of each block, the scales, and what is coded so far, which is always the first blocks:
    the shuffle makes these any.

    number: of the group among all. words: codewords that were drawn, shared by all groups.
    """

    def __init__(
        self,
        group: Group,
        task: Task,
        posterior: _Posterior,
        price: float,
        number: int = 0,
        words: dict[RandomCode, Tensor] | None = None,
    ) -> None:
        self.group, self.task, self.posterior, self.number = group, task, posterior, number
        self.code = RandomCode.of(group.quantized)
        if self.code.alphabet * self.code.d > _MOST:
            raise BadInput(
                f"training 'miracle': {self.code.alphabet} codewords of {self.code.d} numbers are too many to be kept, "
                f"at most 2^{_MOST.bit_length() - 1} numbers are: lower bits or d of 'random-code'"
            )
        device = task.device
        self.order = self.code.order(device)
        first = [posterior.sizes[name] for name in group.names]
        self.log_scale = torch.tensor(first, dtype=torch.float32, device=device).requires_grad_()
        blocks = self.code.blocks
        self.log_price = torch.full((blocks,), math.log(price), device=device)
        self.symbols = torch.zeros(blocks, dtype=torch.int64, device=device)
        self.done = torch.zeros((), dtype=torch.int64)
        """How many blocks are coded."""
        self.fixed = torch.zeros_like(self.log_scale, requires_grad=False)
        """The logarithms of the scales from when the first block was coded."""
        self.divergence = torch.zeros(blocks, device=device)
        shape = replace(self.code, sizes=())
        words = {} if words is None else words
        if shape not in words:
            words[shape] = self.code.codewords(0, self.code.alphabet, device)
        self._words = words[shape]
        self._inside = self._blocks(torch.ones(self.code.n, device=device))
        self._values = torch.zeros(self.code.n, device=device)
        self._coded = torch.zeros(self.code.n, dtype=torch.bool, device=device)
        self._held: dict[str, tuple[Tensor, Tensor]] | None = None

    @property
    def state(self) -> dict[str, Tensor]:
        """What changes in place besides what is trained."""
        return {"price": self.log_price, "symbols": self.symbols, "done": self.done, "fixed": self.fixed}

    def _flat(self, tensors: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([self.task.kept(name, tensors[name]).float() for name in self.group.names])

    def _blocks(self, values: Tensor) -> Tensor:
        return self.code.in_blocks(values, self.order)

    def _posterior(self) -> tuple[Tensor, Tensor, Tensor]:
        """(n,) mean, log variance, log scale."""
        mean = self._flat({name: self.task.parameter(name) for name in self.group.names})
        return mean, self._flat(self.posterior.leaves), self.code.spread(self.log_scale)

    def cost(self) -> Tensor:
        """() price times divergence, over the blocks that are not coded."""
        mean, log_variance, log_scale = self._posterior()
        ratio = (log_variance - 2 * log_scale).exp() + mean.square() * (-2 * log_scale).exp()
        each = 0.5 * (ratio - 1 - log_variance) + log_scale  # KL(N(mean, variance) || N(0, scale^2))
        blocks = self._blocks(each).sum(1)
        self.divergence = blocks.detach()
        left = int(self.done)
        return (self.log_price[left:].exp() * blocks[left:]).sum()

    def reprice(self, rate: float) -> None:
        if self.code.alphabet > 1:
            over = self.divergence / math.log(self.code.alphabet) - 1
            self.log_price.add_(rate * over.clamp(-1, 1)).clamp_(-60, 30)

    def code_to(self, count: int) -> None:
        """Code blocks until ``count`` are."""
        done = int(self.done)
        if count <= done:
            return
        tell(f"block {count} of {self.code.blocks}")
        with torch.no_grad():
            if not done:
                self.fixed.copy_(self.log_scale)
            means, log_variances, log_scales = (self._blocks(part) for part in self._posterior())
            step = max(1, _AT_ONCE // self.code.alphabet)
            for first in range(done, count, step):
                some = slice(first, min(first + step, count))
                self.symbols[some] = self._chosen(means[some], log_variances[some], log_scales[some], first)
            self.done.fill_(count)
        self._set(done, count)
        self.hold()

    def _chosen(self, means: Tensor, log_variances: Tensor, log_scales: Tensor, first: int) -> Tensor:
        """(blocks,) a codeword of each, drawn with probabilities proportional to q / p. first: number of the first."""
        variance, scale = log_variances.exp(), log_scales.exp()
        # log q - log p of w = s c: c^2 / 2 - (s c - mu)^2 / (2 sigma^2), but for what is the same for all codewords
        squared, linear = 0.5 - scale.square() / (2 * variance), scale * means / variance
        inside = self._inside[first : first + len(means)]
        squared, linear = (squared * inside).double(), (linear * inside).double()
        scores = [
            squared @ words.square().T + linear @ words.T
            for words in (part.double() for part in torch.split(self._words, max(1, _AT_ONCE // self.code.d)))
        ]
        return (torch.cat(scores, 1) + self._gumbel(len(means), first).to(means.device)).argmax(1)

    def _gumbel(self, blocks: int, first: int) -> Tensor:
        """(blocks, k) draws whose maximum, added to log-probabilities, falls as these say; the same whatever is coded
        at once."""
        drawn = torch.empty(blocks, self.code.alphabet, dtype=torch.float64)
        for row in range(blocks):
            # hashed: of a seed only the lower 32 bits count
            text = f"{self.task.seed}/{self.number}/{first + row}"
            seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
            drawn[row].exponential_(generator=torch.Generator().manual_seed(seed))
        return -drawn.clamp_min(1e-300).log()

    def hold(self) -> None:
        """Set what is coded to what the file will say."""
        done = int(self.done)
        if not done:
            return
        with torch.no_grad():
            self.log_scale.copy_(self.fixed)
            if self._held is None:  # a training that was resumed
                self._set(0, done)
            assert self._held is not None
            for name, (coded, values) in self._held.items():
                self.posterior.open[name].masked_fill_(coded, 0.0)
                parameter = self.task.parameter(name)
                parameter.copy_(torch.where(coded, values.to(parameter.dtype), parameter))

    def _set(self, first: int, stop: int) -> None:
        """The weights of these blocks are what their symbols say."""
        where = self.order[first * self.code.d : stop * self.code.d]
        drawn = self._words[self.symbols[first:stop]].reshape(-1)[: len(where)]
        self._values[where] = self.code.spread(self.fixed.exp())[where] * drawn
        self._coded[where] = True
        parts = zip(*(torch.split(t, list(self.code.sizes)) for t in (self._coded, self._values)), strict=True)
        self._held = {
            name: (self.task.spread(name, coded.float()) > 0, self.task.spread(name, values))
            for name, (coded, values) in zip(self.group.names, parts, strict=True)
        }

    def result(self) -> Group:
        """The group as the file will have it."""
        return Group(self.group.names, self.code.result(self.symbols, self.fixed.exp()))
