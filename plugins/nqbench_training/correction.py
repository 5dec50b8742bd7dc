"""Weights for which a layer behind quantized ones comes nearest to its outputs in the real-valued network.

A row w gave w x in the network as trained; behind quantized layers its inputs are x', not x. The row nearest to the old
outputs is w' = argmin E (w x - w' x')^2 + damping |w' - w|^2, that is

    w' = w + w E[(x - x') x'^T] (E[x' x'^T] + damping I)^-1,

and it is w', not w, that the layer's quantization should aim at (arXiv:2504.02692 derives the same for GPTQ). Damped,
directions in which the samples say little keep the trained weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ITERATIONS = 200
_TOLERANCE = 1e-5


def corrected(weight: Tensor, moments: Tensor, shift: Tensor, damping: float, mask: Tensor | None = None) -> Tensor:
    """w' of a layer's weight, pruned places left 0. weight: (O, ...); moments: (G, m, m) E[x' x'^T]; shift: (G, m, m)
    E[(x - x') x'^T]; damping: a share of the moments' mean diagonal. Without inputs the weight stays as it is."""
    groups, m = moments.shape[:2]
    h = moments.double()
    mean = h.diagonal(dim1=1, dim2=2).mean(1)
    ridge = torch.where(mean > 0, max(damping, 1e-6) * mean, 1.0)
    h = h + ridge[:, None, None] * torch.eye(m, dtype=h.dtype, device=h.device)
    rows = weight.detach().double().reshape(groups, -1, m)
    wanted = rows @ shift.double()
    if mask is None:
        moved = torch.cholesky_solve(wanted.mT, torch.linalg.cholesky(h)).mT
    else:
        moved = conjugate_gradients(h, wanted, mask.reshape(rows.shape))
    return (rows + moved).reshape(weight.shape).to(weight.dtype)


def conjugate_gradients(h: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """X, 0 outside the mask, with X h = wanted inside it: every row a system of its own, all solved at once.

    h: (G, m, m) positive definite; wanted: (G, R, m); mask: (G, R, m) bool.
    """
    solution = torch.zeros_like(wanted)
    residual = wanted * mask
    direction = residual
    power = residual.square().sum(2, keepdim=True)
    enough = _TOLERANCE**2 * power
    for _ in range(_ITERATIONS):
        if bool((power <= enough).all()):
            break
        image = (direction @ h) * mask
        length = (direction * image).sum(2, keepdim=True)
        rate = torch.where(length > 0, power / torch.where(length > 0, length, 1.0), 0.0)
        solution = solution + rate * direction
        residual = residual - rate * image
        new = residual.square().sum(2, keepdim=True)
        direction = residual + torch.where(power > 0, new / torch.where(power > 0, power, 1.0), 0.0) * direction
        power = new
    return solution
