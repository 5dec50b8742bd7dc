"""Quantization layer by layer with fine-tuning in between: iPQ (Stock et al., arXiv:1907.05686; Fan et al.,
arXiv:2004.07320)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import Field
from torch import Tensor

from nqbench.api import Batch, Group, QuantizedModel, Task, Training
from nqbench.api.toolkit.progress import tell
from nqbench_training.finetune import Movable
from nqbench_training.optimised import Distilled, deployed_as, fit_network, install, trainable
from nqbench_training.shared_grid import merged


class Iterative(Distilled, Training, name="iterative", paper="arXiv:1907.05686; arXiv:2004.07320, section 3"):
    """Quantizes one tensor, trains all codebooks so far and all weights not yet quantized, then goes on to the next.

    Codebooks (and scales, steps) learn by gradients averaged over their members, as in ``finetune``; symbols do not
    change. Tensors are quantized in the order of the state dict, one by one whatever the granularity.
    """

    lr: float = Field(1e-3, gt=0)
    """Learning rate in the first epoch of each training."""
    optimizer: Literal["sgd", "adam"] = "adam"
    """``adam`` is AdamW (decoupled weight decay)."""

    def train(self, task: Task, start: QuantizedModel | None) -> QuantizedModel:
        if start is not None:
            install(task, start)
        done: list[Group] = []
        for index, name in enumerate(task.names):
            tell(f"tensor {index + 1} of {len(task.names)}")
            done += replace(task, granularity="layer").quantize(task.weights(), names=[name])
            done = self._tuned(task, done, index)
        groups = merged(tuple(done)) if task.granularity == "global" else tuple(done)
        return deployed_as(task, groups)

    def _tuned(self, task: Task, done: list[Group], index: int) -> list[Group]:
        """The training that follows the quantization of tensor ``index``."""
        assert task.quantizer is not None
        learned = Movable(task.quantizer, done)
        over = {name for group in done for name in group.names}
        moved = learned.moved | {n: p for n, p in trainable(task).items() if n not in over}
        if not moved:
            return done
        teacher = self.teacher(task)
        masks = {name: mask for name, mask in task.masks.items() if name not in over}

        def loss(batch: Batch) -> Tensor:
            outputs = task.predict(batch, tensors=task.reconstruct(done, learned.leaves))
            return self.loss(task, batch, outputs, teacher)

        recipe = self.recipe(task.seed + index)
        fit_network(
            task,
            recipe,
            masks=lambda: masks,
            parameters=moved,
            loss=loss,
            before_step=learned.average,
            after_step=learned.settle,
            checkpoint=f"iterative-{index}.safetensors",
            second_moments=False,
        )
        tuned = list(learned.groups())
        task.assign(task.reconstruct(tuned))
        return tuned
