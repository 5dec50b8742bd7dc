"""Pruning by optimal brain surgeon: the weights that cost least are removed, and the others are adjusted to compensate.

Removing weight j of output o costs w_oj^2 G_o / (2 [H_o^-1]_jj), with H_o the second moments of the layer's inputs,
restricted to the row's kept weights, and G_o the mean squared gradient of the output (``nqbench_training.saliency``).
The others are set to argmin E (w x - w' x')^2 + damping |w' - w|^2, x' the inputs in the pruned network
(``nqbench_training.correction``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator
from torch import Tensor

from nqbench.api import BadInput, Moments, Pruned, Pruner, Task
from nqbench.api.toolkit.optimise import one_thread
from nqbench.api.toolkit.store import Trained, trained
from nqbench.api.toolkit.uses import Use
from nqbench_training.correction import corrected, damped
from nqbench_training.grams import LARGEST, Missing, Products
from nqbench_training.masking import hold, packed, recipe_of, unpacked
from nqbench_training.optimised import Distilled, fit_network
from nqbench_training.paired_forward import paired_forward, splits
from nqbench_training.saliency import cheapest_removed, output_curvature, removal_costs
from nqbench_training.second_moments import SecondMoments
from nqbench_training.sequential import layer_uses
from nqbench_training.weight_averaging import averaged

_EACH = ("epochs", "precision", "replicas", "taught_by")  # parameters that may differ from share to share
_UNSAID = {"precision": "float32", "replicas": 1, "taught_by": "teacher"}

Precision = Literal["float32", "bfloat16"]
TaughtBy = Literal["teacher", "itself"]


class Surgeon(
    Distilled, Pruner, name="surgeon", paper="Hassibi and Stork 1993; arXiv:2208.11580; factors: arXiv:1503.05671"
):
    """Removes the weights that cost least by Kronecker factors, over all layers; refits the others; fine-tunes.

    Weights are removed in ``rounds``, between which kept weights are refitted to their layer's outputs. Then layers are
    refitted once more, in forward order, each to its outputs in the original network, given its inputs in the pruned
    network. With ``through`` the network is also fine-tuned at intermediate shares; these networks are kept in the
    store of trained networks and reused by all pruners with the same first shares.
    """

    VERSION: ClassVar[int] = 1
    """To be increased when a change of the code changes the result."""

    keep: float = Field(gt=0, le=1, examples=[0.1])
    """Share of weights to keep, over all tensors."""
    through: tuple[float, ...] = ()
    """Intermediate shares at which the network is fine-tuned, in decreasing order: [0.2, 0.1]. A share that is given
    twice, or equal to ``keep``, is fine-tuned twice, with a restart of the learning rate (warm restarts,
    arXiv:1608.03983)."""
    samples: int = Field(2000, ge=1)
    """Training samples for the layers' inputs, the first of the split."""
    scored: int = Field(500, ge=1)
    """Training samples for the curvature of the layers' outputs."""
    rounds: int = Field(6, ge=1)
    """Number of rounds of removal, between which the kept weights are refitted; each round multiplies the kept share by
    the same factor."""
    damping: float = Field(0.01, ge=0)
    """The number added to the diagonal of the second moments, as a share of its mean."""
    epochs: Annotated[int, Field(ge=0)] | tuple[Annotated[int, Field(ge=0)], ...] = 0  # type: ignore[assignment]
    """Epochs of fine-tuning after every share of ``through`` and at the end; or a list with a number for each: [22, 22,
    0] leaves the last fine-tuning to the training that follows. A list is one setting; a sweep over two settings is
    [[4, 4], [12, 12]]."""
    precision: Precision | tuple[Precision, ...] = "float32"  # type: ignore[assignment]
    """``bfloat16``: fine-tunes under autocast, at least twice as fast on GPUs and CPUs with native support, slower on
    others. Or a list with one for each share."""
    replicas: Annotated[int, Field(ge=1)] | tuple[Annotated[int, Field(ge=1)], ...] = 1
    """Number of fine-tunings of each pruned network, each with another order of the samples; or a list with a number
    for each share. Their weights are averaged (model soups, arXiv:2203.05482; arXiv:2306.16788 for pruned networks),
    and batch norms re-estimated. Each is kept in the store, so that an interrupted run resumes with the one it was
    at."""

    taught_by: TaughtBy | tuple[TaughtBy, ...] = "teacher"
    """Which network is distilled: ``teacher``, the model's, which may be several others; ``itself``: the trained
    network. Or a list with one for each share: the networks of shares that the network taught itself are those of the
    model without a teacher."""

    @model_validator(mode="after")
    def _fitting(self) -> Surgeon:
        shares = self._shares
        if any(a < b for a, b in zip((1.0, *shares), shares, strict=False)) or min(shares) <= 0:
            raise ValueError(f"{list(shares)} (through, then keep) must not rise, and lie above 0, at most at 1")
        for name in _EACH:
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != len(shares):
                raise ValueError(
                    f"{name}: {len(value)} values for {len(shares)} shares (through, then keep); "
                    "to try several in a suite: [[4], [12]]"
                )
        return self

    def uses_seed(self) -> bool:
        return any(self._each("epochs", self._shares))

    @property
    def _shares(self) -> tuple[float, ...]:
        return (*self.through, self.keep)

    def _each(self, name: str, shares: tuple[float, ...]) -> tuple[Any, ...]:
        """The values, one per share, of a parameter that may differ from share to share."""
        value = getattr(self, name)
        return value[: len(shares)] if isinstance(value, tuple) else (value,) * len(shares)

    def prune(self, task: Task) -> Pruned:
        return self._stage(task, self._shares)

    def _stage(self, task: Task, shares: tuple[float, ...]) -> Pruned:
        """The network at the last of ``shares``, from the store or made from the one before it; loaded into the task's
        network."""
        if self._each("replicas", shares)[-1] > 1 and self._each("epochs", shares)[-1]:
            found = self._kept(task, shares, None, lambda _: self._average(task, shares))
        else:
            found = self.one(task, shares, 0)
        return unpacked(task, found)

    def _average(self, task: Task, shares: tuple[float, ...]) -> Trained:
        return averaged(task, [self.one(task, shares, number) for number in range(self._each("replicas", shares)[-1])])

    def one(self, task: Task, shares: tuple[float, ...], number: int) -> Trained:
        """One of the ``replicas`` at the last of ``shares``, from the store or made."""
        return self._kept(task, shares, number, lambda workdir: self._made(task, shares, number, workdir))

    def _kept(
        self, task: Task, shares: tuple[float, ...], number: int | None, make: Callable[[Path | None], Trained]
    ) -> Trained:
        """The result of ``make``, kept in the store if it involves training. number: that of the replica, or None for
        the average."""
        passes, precision, replicas, taught = (self._each(name, shares) for name in _EACH)
        if number is not None:  # a replica does not depend on the number of the others
            replicas = (*replicas[:-1], 1)
        fields = self.model_dump(mode="json", exclude={"keep", "through"}) | {
            "shares": shares,
            "epochs": _short(passes),
            "precision": _short(precision),
            "replicas": _short(replicas),
            "taught_by": _short(taught),
        }
        if set(taught) == {"itself"}:
            task, fields["taught_by"] = replace(task, model=task.model.untaught()), "teacher"
        # networks that were stored before this parameter existed are still found
        recipe: dict[str, Any] = {"surgeon": {k: v for k, v in fields.items() if (k, v) not in _UNSAID.items()}}
        if number:
            recipe["replica"] = number
        recipe |= {**recipe_of(task), "version": self.VERSION + self.distills_anew(task)}
        return trained(f"{self.name}-{task.model.name}", recipe, make) if passes[-1] else make(None)

    def _made(self, task: Task, shares: tuple[float, ...], number: int, workdir: Path | None) -> Trained:
        """Made from the network at the last but one of ``shares``, or from the trained one if there is only one
        share."""
        if len(shares) > 1:
            self._stage(task, shares[:-1])
        else:  # an earlier replica has changed the task's network
            task.module.load_state_dict(task.model.load(task.device).state_dict())
        # one thread: the result must not depend on how many a worker has
        with one_thread():
            return self._tuned(task, shares, task.seed + len(shares) + 1000 * number, workdir)

    def _tuned(self, task: Task, shares: tuple[float, ...], seed: int, workdir: Path | None) -> Trained:
        """The task's network, pruned to the last of ``shares`` unless it is already, and fine-tuned."""
        before = shares[-2] if len(shares) > 1 else 1.0
        masks = {name: (w != 0) | (before == 1) for name, w in task.weights().items()}
        if len(shares) == 1 or before != shares[-1]:
            masks = self._cut(task, masks, before, shares[-1])
        moments: Mapping[str, Tensor] = {}
        epochs, precision, _, taught = (self._each(name, shares)[-1] for name in _EACH)
        if epochs:
            moments = fit_network(
                task,
                self.recipe(seed, epochs=epochs, precision=precision),
                masks=lambda: masks,
                teacher=self.teacher(task, itself=taught == "itself"),
                distill=self,
                checkpoint=None if workdir is None else workdir / "epoch.safetensors",
            )
        hold(task, masks)
        return packed(task, masks, moments)

    def _cut(self, task: Task, kept: Mapping[str, Tensor], before: float, keep: float) -> dict[str, Tensor]:
        """Prune the task's network from the share ``before`` (with the masks ``kept``) to ``keep`` and refit it.
        Returns the masks."""
        was = task.weights()
        names = task.names
        moments = SecondMoments(samples=self.samples).sense(task, names)
        for name in names:
            if Moments.of(moments[name]).diagonal:
                raise BadInput(
                    f"pruner 'surgeon': '{name}' is not used in evaluation, or has more than {LARGEST:,} inputs "
                    "an output: take another pruner, or leave it out of the model's compressible tensors"
                )
        g = output_curvature(task, names, self.scored)
        n = sum(w.numel() for w in was.values())
        masks, weights = dict(kept), dict(was)
        for step in range(1, self.rounds + 1):
            share = before * (keep / before) ** (step / self.rounds)
            costs = {
                name: removal_costs(weights[name], masks[name], damped(moments[name], self.damping), g[name])
                for name in names
            }
            masks = cheapest_removed(costs, masks, round(share * n))
            weights = {name: corrected(was[name], moments[name], None, self.damping, masks[name]) for name in names}
        self._refit(task, masks, weights)
        return masks

    def _refit(self, task: Task, masks: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
        """Refit layer by layer, from ``weights``, to the outputs of the current network."""
        if any(count > 1 for count in layer_uses(task).values()):
            task.assign(weights)
            return
        samples = SecondMoments(samples=self.samples).calibration(task)
        if samples is None or not splits(task, samples):
            task.assign(weights)
            return

        def visit(use: Use, x: Tensor, seen: Tensor) -> None:
            name = use.name
            was = task.parameter(name).detach().clone()
            products, missing = Products(use.geometry, was.shape), Missing(use.geometry, was)
            products.add(seen)
            missing.add(x, seen)
            moments = products.moments()
            best = corrected(was, moments.gram, missing.mean(moments), self.damping, masks[name], weights[name])
            task.assign({name: best})

        paired_forward(task, samples, visit)


def _short(values: tuple[Any, ...]) -> Any:
    """A single value in place of equal ones: intermediate networks are then found in the store whatever shares
    follow."""
    return values[0] if len(set(values)) == 1 else values
