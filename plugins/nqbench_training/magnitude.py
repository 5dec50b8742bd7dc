"""Pruning by magnitude: Han, Pool, Tran, Dally (arXiv:1506.02626); gradual: Zhu and Gupta (arXiv:1710.01878)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from nqbench.api import BadInput, Pruned, Pruner, Task
from nqbench.api.toolkit.optimise import one_thread
from nqbench_training.masking import hold
from nqbench_training.optimised import Distilled, fit_network


class Magnitude(Distilled, Pruner, name="magnitude", paper="arXiv:1506.02626; gradual: arXiv:1710.01878"):
    """Keeps the largest weights and fine-tunes them.

    One-shot (``ramp: 0``): pruned before the first epoch. Gradual: before epoch t = 1, 2, ... ``ramp`` the sparsity is
    increased to s_t = s (1 - (1 - t / ramp)^3), by the magnitudes at that time.
    """

    keep: float = Field(gt=0, le=1, examples=[0.1])
    """Share of weights to keep, for all tensors that ``layers`` does not name."""
    threshold: Literal["global", "layer"] = "global"
    """``global``: one threshold for all tensors; ``layer``: the same share in each tensor."""
    layers: tuple[tuple[str, Annotated[float, Field(gt=0, le=1)]], ...] = ()
    """Tensors with a share of their own: [[conv1.weight, 0.6], [fc1.weight, 0.08]]."""
    ramp: int = Field(0, ge=0)
    """Epochs over which the sparsity rises; 0: one-shot."""

    def prune(self, task: Task) -> Pruned:
        if self.ramp > self.epochs:
            raise BadInput(f"pruner 'magnitude': ramp {self.ramp} is longer than the {self.epochs} epochs")
        masks: dict[str, Tensor] = {}

        def raise_sparsity(epoch: int) -> None:
            done = min(1.0, (epoch + 1) / self.ramp) if self.ramp else 1.0
            masks.update(self.masks(task, 1 - (1 - done) ** 3))
            hold(task, masks)

        moments = None
        if self.epochs:
            recipe = self.recipe(task.seed)
            # one thread: the result must not depend on how many a worker has
            with one_thread():
                moments = fit_network(
                    task,
                    recipe,
                    masks=lambda: masks,
                    teacher=self.teacher(task),
                    distill=self,
                    before_epoch=raise_sparsity,
                    checkpoint="prune.safetensors",
                )
        # the same masks as in the last epoch, since pruned weights are 0; or the first, without epochs or ramp
        raise_sparsity(max(self.epochs, self.ramp))
        return Pruned.of(task, masks, moments)

    def masks(self, task: Task, progress: float = 1.0) -> dict[str, Tensor]:
        """Masks for the current weights, at ``progress`` times the final sparsity."""
        own = dict(self.layers)
        unknown = set(own) - set(task.names)
        if unknown:
            raise BadInput(f"pruner 'magnitude': no tensor '{min(unknown)}'; there are {', '.join(task.names)}")
        rest = [name for name in task.names if name not in own]
        groups = [rest] if self.threshold == "global" else [[name] for name in rest]
        shares = [(group, self.keep) for group in groups if group] + [([name], share) for name, share in own.items()]
        masks: dict[str, Tensor] = {}
        for group, share in shares:
            masks |= keep_largest(task.weights(group), 1 - progress * (1 - share))
        return {name: masks[name] for name in task.names}


def keep_largest(weights: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """name -> bool mask of the largest |w| over all tensors together: exactly round(share * n), ties by position."""
    magnitudes = torch.cat([w.detach().reshape(-1).abs() for w in weights.values()])
    n = magnitudes.numel()
    kept = round(share * n)
    chosen = torch.ones(n, dtype=torch.bool, device=magnitudes.device)
    if kept < n:
        border = magnitudes.kthvalue(n - kept).values  # the largest that is pruned
        chosen = magnitudes > border
        ties = torch.nonzero(magnitudes == border).reshape(-1)
        chosen[ties[: kept - int(chosen.sum())]] = True
    sizes = [w.numel() for w in weights.values()]
    return {k: part.reshape(w.shape) for (k, w), part in zip(weights.items(), _split(chosen, sizes), strict=True)}


def _split(flat: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    return list(torch.split(flat, list(sizes)))
