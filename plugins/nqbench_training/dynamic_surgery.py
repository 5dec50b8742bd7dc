"""Dynamic network surgery: pruned weights go on learning and may come back (arXiv:1608.04493)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import ConfigDict, Field, model_validator
from torch import Tensor

from nqbench.api import BadInput, Pruned, Pruner, Task
from nqbench.api.toolkit.masters import widened
from nqbench.api.toolkit.optimise import one_thread
from nqbench.api.toolkit.store import Trained
from nqbench_training.compact import Live, can_be_compact, compact, live_parts
from nqbench_training.magnitude import keep_largest
from nqbench_training.masking import flat, kept_in_store, packed, unpacked
from nqbench_training.optimised import Distilled, fit_network


class DynamicSurgery(Distilled, Pruner, name="dynamic-surgery", paper="arXiv:1608.04493; arXiv:2006.07253"):
    """The network computes with W * T; all of W learns from the gradient at W * T, and the masks T are renewed by |W|.

    A renewal clears T where |W| is below a = (1 - margin) t, sets it where |W| is above b = (1 + margin) t, and leaves
    it unchanged in between. The threshold t is the layer's mean of |W| plus ``c`` standard deviations, both before
    training (as in the paper), or the one that keeps a share of the weights, which falls to ``keep`` by the cubic
    schedule of arXiv:1710.01878. The result is kept in the store of trained networks.
    """

    VERSION: ClassVar[int] = 1
    """To be increased when a change of the code changes the result."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"keep": 0.3, "threshold": t} for t in ("global", "layer", "lamp")]}
    )

    epochs: int = Field(0, ge=0)
    """Passes over the training data; 0: masks from the trained weights, which are not changed."""
    keep: float | None = Field(None, gt=0, le=1)
    """Share of weights to keep; none: thresholds follow from ``c``."""
    c: float | None = None
    """Without ``keep``: a layer's threshold in standard deviations above the mean; none: 1."""
    threshold: Literal["global", "layer", "lamp"] = "global"
    """With ``keep``: one threshold for all tensors; the same share in each tensor; or one threshold for scores instead
    of |W|, w^2 divided by the sum of all squares in its tensor that are not smaller (LAMP, arXiv:2010.07611), which do
    not depend on the scale of a tensor: the weights before a batch norm may have any."""
    margin: float = Field(0.1, ge=0, lt=1)
    """Distance of the two thresholds a and b from t, as a share of t."""
    rate: float = Field(0.0625, gt=0, le=1)
    """Initial probability that masks are renewed after a step; later it is rate / (1 + decay * step)."""
    decay: float = Field(0.0, ge=0)
    """How fast the probability of a renewal falls."""
    ramp: float = Field(0.5, ge=0, le=1)
    """Share of the epochs, at the beginning, in which the share of kept weights falls to ``keep``."""
    settled: float = Field(0.75, ge=0, le=1)
    """Share of the epochs after which masks are fixed; not before the end of ``ramp``."""
    units: tuple[tuple[str, int], ...] = ()
    """Layers of which only this many outputs are kept from the first step on, those of the largest norms:
    [[conv1.weight, 8], [fc1.weight, 80]]. Weights that have no effect without the other outputs are pruned, too, and
    the cut part is not computed, which makes epochs faster."""

    @model_validator(mode="after")
    def _said(self) -> DynamicSurgery:
        if self.keep is not None and self.c is not None:
            raise ValueError(
                "give either keep (a share of the weights) or c (standard deviations above the mean), not both"
            )
        if self.settled < self.ramp:
            raise ValueError(f"settled {self.settled:g} must not lie before the end of the ramp, {self.ramp:g}")
        return self

    def prune(self, task: Task) -> Pruned:
        if not self.epochs:
            return unpacked(task, self._made(task, None))
        # thresholds of layers of which units are cut were those of what is left of them
        anew = self.distills_anew(task) or (self.units and self.keep is None)
        version = self.VERSION + bool(anew)
        return unpacked(task, kept_in_store(self, version, task, lambda workdir: self._made(task, workdir)))

    def _made(self, task: Task, workdir: Path | None) -> Trained:
        """workdir: for checkpoints; None: none are written."""
        surgery = Surgery(self, task)
        if self.epochs:
            # one thread: the result must not depend on how many a worker has
            with one_thread(), surgery.smaller():
                fit_network(
                    task,
                    self.recipe(task.seed),
                    masks=dict,  # pruned weights are kept at 0 by the surgery itself
                    teacher=self.teacher(task),
                    distill=self,
                    state=surgery.state(),
                    before_step=surgery.reveal,
                    after_step=surgery.hide,
                    between_steps=surgery.after_step,
                    before_epoch=surgery.begin,
                    checkpoint=None if workdir is None else workdir / "epoch.safetensors",
                    second_moments=False,
                )
        if self.epochs <= surgery.border:
            surgery.settle()
        return packed(task, {n: m.bool() for n, m in surgery.masks.items()})


class Surgery:
    """The weights W, the masks T and their renewal; the task's network holds W * T whenever it computes.

    All tensors are changed in place, since a replayed step (a CUDA graph) reads the same tensors again.
    """

    def __init__(self, plugin: DynamicSurgery, task: Task) -> None:
        self.plugin = plugin
        self.task = task
        self.parameters: list[Tensor] = [task.parameter(name) for name in task.names]
        self.weights = task.weights()
        self.fixed = {n: mean_and_deviations(w, 1.0 if plugin.c is None else plugin.c) for n, w in self.weights.items()}
        self.live = largest_units(task, plugin.units) if plugin.units else {}
        self._cut_units()
        self.masks = {name: (w != 0).to(w) if self.live else torch.ones_like(w) for name, w in self.weights.items()}
        self.steps = torch.zeros((), dtype=torch.int64)
        self.border = math.ceil(plugin.settled * plugin.epochs)
        """The first epoch in which masks are fixed."""
        self.share = 1.0
        self.moving = True
        self.draws = torch.Generator()

    def state(self) -> dict[str, Tensor]:
        """The tensors that a checkpoint must contain."""
        named = {f"surgery/weights/{n}": w for n, w in self.weights.items()}
        return named | {f"surgery/masks/{n}": m for n, m in self.masks.items()} | {"surgery/steps": self.steps}

    # -- units that are cut ------------------------------------------------------------------------------------------
    def smaller(self) -> AbstractContextManager[None]:
        """Inside the block, the network computes only with its remaining units."""
        return compact(self.task, self.live) if self.live else nullcontext()

    def _cut_units(self) -> None:
        """Set all weights of the units that are cut to 0; they stay 0, since their gradient is 0."""
        for name, part in self.live.items():
            owned: Mapping[str, Tensor] = {n: p.data for n, p in self.task.module.named_parameters()} | self.weights
            for each in (name, name.removesuffix("weight") + "bias"):
                if each in owned:
                    owned[each].mul_(part.over(owned[each].shape))
        if not self.live:
            return
        whole = list(self.weights.values())
        for tensors in [[w] for w in whole] if self.plugin.threshold == "layer" else [whole]:
            left = sum(int(w.count_nonzero()) for w in tensors)
            wanted = round((self.plugin.keep or 0) * sum(w.numel() for w in tensors))
            if wanted > left:
                raise BadInput(
                    f"pruner 'dynamic-surgery': keep asks for {wanted:,} weights, and the units that are kept have "
                    f"{left:,}"
                )

    # -- around a step -----------------------------------------------------------------------------------------------
    def reveal(self) -> None:
        """Replace W * T in the network by W, so that the optimizer updates all weights."""
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, list(self.weights.values()))

    def hide(self) -> None:
        """Store the updated W, and put W * T into the network."""
        with torch.no_grad():
            torch._foreach_copy_(list(self.weights.values()), self.parameters)
        self._put()

    def after_step(self) -> None:
        self.steps += 1
        chance = self.plugin.rate / (1 + self.plugin.decay * int(self.steps))
        if float(torch.rand((), generator=self.draws)) < chance and self.moving:
            self._renew()

    def _put(self) -> None:
        with torch.no_grad():
            kept = torch._foreach_mul(list(self.weights.values()), list(self.masks.values()))
            torch._foreach_copy_(self.parameters, list(kept))

    # -- masks -------------------------------------------------------------------------------------------------------
    def begin(self, epoch: int) -> None:
        """Before an epoch: the share of kept weights by the schedule, and masks with that share."""
        plugin = self.plugin
        self.draws.manual_seed(plugin.recipe(self.task.seed).epoch_seed(epoch) + 1)
        done = min(1.0, (epoch + 1) / (plugin.ramp * plugin.epochs)) if plugin.ramp else 1.0
        self.share = 1 - (1 - (1 - done) ** 3) * (1 - (plugin.keep or 0.0))
        self.moving = epoch < self.border
        if self.moving:
            self._renew()
        elif epoch == self.border:
            self.settle()

    def settle(self) -> None:
        """The final masks; if a share was asked for, they keep exactly that share."""
        keep = self.plugin.keep
        if keep is None:
            self._renew()
            return
        sizes = self._sizes()
        groups = [{n: size} for n, size in sizes.items()] if self.plugin.threshold == "layer" else [sizes]
        for group in groups:
            for name, mask in keep_largest(group, keep).items():
                self.masks[name].copy_(mask)
        self._put()

    def _renew(self) -> None:
        low, high = 1 - self.plugin.margin, 1 + self.plugin.margin
        sizes = self._sizes()
        for name, t in self._thresholds(sizes).items():
            size, mask = sizes[name], self.masks[name]
            mask.copy_(torch.where(size > high * t, 1.0, torch.where(size <= low * t, 0.0, mask)))
        self._put()

    def _sizes(self) -> dict[str, Tensor]:
        """The values that thresholds are compared with: magnitudes, or LAMP scores."""
        score = lamp if self.plugin.keep is not None and self.plugin.threshold == "lamp" else torch.abs
        return {name: score(w) for name, w in self.weights.items()}

    def _thresholds(self, sizes: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        if self.plugin.keep is None:
            return self.fixed
        if self.plugin.threshold == "layer":
            return {name: largest_left_out(size.reshape(-1), self.share) for name, size in sizes.items()}
        return dict.fromkeys(sizes, largest_left_out(flat(sizes), self.share))


def largest_units(task: Task, units: tuple[tuple[str, int], ...]) -> dict[str, Live]:
    """The remaining parts of the task's layers if of each layer in ``units`` the given number of outputs is kept, those
    of the largest norms."""
    rows = {}
    for name, count in units:
        possible = [n for n in task.names if n.endswith(".weight") and can_be_compact(task.layer(n))]
        if name not in possible:
            raise BadInput(
                f"pruner 'dynamic-surgery': units of '{name}': there are "
                f"{', '.join(possible) or 'no linear layers and no convolutions without groups'}"
            )
        norms = task.parameter(name).detach().flatten(1).norm(dim=1)
        if not 1 <= count <= norms.numel():
            raise BadInput(f"pruner 'dynamic-surgery': units: {count} of {name}, which has {norms.numel()}")
        rows[name] = torch.zeros(norms.numel(), dtype=torch.bool)
        rows[name][norms.cpu().topk(count).indices] = True
    return live_parts(task, rows)


def lamp(w: Tensor) -> Tensor:
    """LAMP scores: w^2 divided by the sum of all squares that are not smaller, ties by position (arXiv:2010.07611, eq.
    3)."""
    squares, order = widened(w).reshape(-1).square().sort(stable=True)
    rest = squares.flip(0).cumsum(0).flip(0)
    scores = torch.empty_like(squares)
    scores[order] = squares / rest.clamp_min(torch.finfo(squares.dtype).tiny)
    return scores.reshape(w.shape)


def largest_left_out(values: Tensor, share: float) -> Tensor:
    """(): the largest |value| that is pruned if a share of the largest ones is kept; below all of them if none is
    pruned."""
    left_out = values.numel() - round(share * values.numel())
    return values.abs().kthvalue(left_out).values if left_out else values.new_tensor(-1.0)


def mean_and_deviations(w: Tensor, c: float) -> Tensor:
    """(): max(0, the mean of |w| plus c standard deviations of |w|)."""
    size = w.abs()
    return (size.mean() + c * size.std(correction=0)).clamp_min(0)
