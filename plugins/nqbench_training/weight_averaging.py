"""The average of networks that were fine-tuned from one and the same start (model soups, arXiv:2203.05482)."""

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
"""Training samples, the first in stored order, that batch norms are re-estimated on."""


def averaged(task: Task, networks: Sequence[Trained]) -> Trained:
    """The mean of their floating-point state and second moments; what is not a float (masks) is the first's.

    The task's network becomes it. Batch norms are re-estimated, since a mean of statistics is not those of the mean.
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
