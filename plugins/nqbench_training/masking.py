"""Holding pruned weights at zero while the others train."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nqbench.api import Task


def hold(task: Task, masks: Mapping[str, Tensor]) -> None:
    """Set pruned weights to exactly 0."""
    with torch.no_grad():
        for name, mask in masks.items():
            task.parameter(name).mul_(mask)


def mask_gradients(task: Task, masks: Mapping[str, Tensor]) -> None:
    """Clear the gradients of pruned weights, so that momentum never pushes them."""
    for name, mask in masks.items():
        gradient = task.parameter(name).grad
        if gradient is not None:
            gradient.mul_(mask)
