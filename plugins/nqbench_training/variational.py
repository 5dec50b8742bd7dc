"""Shared by pruners that learn a posterior over weights and prune those that are mostly noise: training, masks,
result."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from nqbench.api import Batch, Pruned, Pruner, Task
from nqbench.api.toolkit.optimise import one_thread
from nqbench.api.toolkit.progress import tell
from nqbench.api.toolkit.store import Trained
from nqbench_training.gaussian_weights import examples, local_names, without_effect
from nqbench_training.masking import flat, kept_in_store, packed, unpacked
from nqbench_training.optimised import Distilled, fit_network, trainable

_LEAF = "leaf:"
_CUTS = frozenset({"keep", "threshold", "tune"})
"""Parameters that say what becomes of a posterior, not how it is trained."""


class Posterior(Protocol):
    """What a method learns besides the network's own parameters, which are the means."""

    leaves: dict[str, Tensor]
    """name -> leaf tensor to be trained."""

    def noisy(self) -> AbstractContextManager[None]:
        """Inside the block, the network computes with noise."""

    def drawn(self) -> Mapping[str, Tensor]:
        """name -> sampled weights for this step, for layers whose outputs cannot be sampled instead."""

    def kl(self) -> Tensor:
        """(): the divergence from the prior, in nats."""

    def weights(self) -> Mapping[str, Tensor]:
        """name -> the posterior means, which become the network's weights."""

    def scores(self) -> Mapping[str, Tensor]:
        """name -> scores of the parameter's shape, compared with the threshold: the larger, the more noise."""

    def variances(self) -> Mapping[str, Tensor]:
        """name -> the posterior variance of each weight; without tensors that have none."""

    def unit_biases(self) -> Mapping[str, str]:
        """The weight's name -> that of its layer's bias, where what is pruned is an output with its bias."""


class Variational(Distilled):
    """A mixin for a Pruner that minimizes E_q[loss] + weight KL(q || prior) / examples.

    The weights of the resulting network are the posterior means. The squares of (posterior precision / examples) are
    stored as its second moments, so that the sensitivity ``adam``, which is their square root, is the curvature
    according to the posterior.
    """

    VERSION: ClassVar[int] = 3
    """To be increased when a change of the code changes the posterior."""
    CUT: ClassVar[int] = 0
    """To be increased when a change of the code changes only what is made of a posterior."""

    epochs: int = Field(20, ge=1)
    """Passes over the training data."""
    lr: float = Field(1e-3, gt=0)
    """Learning rate of means and variances in the first epoch."""
    optimizer: Literal["sgd", "adam"] = "adam"
    """``adam`` is AdamW (decoupled weight decay)."""
    weight: float = Field(1.0, ge=0)
    """Factor of the divergence; with 1 the objective is the evidence lower bound."""
    warmup: float = Field(0.3, ge=0, le=1)
    """Share of the epochs, at the beginning, in which this factor rises linearly."""
    keep: float | None = Field(None, gt=0, le=1)
    """Share of weights to keep, those with the lowest scores, counted without those that then reach no output (scores
    of units are equal, so that there are a few more); none: all with scores below ``threshold``."""
    tune: int = Field(0, ge=0)
    """Epochs of fine-tuning without noise after pruning, with the same learning rate and schedule."""

    def posterior(self, task: Task) -> Posterior:
        """The initial posterior."""
        raise NotImplementedError

    def limit(self) -> float:
        """The score above which a weight is pruned if ``keep`` is not given."""
        raise NotImplementedError

    def prune(self, task: Task) -> Pruned:
        assert isinstance(self, Pruner)
        version = self._version(task) + 10_000 * self.CUT
        return unpacked(task, kept_in_store(self, version, task, lambda workdir: self._made(task, workdir)))

    def _version(self, task: Task) -> int:
        """Of networks and trainings in half precision all of before is void: no variance was learned."""
        whole = self.precision == "float32" and all(p.dtype == torch.float32 for p in task.module.parameters())
        return self.VERSION if whole else self.VERSION + 1000

    def _made(self, task: Task, workdir: Path) -> Trained:
        with one_thread():  # the result must not depend on how many a worker has
            posterior = self.posterior(task)
            n = examples(task, self.batch_size)
            self._learnt(task, posterior, n)
            precision = {name: (1 / (n * v)).square() for name, v in posterior.variances().items()}
            weights = task.weights() | dict(posterior.weights())
            task.assign(weights)
            layers = Layers.of(task, weights, posterior.unit_biases())
            masks = _not_nothing(self._masks(posterior.scores(), layers), weights)
            layers.cut(masks)
            if self.tune:
                fit_network(
                    task,
                    self.recipe(task.seed + 1, epochs=self.tune),
                    masks=lambda: masks,
                    teacher=self.teacher(task),
                    distill=self,
                    checkpoint=workdir / "tune.safetensors",
                    second_moments=False,
                )
        return packed(task, masks, precision)

    def _learnt(self, task: Task, posterior: Posterior, n: int) -> None:
        """Train the posterior, or take it from the store: where it was cut needs no new training."""
        assert isinstance(self, Pruner)
        named = {f"{_LEAF}{name}": leaf for name, leaf in posterior.leaves.items()}

        def learn(workdir: Path) -> Trained:
            self._learn(task, posterior, n, workdir / "epoch.safetensors")
            state = task.module.state_dict() | named
            return Trained({name: t.detach().clone() for name, t in state.items()})

        found = kept_in_store(self, self._version(task), task, learn, without=_CUTS, kind="posterior").state
        with torch.no_grad():
            for name, leaf in named.items():
                leaf.copy_(found[name])
        task.module.load_state_dict({name: t for name, t in found.items() if name not in named})

    def _learn(self, task: Task, posterior: Posterior, n: int, checkpoint: Path) -> None:
        factor = 0.0
        teacher = self.teacher(task)

        def warm(epoch: int) -> None:
            nonlocal factor
            rising = self.warmup * self.epochs
            factor = self.weight * (min(1.0, (epoch + 1) / rising) if rising else 1.0)

        def loss(batch: Batch) -> Tensor:
            outputs = task.predict(batch, tensors=posterior.drawn() or None)
            return self.loss(task, batch, outputs, teacher) + factor / n * posterior.kl()

        with posterior.noisy():
            fit_network(
                task,
                self.recipe(task.seed),
                masks=dict,
                parameters=trainable(task) | {f"posterior/{name}": leaf for name, leaf in posterior.leaves.items()},
                loss=loss,
                before_epoch=warm,
                checkpoint=checkpoint,
                second_moments=False,
            )

    def _masks(self, scores: Mapping[str, Tensor], layers: Layers) -> dict[str, Tensor]:
        def below(limit: float) -> dict[str, Tensor]:
            return layers.with_effect({name: score <= limit for name, score in scores.items()})

        if self.keep is None:
            return below(self.limit())
        every = flat(scores).sort().values
        return least_that_keeps(every, max(1, round(self.keep * every.numel())), below, scores)


def least_that_keeps(
    every: Tensor, wanted: int, below: Callable[[float], dict[str, Tensor]], counted: Collection[str]
) -> dict[str, Tensor]:
    """The masks of the lowest limit that leaves ``wanted`` weights, or up to 1 % more; all if no limit does.

    every: (n,) ascending scores. below: the masks of a limit, of which weights may be missing that have no effect: the
    fewer are left the more are missing, so that a limit is guessed from how many the last one left. counted: the names
    whose weights count.
    """
    low, high = 0, every.numel()  # how many scores lie below a limit that leaves too few, and below one that does not
    found, at, guesses = None, wanted, 3
    while low < high:
        limit = every[at - 1]
        masks = below(float(limit))
        left = sum(int(masks[name].sum()) for name in counted)
        tell(f"a limit that keeps {left:,} weights, {wanted:,} wanted")  # each costs a pass over the training data
        if left >= wanted:
            found, high = masks, int(torch.searchsorted(every, limit))
            if left <= 1.01 * wanted:
                break
        else:
            low = int(torch.searchsorted(every, limit, right=True))
        guesses -= 1
        guess = round(at * wanted / left) if guesses > 0 and left else (low + high + 1) // 2
        at = min(max(guess, low + 1), high)
    return below(float(every[-1])) if found is None else found


@dataclass(frozen=True, eq=False)
class Layers:
    """The network whose weights are cut.

    weights: all compressible tensors. local: those of linear and convolution layers. unit_biases: see ``Posterior``;
    biases: their values, also where they are not compressible.
    """

    task: Task
    weights: Mapping[str, Tensor]
    local: frozenset[str]
    unit_biases: Mapping[str, str]
    biases: Mapping[str, Tensor]

    @staticmethod
    def of(task: Task, weights: Mapping[str, Tensor], unit_biases: Mapping[str, str]) -> Layers:
        biases = {name: task.parameter(name).detach().clone() for name in unit_biases.values()}
        return Layers(task, weights, frozenset(local_names(task)), unit_biases, biases)

    def cut(self, masks: Mapping[str, Tensor]) -> None:
        """Write the weights that are kept into the network; biases of outputs without any are 0, so that nothing is
        kept for a channel that is the same everywhere."""
        left = {name: self.weights[name] * mask for name, mask in masks.items()}
        for name, bias in self.unit_biases.items():
            left[bias] = self.biases[bias] * masks[name].flatten(1).any(1)
        self.task.assign(left)

    def with_effect(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The masks without weights that reach no output of the network; and masks of the compressible biases of the
        same layers, and of other linear and convolution layers, for which the method has no score."""
        self.cut(masks)
        idle = without_effect(self.task)
        found = {name: mask & ~idle[name] for name, mask in masks.items()}
        unscored = self.local.union(name.rpartition(".")[0] + ".bias" for name in {*masks, *self.local})
        for name in sorted(unscored & idle.keys() - masks.keys()):
            found[name] = ~idle[name]
        for name, bias in self.unit_biases.items():
            if bias in found:  # where an activation's slope at 0 is not 0 the bias has one
                found[bias] &= found[name].flatten(1).any(1)
        return found


def _not_nothing(masks: dict[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The masks, with the largest weight kept if nothing would be: a network without weights cannot be evaluated.

    weights: all compressible tensors; those without a mask are not pruned.
    """
    if weights.keys() - masks.keys() or any(bool(mask.any()) for mask in masks.values()):
        return masks
    name = max(weights, key=lambda n: float(weights[n].abs().max()))
    largest = torch.zeros_like(masks[name])
    largest.view(-1)[weights[name].abs().argmax()] = True
    return masks | {name: largest}
