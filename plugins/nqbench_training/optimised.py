"""Shared by all trainings and pruners that run SGD: its parameters, and the training loop over a task's network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from nqbench.api import BadInput, Batch, Group, Model, QuantizedModel, Task
from nqbench.api.modules import modes_kept
from nqbench.api.toolkit.optimise import Recipe, Steps, fit
from nqbench_training.compact import compact, masked_parts
from nqbench_training.masking import hold, mask_gradients


class Optimised(Steps):
    """A mixin for a Training or a Pruner: the parameters of a ``Recipe``."""

    epochs: int = Field(1, ge=0)
    """Passes over the training data."""
    lr: float = Field(0.01, gt=0)
    """Learning rate in the first epoch."""

    def uses_seed(self) -> bool:
        """True: the order of the samples and their augmentation are random."""
        return self.epochs > 0

    def recipe(self, seed: int, **changes: float | int | str) -> Recipe:
        """The recipe of the training loop, with changes."""
        fields = {name: getattr(self, name) for name in Steps.model_fields}
        return Recipe.model_validate(fields | {"seed": seed} | changes)


class Distilled(Optimised):
    """A mixin for methods with optional distillation (arXiv:1503.02531): the teacher is the trained network before
    anything was pruned or quantized, or another one that the model provides."""

    distill: float = Field(0.0, ge=0, le=1)
    """The teacher's weight a in the loss, (1 - a) L + a T^2 KL(teacher || network), with both distributions at the
    temperature T: of classes, of the words at each place of a text, or normal ones of variance 1 about outputs that
    are no logits. 0: no distillation."""
    temperature: float = Field(4.0, gt=0)
    """The temperature T, by which logits are divided; of outputs that are no logits the loss does not depend on it."""

    def teacher(self, task: Task, itself: bool = False) -> nn.Module | None:
        """The teacher, which nothing trains: the model's trained network, unless the model provides another one and
        ``itself`` does not say otherwise; None without distillation. Its parameters stay as they are: a model may give
        the same module each time.

        Raises:
            BadInput: the model's outputs are no distributions.
        """
        if self.distill and task.model.outputs_are() == "other":
            raise BadInput(
                f"model '{task.model.name}': its outputs are no logits and no means ('other'), so that there is "
                "nothing to distill: leave distill out"
            )
        if not self.distill:
            return None
        return (task.model.load(task.device) if itself else task.model.teacher(task.device)).eval()

    def distills_anew(self, task: Task) -> bool:
        """Whether it distills outputs that were once taken for other distributions: real numbers, or words at the
        places of a text. What was stored then is not what is made now."""
        model = task.model
        return bool(self.distill) and (model.outputs_are() != "categorical" or type(model).logits is not Model.logits)

    def loss(self, task: Task, batch: Batch, outputs: Tensor, teacher: nn.Module | None) -> Tensor:
        """The mean loss of a batch, given the network's outputs, including the distillation loss if there is a
        teacher."""
        hard = task.losses(outputs, batch).mean()
        if teacher is None:
            return hard
        with torch.no_grad():
            wanted = task.model.logits(task.predict(batch, teacher), batch)
        own = task.model.logits(outputs, batch)
        if task.model.outputs_are() != "categorical":
            apart = _squares(own, wanted)
        elif own.dim() == 2 and own.shape[1] > 1:
            apart = self.divergence(own, wanted)
        else:
            raise BadInput(
                f"model '{task.model.name}': distill needs logits of two classes or more, and those of a batch have "
                f"the shape {tuple(own.shape)}: leave distill out"
            )
        return (1 - self.distill) * hard + self.distill * apart

    def divergence(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        """T^2 times the mean KL divergence. outputs: (n, classes) logits; wanted: those of the teacher."""
        t = self.temperature
        return t**2 * functional.kl_div(
            functional.log_softmax(outputs / t, 1),
            functional.log_softmax(wanted / t, 1),
            reduction="batchmean",
            log_target=True,
        )


def _squares(outputs: Tensor, wanted: Tensor) -> Tensor:
    """The mean KL divergence of normal distributions of variance 1 about these means, (n, ...): half the squared
    distance. With both divided by T, and times T^2, the same."""
    return (outputs - wanted).square().sum() / (2 * len(outputs))


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
    """Train the task's network in training mode with pruned weights kept at 0. Returns the gradients' second moments.
    Units that the task's masks leave nothing of are not computed.

    parameters: the tensors to train; None: those that are ``trainable``. loss: of a batch; None: the task's loss, or
    that with distillation, and steps are replayed (CUDA graphs) if the model allows it. masks: called at each step, or
    once per epoch if steps are replayed, since a pruner's masks change; None: the task's masks. teacher: the network
    for distillation. checkpoint: a file name in the task's workdir, or a path. second_moments: whether to compute them.
    state: tensors that change in place besides the network's own, for the checkpoint. The hooks are those of ``fit``.
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

    with training(task.module), compact(task, {} if masks else masked_parts(task)):
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


def grown(first: float, factor: float, times: int) -> float:
    """first * factor^times, at most 1e30: single precision ends at 3e38, and what it is multiplied by is no more than a
    weight's square."""
    try:
        return min(first * factor**times, 1e30)
    except OverflowError:
        return 1e30


def leaves_of(kind: str, parts: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The leaf tensors of several parts in one mapping: ``KIND/NUMBER/NAME``."""
    return {f"{kind}/{number}/{name}": leaf for number, leaves in enumerate(parts) for name, leaf in leaves.items()}


@contextmanager
def training(module: nn.Module) -> Iterator[None]:
    """Training mode inside the block; afterwards each submodule has its former mode."""
    with modes_kept(module):
        module.train()
        yield


def workfile(task: Task, name: str | None) -> Path | None:
    """The path of a file in the task's workdir; None without a workdir."""
    if task.workdir is None or name is None:
        return None
    task.workdir.mkdir(parents=True, exist_ok=True)
    return task.workdir / name


def install(task: Task, model: QuantizedModel) -> None:
    """Load the decoded weights of a quantized model into the task's network."""
    with torch.no_grad():
        state = task.module.state_dict()
        for name, tensor in model.raw_state.items():
            state[name].copy_(tensor)
    # after the rest, among which a tied weight has a second name and the values of before it was quantized
    task.assign(task.reconstruct(model.groups))


def finished(task: Task, groups: tuple[Group, ...], notes: Mapping[str, str] | None = None) -> QuantizedModel:
    """The quantized model with these groups and, for everything else, the current state of the task's network. notes:
    those of the ``QuantizedModel``."""
    return QuantizedModel(groups, task.raw_state(), notes or {})


def deployed_as(task: Task, groups: tuple[Group, ...], notes: Mapping[str, str] | None = None) -> QuantizedModel:
    """``finished``, after the decoded weights of the groups were loaded into the network."""
    task.assign(task.reconstruct(groups))
    return finished(task, groups, notes)


def deployed_values(task: Task, group: Group, most: int) -> Tensor:
    """(k,) distinct values of a group's decoded kept weights, ascending; if there are more than ``most``, that many
    quantiles of them."""
    deployed = task.reconstruct([group])
    values: Tensor = torch.unique(torch.cat([task.kept(name, deployed[name].detach()) for name in group.names]))
    if values.numel() <= most:
        return values
    return values[torch.linspace(0, values.numel() - 1, most, device=values.device).round().long()]
