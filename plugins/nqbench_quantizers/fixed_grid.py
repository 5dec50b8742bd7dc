"""Error feedback at a fixed number of bits: levels of the grids of ``rtn``, chosen column by column in the weights'
unit.

The grids of all groups are computed from the original weights before the first column is quantized (``static_groups``
in GPTQ's code), so that a group consists of the same columns in any order (``act_order``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from nqbench.api import Quantized, Source
from nqbench.api.formula import entries_of
from nqbench.api.structure import Structure
from nqbench_quantizers.feedback import Rows
from nqbench_quantizers.rtn import RTN


@dataclass(frozen=True, eq=False)
class Grid:
    """One tensor's grid. scale, zero: (O, m) float64, per weight; lowest, highest: the range of the levels, before the
    zero point is subtracted."""

    scale: Tensor
    zero: Tensor
    lowest: int
    highest: int
    arranged: dict[int, tuple[Tensor, Tensor, Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def levels(self, values: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        """Nearest levels minus the zero point: integers, 0 where the scale is 0."""
        ratio = torch.where(scale > 0, values / torch.where(scale > 0, scale, 1.0), 0.0)
        return torch.round(ratio).clamp(self.lowest - zero, self.highest - zero)

    def choose(self, rows: Rows, j: int, target: Tensor, gain: Tensor) -> Tensor:
        """``feedback.Choose`` in the weights' unit; 0 for a dead input."""
        scale, divisor, low, high = self._arranged(rows)
        level = torch.round(target / divisor[:, j]).clamp_(low[:, j], high[:, j])
        return torch.where(gain > 0, level.mul_(scale[:, j]), 0.0)

    def _arranged(self, rows: Rows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, m, R) scales, divisors (the scales, with inf in place of 0), lowest and highest levels of a form's
        columns, in their order; gathered once instead of per column."""
        if id(rows) not in self.arranged:
            # a padded column has the weight 0, whatever its scale
            columns = rows.columns[:, :, None].clamp(max=self.scale.shape[1] - 1)
            at = rows.rows[:, None, :], columns
            scale, zero = self.scale[at], self.zero[at]
            divisor = torch.where(scale > 0, scale, torch.inf)
            self.arranged.clear()
            self.arranged[id(rows)] = scale, divisor, self.lowest - zero, self.highest - zero
        return self.arranged[id(rows)]


def grids_of(plain: RTN, source: Source) -> tuple[Quantized, list[Grid]]:
    """The result of rounding to nearest, whose scales are kept, and each tensor's grid."""
    q = plain.quantize(source)
    structure = q.structure
    assert structure is not None
    scales = _dense(q, structure, "step")
    zeros = _dense(q, structure, "zero") if "zero" in structure.arrays else [torch.zeros_like(s) for s in scales]
    lowest = int(q.side["offset"])
    return q, [Grid(s, z, lowest, lowest + q.alphabet - 1) for s, z in zip(scales, zeros, strict=True)]


def with_levels(q: Quantized, grids: Sequence[Grid], values: Sequence[Tensor], source: Source) -> Quantized:
    """The result with the same scales and other levels. values: (O, m) per tensor, points of its grid."""
    parts = []
    for grid, value, tensor in zip(grids, values, source.tensors, strict=True):
        level = (grid.levels(value, grid.scale, grid.zero) + grid.zero - grid.lowest).to(torch.int32)
        parts.append(level.reshape(-1) if tensor.mask is None else level[tensor.mask.reshape(level.shape)])
    return replace(q, symbols=torch.cat(parts))


def _dense(q: Quantized, structure: Structure, name: str) -> list[Tensor]:
    """(O, m) float64 per tensor: the array's entry for each weight."""
    per, found = structure.arrays[name].per, []
    for entries, shape in zip(entries_of(q, structure, name), structure.shapes, strict=True):
        rows = shape[0] if shape else 1
        dense = per.spread(entries, shape) if entries.numel() else entries
        found.append(dense.double().reshape(rows, -1) if dense.numel() else dense.double().reshape(rows, 0))
    return found
