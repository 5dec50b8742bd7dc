"""Layer by layer, in forward order, each seen through the layers that are quantized already."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nqbench.api import QuantizedModel, Task, Training
from nqbench.api.toolkit.curvature import evaluating, first_samples
from nqbench_training.optimised import finished, install


class Sequential(Training, name="sequential", paper="arXiv:2208.11580, section 5; the order of OBQ and GPTQ"):
    """Quantizes one tensor, puts it into the network, senses again, and goes on with the next.

    It goes layer by layer whatever the scope: one result for all tensors together cannot be had one tensor at a time.
    What an earlier training returned is quantized anew.
    """

    def train(self, task: Task, start: QuantizedModel | None) -> QuantizedModel:
        if start is not None:
            install(task, start)
        done = {}
        for name in forward_order(task):
            sensed = task.sense([name])
            (group,) = task.quantize(names=[name], sensed=sensed)
            task.assign(task.reconstruct([group]))
            done[name] = group
        return finished(task, tuple(done[name] for name in task.names))


def forward_order(task: Task) -> list[str]:
    """The tensors in the order in which a forward pass first uses their layers; unused ones last."""
    used: dict[nn.Module, int] = {}

    def note(layer: nn.Module, _: tuple[Any, ...], __: Tensor) -> None:
        used.setdefault(layer, len(used))

    owners = {name: task.layer(name) for name in task.names}
    handles = [layer.register_forward_hook(note) for layer in {id(v): v for v in owners.values()}.values()]
    try:
        with evaluating(task.module), torch.no_grad():
            for batch, _ in first_samples(task, 2):
                task.predict(batch)
    finally:
        for handle in handles:
            handle.remove()
    return sorted(task.names, key=lambda name: used.get(owners[name], len(owners)))
