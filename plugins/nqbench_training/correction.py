"""Weights with which a layer that follows quantized layers best reproduces its outputs in the real-valued network.

In the trained network a row w computes w x; after quantized layers its inputs are x' instead of x. The row that best
reproduces the old outputs is w' = argmin E (w x - w' x')^2 + damping |w' - w|^2, that is

    w' = w + w E[(x - x') x'^T] (E[x' x'^T] + damping I)^-1,

and the layer's quantization should approximate w' instead of w (arXiv:2504.02692 derives the same for GPTQ). Because of
the damping, the trained weights are kept in directions about which the samples contain little information.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nqbench.api import Moments

_ITERATIONS = 200
_TOLERANCE = 1e-5


def corrected(
    weight: Tensor,
    moments: Tensor,
    missing: Tensor | None,
    damping: float,
    mask: Tensor | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """w' for a layer's weight, 0 where it is pruned: argmin E (w x - w' x')^2 + ridge |w' - start|^2.

    weight: (O, ...), the weights of the outputs to be reproduced; moments: (G, m, m) E[x' x'^T]; missing: (O, m) E[w (x
    - x') x'^T], None for 0; damping: ridge as a share of the moments' mean diagonal; mask: of weight's shape, True
    where kept; start: of weight's shape, pruned entries count as 0, default ``weight``. If all inputs are 0, the kept
    weights stay as they are.
    """
    groups, m = moments.shape[:2]
    h = moments.double()
    rows = weight.detach().double().reshape(groups, -1, m)
    kept = None if mask is None else mask.reshape(rows.shape)
    begin = rows if start is None else start.detach().double().reshape(rows.shape)
    begin = begin if kept is None else begin * kept
    wanted = (rows - begin) @ h
    if missing is not None:
        wanted = wanted + missing.double().reshape(rows.shape)
    if kept is None:
        moved = torch.cholesky_solve(wanted.mT, torch.linalg.cholesky(damped(h, damping))).mT
    else:
        moved = conjugate_gradients(damped(h, damping), wanted, kept)
    return (begin + moved).reshape(weight.shape).to(weight.dtype)


def moved_towards(
    weight: Tensor, moments: Moments, missing: Tensor, damping: float, share: float, mask: Tensor | None = None
) -> Tensor:
    """A weight of any layout, moved by a share of the way towards its ``corrected`` rows. missing: laid out as
    ``moments.rows``."""
    rows = moments.rows(weight)
    kept = None if mask is None else moments.rows(mask)
    nearest = corrected(rows, moments.gram, missing, damping, kept)
    return moments.tensor(torch.lerp(rows, nearest, share), weight.shape)


def damped(h: Tensor, damping: float) -> Tensor:
    """(G, m, m) float64: H + damping * mean diagonal * I; the identity is added to a matrix of zeros."""
    h = h.double()
    mean = h.diagonal(dim1=1, dim2=2).mean(1)
    ridge = torch.where(mean > 0, max(damping, 1e-6) * mean, 1.0)
    return h + ridge[:, None, None] * torch.eye(h.shape[1], dtype=h.dtype, device=h.device)


def conjugate_gradients(h: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """X, 0 outside the mask, with X h = wanted inside it: each row is a linear system, and all are solved at once.

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
