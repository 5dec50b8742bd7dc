"""The straight-through estimator: BinaryConnect (arXiv:1511.00363) for any quantizer."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from nqbench.api import Batch, Group, QuantizedModel, Task, Training
from nqbench.api.toolkit.optimise import fit
from nqbench_training.masking import hold, mask_gradients
from nqbench_training.optimised import Distilled, finished, install, training, workfile


class StraightThrough(Distilled, Training, name="straight-through", paper="arXiv:1511.00363"):
    """Real weights are kept; the loss and its gradient are taken at their quantization and applied to them.

    Everything else (biases, batch norm, its statistics) trains along with the quantized weights. Ends on a
    quantization of the real weights.
    """

    every: int = Field(1, ge=1)
    """Steps between quantizations; the weights' quantized values stay what they are in between."""
    clip: float | None = Field(None, gt=0)
    """Real weights are clipped to [-clip, clip] after each step (BinaryConnect: 1); none: not at all."""

    def train(self, task: Task, start: QuantizedModel | None) -> QuantizedModel:
        if start is not None:
            install(task, start)
        groups: tuple[Group, ...] = ()
        deployed: dict[str, Tensor] = {}
        step = 0
        teacher = self.teacher(task)

        def quantize(_: int = 0) -> None:
            # an epoch starts cold, so that a resumed run does as an uninterrupted one
            nonlocal groups, deployed, step
            groups, step = task.quantize(task.weights()), 0
            deployed = {name: q.detach() for name, q in task.reconstruct(groups).items()}

        def requantize() -> None:
            nonlocal groups, deployed, step
            hold(task, task.masks)
            if self.clip is not None:
                for name in task.names:
                    task.parameter(name).data.clamp_(-self.clip, self.clip)
            step += 1
            if step % self.every == 0:
                groups = task.quantize(task.weights(), previous=groups)
                deployed = {name: q.detach() for name, q in task.reconstruct(groups).items()}

        def loss(batch: Batch) -> Tensor:
            # the value is the quantized weight's, the gradient passes to the real one
            passed = {name: q + (task.parameter(name) - task.parameter(name).detach()) for name, q in deployed.items()}
            return self.loss(task, batch, task.predict(batch, tensors=passed), teacher)

        recipe = self.recipe(task.seed)
        with training(task.module):
            fit(
                recipe,
                {name: p for name, p in task.module.named_parameters() if p.requires_grad},
                lambda seed: task.batches("train", batch_size=recipe.batch_size, shuffle=seed),
                loss,
                state=dict(task.module.named_buffers()),
                before_step=lambda: mask_gradients(task, task.masks),
                after_step=requantize,
                before_epoch=quantize,
                checkpoint=workfile(task, "straight-through.safetensors"),
                second_moments=False,
            )
        quantize()
        task.assign(deployed)
        return finished(task, groups)
