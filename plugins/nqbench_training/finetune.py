"""Fine-tuning of codebooks, scales and steps by gradients averaged over members (arXiv:1612.01543, 1802.02271).

c_kj <- c_kj - eta * mean_{i in I_kj} dL/dw_i, I_kj the weights whose value is element j of codeword k. For any other
parameter theta_e (a scale, a step) the mean is replaced by sum_i dL/dw_i dw_i/dtheta_e / sum_i (dw_i/dtheta_e)^2, which
is the mean for codewords, as dw_i/dc_kj = 1. Where a weight depends on several entries of one parameter (the codebooks
of ``rvq`` are summed, the steps of low-rank factors multiplied) dw_i/dtheta_e is that of all of them together, so that
each moves that much slower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from nqbench.api import Batch, Former, Group, QuantizedModel, Quantizer, Task, Training, begin, deployed
from nqbench.api.modules import evaluating
from nqbench.api.toolkit.optimise import fit
from nqbench_training.optimised import Distilled, install, workfile


class FineTune(Distilled, Training, name="finetune", paper="arXiv:1612.01543, section 3.6; arXiv:1802.02271, III-C"):
    """Trains codebooks, scales and steps to lower the loss; symbols, masks and dither stay as they are.

    Batch norm is in evaluation mode. A quantizer whose values are all fixed by definition has no parameters to train.
    """

    former_fields = {"others": Former("unquantized")}

    lr: float = Field(0.1, gt=0)
    """Learning rate. Averaged gradients are small: 0.1 to 10 with ``sgd``, 1e-4 to 1e-3 with ``adam``."""
    momentum: float = Field(0.0, ge=0, lt=1)
    """SGD's momentum; the papers use none."""
    unquantized: bool = False
    """Whether the unquantized parameters (biases, batch-norm weights) are trained too."""

    def train(self, task: Task, start: QuantizedModel | None) -> QuantizedModel:
        start = begin(task, start)
        install(task, start)
        learned = Movable(_quantizer(task), start.groups)
        moved = dict(learned.moved)
        if self.unquantized:
            moved |= {k: p for k, p in task.module.named_parameters() if k not in task.names and p.requires_grad}
        if not moved:
            return start
        teacher = self.teacher(task)

        def loss(batch: Batch) -> Tensor:
            outputs = task.predict(batch, tensors=task.reconstruct(start.groups, learned.leaves))
            return self.loss(task, batch, outputs, teacher)

        recipe = self.recipe(task.seed)
        with evaluating(task.module):
            fit(
                recipe,
                moved,
                lambda seed: task.batches("train", batch_size=recipe.batch_size, shuffle=seed),
                loss,
                before_step=learned.average,
                after_step=learned.settle,
                checkpoint=workfile(task, "finetune.safetensors"),
                second_moments=False,
            )
        return QuantizedModel(learned.groups(), task.raw_state(), start.notes)


class Movable:
    """The trainable parameters of groups as leaf tensors, and the averaging of their gradients over members.

    leaves: one mapping per group, for ``Task.reconstruct``. moved: the leaves on which some weight depends.
    """

    def __init__(self, quantizer: Quantizer, groups: Sequence[Group]) -> None:
        self.start = tuple(groups)
        self.leaves = [
            {k: v.detach().clone().requires_grad_() for k, v in group.quantized.parameters.items()} for group in groups
        ]
        self.moved: dict[str, Tensor] = {}
        self._factors: list[tuple[Tensor, Tensor]] = []
        for index, (group, own) in enumerate(zip(groups, self.leaves, strict=True)):
            for name, leaf in own.items():
                factor = members(quantizer, group, name)
                if bool((factor != 0).any()):
                    self.moved[f"{index}/{name}"] = leaf
                    self._factors.append((leaf, factor))

    def average(self) -> None:
        """Average the gradients; called between the backward pass and the update."""
        for leaf, factor in self._factors:
            if leaf.grad is not None:
                leaf.grad.mul_(factor)

    def settle(self) -> None:
        """After a step: neither a gradient nor a decay moves what is held."""
        for group, own in zip(self.start, self.leaves, strict=True):
            for name, held in group.quantized.held.items():
                if name in own:
                    first = group.quantized.parameters[name].detach()
                    own[name].data.copy_(torch.where(held, first, own[name].data))

    def groups(self) -> tuple[Group, ...]:
        """The groups with the current values of the leaves."""
        return tuple(
            Group(g.names, replace(g.quantized, parameters={k: v.detach() for k, v in own.items()}))
            for g, own in zip(self.start, self.leaves, strict=True)
        )


def _quantizer(task: Task) -> Quantizer:
    assert task.quantizer is not None  # ``install`` needs it, too
    return task.quantizer


def members(quantizer: Quantizer, group: Group, name: str) -> Tensor:
    """The factor for the summed gradient of a parameter: 1 / sum_i (dw_i/dtheta_e)^2 for each entry e, which for an
    element of a codeword is 1 / its number of members; 0 for an entry that is held or has no members.

    Each weight depends on one entry of a parameter, so dw_i/dtheta_{e(i)} is the product of the Jacobian with ones.
    """
    q = group.quantized
    theta = q.parameters[name].detach()

    def deploy(value: Tensor) -> Tensor:
        return deployed(quantizer, q, {**q.parameters, name: value})

    with torch.enable_grad():
        at = theta.clone().requires_grad_()
        if not deploy(at).requires_grad:  # no weight depends on it
            return torch.zeros_like(theta)
        slopes: Tensor = torch.autograd.functional.jvp(deploy, at, torch.ones_like(at))[1]  # type: ignore[no-untyped-call]
        (squares,) = torch.autograd.grad(deploy(at), at, slopes.detach(), allow_unused=True)
    if squares is None:
        return torch.zeros_like(theta)
    factor = torch.where(squares > 0, 1 / squares.clamp(min=torch.finfo(squares.dtype).tiny), 0.0)
    held = q.held.get(name)
    return factor if held is None else factor.masked_fill(held, 0.0)
