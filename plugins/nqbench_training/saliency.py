"""The increase of the loss when a weight is removed, by Kronecker factors of the Gauss-Newton matrix.

For one layer the matrix is approximated by the Kronecker product of G and H: H = E[x x^T] over its input vectors, and G
the mean over samples of the squared gradients of its outputs, of which only the diagonal is kept (arXiv:1503.05671;
arXiv:1602.01407 for convolutions). Weights of different outputs o then do not interact, and by optimal brain surgeon
the cost of removing weight j of output o, with the others of its row adjusted to compensate, is

    w_oj^2 G_o / (2 [H_o^-1]_jj),        H_o: the rows and columns of H for the row's kept weights

(Hassibi and Stork 1993, equation 5; arXiv:2208.11580, section 3, with G = I). Costs of all layers are in the unit of
the loss, so that one threshold can be used for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nqbench.api import Network
from nqbench.api.modules import evaluating
from nqbench.api.toolkit.curvature import output_factor
from nqbench.api.toolkit.persample import Tape
from nqbench.api.toolkit.samples import first_samples

_MOST_WORK = 4e11  # most multiplications for inverses per row, per tensor: about half a minute on one core
_CHUNK_ENTRIES = 1 << 23


def output_curvature(task: Network, names: Sequence[str], samples: int) -> dict[str, Tensor]:
    """name -> (O,) float64: the diagonal of G for the layer that owns the parameter, summed over positions, averaged
    over samples, exact over classes."""
    total = {name: torch.zeros(len(task.parameter(name)), dtype=torch.float64, device=task.device) for name in names}
    seen = 0
    with evaluating(task.module), Tape(task.module, names) as tape:
        for batch, size in first_samples(task, samples):
            outputs = task.predict(batch)
            for factor in output_factor(task, outputs):
                for name, rows in tape.output_gradients(outputs, factor).items():
                    total[name] += sum(g.double().square().sum((0, 2)) for g in rows)
            tape.forget()
            seen += size
    return {name: value / seen for name, value in total.items()}


def removal_costs(weight: Tensor, mask: Tensor, h: Tensor, g: Tensor) -> Tensor:
    """The cost of removing each kept weight; 0 for weights that are pruned already.

    weight, mask: (O, ...); h: (G, m, m) float64 positive definite; g: (O,). Returns (O, ...) float64.
    """
    groups, m = h.shape[:2]
    rows = weight.detach().double().reshape(groups, -1, m)
    kept = mask.reshape(rows.shape)
    spread = torch.stack([_inverse_diagonals(h[i], kept[i]) for i in range(groups)])
    costs = rows.square() * g.reshape(groups, -1, 1) / (2 * spread)
    return torch.where(kept, costs, 0.0).reshape(weight.shape)


def _inverse_diagonals(h: Tensor, kept: Tensor) -> Tensor:
    """(R, m): the diagonal of the inverse of h restricted to each row's kept weights; undefined for the others.

    Rows without pruned weights share one inverse, and so do all rows if an inverse per row would cost too much. h: (m,
    m) positive definite; kept: (R, m) bool.
    """
    found: Tensor = torch.linalg.inv(h).diagonal().expand(kept.shape).clone()
    counts = kept.sum(1)
    if float((counts.double() ** 3).sum()) > _MOST_WORK:
        return found
    ranked = torch.argsort(counts, descending=True, stable=True)
    ranked = ranked[(counts[ranked] < len(h)) & (counts[ranked] > 0)]
    while ranked.numel():
        # rows of similar length in one batch, shorter ones padded with the identity
        longest = int(counts[ranked[0]])
        chunk = max(1, _CHUNK_ENTRIES // longest**2)
        rows, ranked = ranked[:chunk], ranked[chunk:]
        columns = torch.argsort(~kept[rows], dim=1, stable=True)[:, :longest]
        real = torch.arange(longest, device=h.device) < counts[rows][:, None]
        eye = torch.eye(longest, dtype=h.dtype, device=h.device)
        own = torch.where(real[:, :, None] & real[:, None, :], h[columns[:, :, None], columns[:, None, :]], eye)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(own)).diagonal(dim1=1, dim2=2)
        places = (rows[:, None].expand_as(columns)[real], columns[real])
        found[places] = inverse[real]
    return found


def cheapest_removed(costs: Mapping[str, Tensor], masks: Mapping[str, Tensor], keep: int) -> dict[str, Tensor]:
    """Masks that keep, of the weights kept so far in all tensors, the ``keep`` whose removal costs most."""
    flat = torch.cat([torch.where(masks[name], costs[name], -1.0).reshape(-1) for name in costs])
    chosen = torch.zeros(len(flat), dtype=torch.bool, device=flat.device)
    chosen[torch.argsort(flat, descending=True, stable=True)[:keep]] = True
    parts = torch.split(chosen, [c.numel() for c in costs.values()])
    return {name: part.reshape(c.shape) for (name, c), part in zip(costs.items(), parts, strict=True)}
