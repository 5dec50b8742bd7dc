"""Holding pruned weights at zero while the others train."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nqbench.api import Task


def hold(task: Task, masks: Mapping[str, Tensor]) -> None:
    """Set pruned weights to exactly 0."""
    if masks:
        with torch.no_grad():
            torch._foreach_mul_([task.parameter(name) for name in masks], list(masks.values()))


def mask_gradients(task: Task, masks: Mapping[str, Tensor]) -> None:
    """Clear the gradients of pruned weights, so that momentum never pushes them."""
    known = [(task.parameter(name).grad, mask) for name, mask in masks.items()]
    held = [(gradient, mask) for gradient, mask in known if gradient is not None]
    if held:
        torch._foreach_mul_([gradient for gradient, _ in held], [mask for _, mask in held])
