"""What the trainings and pruners that run SGD share: its parameters, and the loop over a task's network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from nqbench.api import Batch, Group, QuantizedModel, Task
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


class Distilled(Optimised):
    """Mixed in where the trained network, as it was before anything was pruned or quantized, or what else the model has
    for a teacher, may teach the one that is fine-tuned (arXiv:1503.02531)."""

    distill: float = Field(0.0, ge=0, le=1)
    """The teacher's share of the loss, (1 - a) L + a T^2 KL(teacher || network), both softened by T; for outputs that
    are logits. 0: no teacher."""
    temperature: float = Field(4.0, gt=0)
    """T, which logits are divided by."""

    def teacher(self, task: Task) -> nn.Module | None:
        """What teaches the model's networks, frozen: itself as it was trained, unless the model has others; or None."""
        return task.model.teacher(task.device).eval().requires_grad_(False) if self.distill else None

    def loss(self, task: Task, batch: Batch, outputs: Tensor, teacher: nn.Module | None) -> Tensor:
        """The mean loss of a batch with these outputs of the network, the teacher's part in it where there is one."""
        hard = task.losses(outputs, batch).mean()
        if teacher is None:
            return hard
        with torch.no_grad():
            wanted = task.predict(batch, teacher)
        return self.taught(hard, outputs, wanted)

    def taught(self, loss: Tensor, outputs: Tensor, wanted: Tensor) -> Tensor:
        """The whole loss. loss: the mean on the true labels; outputs, wanted: (B, classes) logits."""
        t = self.temperature
        apart = functional.kl_div(
            functional.log_softmax(outputs / t, 1),
            functional.log_softmax(wanted / t, 1),
            reduction="batchmean",
            log_target=True,
        )
        return (1 - self.distill) * loss + self.distill * t**2 * apart


def fit_network(
    task: Task,
    recipe: Recipe,
    *,
    masks: Callable[[], Mapping[str, Tensor]] | None = None,
    parameters: Mapping[str, Tensor] | None = None,
    loss: Callable[[Batch], Tensor] | None = None,
    teacher: nn.Module | None = None,
    distill: Distilled | None = None,
    state: Mapping[str, Tensor] | None = None,
    before_step: Callable[[], None] | None = None,
    after_step: Callable[[], None] | None = None,
    between_steps: Callable[[], None] | None = None,
    before_epoch: Callable[[int], None] | None = None,
    checkpoint: str | Path | None = None,
    second_moments: bool = True,
) -> dict[str, Tensor]:
    """Train all of the task's network in training mode, pruned weights held at 0; the gradients' second moments.

    parameters: what moves; None: what is ``trainable``. loss: of a batch; None: the task's, or ``distill``'s, and steps
    are replayed where the model allows it. masks: asked anew at each step, or once an epoch where steps are replayed,
    since a pruner's grow; None: the task's. teacher: what ``distill`` learns from. checkpoint: a file, by its name in
    the task's workdir or by its path. second_moments: off where nobody asks for them. state: what changes in place
    besides the network's own. The hooks: as ``fit`` has them.
    """

    def usual(batch: Batch) -> Tensor:
        return task.loss(batch) if distill is None else distill.loss(task, batch, task.predict(batch), teacher)

    def kept() -> Mapping[str, Tensor]:
        return task.masks if masks is None else masks()

    def before() -> None:
        mask_gradients(task, kept())
        if before_step is not None:
            before_step()

    def after() -> None:
        hold(task, kept())
        if after_step is not None:
            after_step()

    with training(task.module):
        return fit(
            recipe,
            trainable(task) if parameters is None else parameters,
            lambda seed: task.batches("train", batch_size=recipe.batch_size, shuffle=seed),
            usual if loss is None else loss,
            state={**dict(task.module.named_buffers()), **(state or {})},
            before_step=before,
            after_step=after,
            between_steps=between_steps,
            before_epoch=before_epoch,
            checkpoint=checkpoint if isinstance(checkpoint, Path) else workfile(task, checkpoint),
            second_moments=second_moments,
            replay=loss is None and task.model.replays,
        )


def trainable(task: Task) -> dict[str, Tensor]:
    """The network's parameters that require a gradient, by name."""
    return {name: p for name, p in task.module.named_parameters() if p.requires_grad}


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


def finished(task: Task, groups: tuple[Group, ...], notes: Mapping[str, str] | None = None) -> QuantizedModel:
    """The groups with everything else as it stands in the task's network. notes: as ``QuantizedModel`` has them."""
    return QuantizedModel(groups, task.raw_state(), notes or {})


def deployed_as(task: Task, groups: tuple[Group, ...], notes: Mapping[str, str] | None = None) -> QuantizedModel:
    """``finished``, once the network holds what the groups deploy."""
    task.assign(task.reconstruct(groups))
    return finished(task, groups, notes)


def deployed_values(task: Task, group: Group, most: int) -> Tensor:
    """(k,) distinct values that a group's kept weights are deployed as, ascending; of more than ``most``, so many by
    rank."""
    deployed = task.reconstruct([group])
    values: Tensor = torch.unique(torch.cat([task.kept(name, deployed[name].detach()) for name in group.names]))
    if values.numel() <= most:
        return values
    return values[torch.linspace(0, values.numel() - 1, most, device=values.device).round().long()]
