"""Learning-compression pruning: min L(w) with at most kappa weights that are not 0 (Carreira-Perpinan, Idelbayev)."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict, Field
from torch import Tensor

from nqbench.api import Pruned, Pruner, Task
from nqbench.api.toolkit import interrupted
from nqbench.api.toolkit.masters import sums_of
from nqbench.api.toolkit.optimise import one_thread
from nqbench.api.toolkit.store import Trained
from nqbench_training.alternating import Penalized
from nqbench_training.magnitude import keep_largest
from nqbench_training.masking import kept_in_store, packed, unpacked
from nqbench_training.optimised import grown


class LearningCompressionPruning(Penalized, Pruner, name="lc-pruning", paper="CVPR 2018, 8532-8541; arXiv:1707.01209"):
    """LC under the constraint |theta|_0 <= kappa: the C step keeps the kappa largest |w - l/mu| over all tensors.

    L step: SGD on L(w) + mu/2 |w - theta - l/mu|^2; then l <- l - mu (w - theta). Pruned weights may become nonzero
    again as long as mu is small. The result is theta.
    """

    VERSION: ClassVar[int] = 1
    """To be increased when a change of the code changes the result."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"keep": 0.3, "iterations": 2, "first_epochs": 1, "epochs": 1}]}
    )

    keep: float = Field(gt=0, le=1, examples=[0.1])
    """kappa as a share of all weights."""

    def prune(self, task: Task) -> Pruned:
        return unpacked(task, kept_in_store(self, self.VERSION, task, lambda workdir: self._made(task, workdir)))

    def _made(self, task: Task, workdir: Path) -> Trained:
        with one_thread():  # the result must not depend on how many a worker has
            theta = kept_largest(task.weights(), self.keep)
            multipliers = {name: sums_of(t) for name, t in theta.items()}
            path = workdir / "lc.safetensors"
            first = _restore(path, task, theta, multipliers)
            for j in range(first, self.iterations):
                mu = grown(self.mu0, self.growth, j)
                targets = {name: t + multipliers[name] / mu for name, t in theta.items()}
                self.l_step(task, j, targets, workdir / f"iteration-{j}.safetensors")
                w = task.weights()
                theta = kept_largest({name: w[name] - multipliers[name] / mu for name in w}, self.keep)
                if self.multipliers:
                    multipliers = {name: multipliers[name] - mu * (w[name] - theta[name]) for name in w}
                _save(path, task, theta, multipliers, j + 1)
        task.assign(theta)
        return packed(task, {name: t != 0 for name, t in theta.items()})


def kept_largest(weights: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """The projection to at most share * n weights that are not 0: the largest ones over all tensors are kept."""
    return {name: weights[name] * mask for name, mask in keep_largest(weights, share).items()}


def _save(path: Path, task: Task, theta: dict[str, Tensor], multipliers: dict[str, Tensor], iteration: int) -> None:
    tensors = {f"theta/{k}": v for k, v in theta.items()} | {f"multipliers/{k}": v for k, v in multipliers.items()}
    interrupted.save(path, task, (), tensors, {"iteration": iteration})


def _restore(path: Path, task: Task, theta: dict[str, Tensor], multipliers: dict[str, Tensor]) -> int:
    """Restore the task's network and both dictionaries from the file. Returns the next iteration, 0 without a
    sound file."""
    found = interrupted.restore(path, task)
    if found is None:
        return 0
    _, tensors, notes = found
    for name in theta:
        theta[name], multipliers[name] = tensors[f"theta/{name}"], tensors[f"multipliers/{name}"]
    return int(notes["iteration"])
