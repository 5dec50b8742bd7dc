"""The average of networks that were fine-tuned from the same start (model soups, arXiv:2203.05482)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nqbench.api import Task
from nqbench.api.toolkit.optimise import one_thread
from nqbench.api.toolkit.store import Trained
from nqbench_training.batchnorm import reestimate

SAMPLES = 5000
BATCH = 250
"""Number of training samples, the first of the split, for re-estimating batch norms."""


def averaged(task: Task, networks: Sequence[Trained]) -> Trained:
    """The mean of the networks' floating-point state and second moments; other tensors (masks) are those of the first.

    It is loaded into the task's network, and batch norms are re-estimated: the mean of their statistics is not that of
    the averaged network.
    """
    state = {name: _mean([n.state[name] for n in networks]) for name in networks[0].state}
    moments = {name: _mean([n.moments[name] for n in networks]) for name in networks[0].moments}
    own = task.module.state_dict()
    task.module.load_state_dict({name: state[name].to(task.device) for name in own})
    with one_thread():
        reestimate(task, SAMPLES, BATCH)
    return Trained(state | {name: tensor.detach().clone() for name, tensor in own.items()}, moments)


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(tensors)).mean(0) if tensors[0].is_floating_point() else tensors[0]
