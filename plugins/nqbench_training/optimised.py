"""What the trainings and pruners that run SGD share: its parameters, and the loop over a task's network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn

from nqbench.api import Group, QuantizedModel, Task
from nqbench.api.toolkit.optimise import Recipe, Steps, fit
from nqbench_training.masking import hold, mask_gradients


class Optimised(Steps):
    """Mixed into a Training or a Pruner: the fields that make a ``Recipe``."""

    epochs: int = Field(1, ge=0)
    """Passes over the training data."""
    lr: float = Field(0.01, gt=0)
    """Learning rate of the first epoch."""

    def uses_seed(self) -> bool:
        """Order and augmentation are drawn."""
        return self.epochs > 0

    def recipe(self, seed: int, **changes: float | int | str) -> Recipe:
        """The loop's recipe, with changes."""
        fields = {name: getattr(self, name) for name in Steps.model_fields}
        return Recipe.model_validate(fields | {"seed": seed} | changes)


def fit_network(
    task: Task,
    recipe: Recipe,
    *,
    masks: Callable[[], Mapping[str, Tensor]],
    before_step: Callable[[], None] | None = None,
    before_epoch: Callable[[int], None] | None = None,
    checkpoint: str | None = None,
    second_moments: bool = True,
) -> dict[str, Tensor]:
    """Train all of the task's network in training mode, pruned weights held at 0; the gradients' second moments.

    masks: asked anew at each step, since a pruner's grow. checkpoint: a file name in the task's workdir.
    second_moments: off where nobody asks for them.
    """

    def before() -> None:
        mask_gradients(task, masks())
        if before_step is not None:
            before_step()

    with training(task.module):
        return fit(
            recipe,
            {name: p for name, p in task.module.named_parameters() if p.requires_grad},
            lambda seed: task.batches("train", batch_size=recipe.batch_size, shuffle=seed),
            task.loss,
            state=dict(task.module.named_buffers()),
            before_step=before,
            after_step=lambda: hold(task, masks()),
            before_epoch=before_epoch,
            checkpoint=workfile(task, checkpoint),
            second_moments=second_moments,
        )


@contextmanager
def training(module: nn.Module) -> Iterator[None]:
    """Training mode inside the block, each submodule's own mode after it."""
    modes = {m: m.training for m in module.modules()}
    module.train()
    try:
        yield
    finally:
        for m, mode in modes.items():
            m.training = mode


def workfile(task: Task, name: str | None) -> Path | None:
    """A file in the task's workdir, if there is one."""
    if task.workdir is None or name is None:
        return None
    task.workdir.mkdir(parents=True, exist_ok=True)
    return task.workdir / name


def install(task: Task, model: QuantizedModel) -> None:
    """Make the task's network what the quantized model deploys."""
    task.assign(task.reconstruct(model.groups))
    with torch.no_grad():
        state = task.module.state_dict()
        for name, tensor in model.raw_state.items():
            state[name].copy_(tensor)


def finished(task: Task, groups: tuple[Group, ...]) -> QuantizedModel:
    """The groups with everything else as it stands in the task's network."""
    return QuantizedModel(groups, task.raw_state())
