"""Second moments of the inputs that a weight multiplies, in the forms of different layers, and the weight as a matrix.

A weight W maps input vectors x to outputs W x, so that a change E of it costs mean |E x|^2 = tr(E H E^T), H = mean
x x^T, row by row. Which entries of a tensor make a row depends on the operation; ``Moments`` says so, and its packed
form (what a sensitivity returns and the cache keeps) is one tensor:

=====================  ==============================================================================================
(G, m, m)              the first axis is the outputs', in G groups of rows; m inputs per row (a linear layer, a
                       convolution). A matrix per group
(1, G, m, m)           the first axis is the inputs', in G groups, then the outputs' of a group, then the kernel's
                       (a transposed convolution, GPT-2's ``Conv1D``, ``x @ W``)
(1, 1, G, m, m)        G weights (m, outputs) side by side (experts: ``torch.bmm(x, W)``)
=====================  ==============================================================================================

With 1 in place of the last but one m, the matrices' diagonals alone: frequencies of an embedding's rows, layers whose
matrix would be too large. All zero: nothing is known of the tensor's use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nqbench.api.errors import BadInput

Layout = Literal[0, 1, 2]
"""The number of leading ones of the packed form."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Second moments of what a tensor multiplies, and the matrix of rows that it is then; see the module's table.

    Args:
        gram: (G, m, m) float32, or (G, 1, m) for diagonals alone.
        layout: how the tensor's axes lie: the number of leading ones of the packed form.

    Example:
        >>> moments = Moments.of(torch.eye(3)[None, None])  # the first axis is the inputs'
        >>> moments.rows(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])).tolist()
        [[1.0, 3.0, 5.0], [2.0, 4.0, 6.0]]
    """

    gram: Tensor
    layout: Layout = 0

    @staticmethod
    def of(packed: Tensor) -> Moments:
        """From the packed form. Raises BadInput for a tensor of another shape."""
        extra = packed.dim() - 3
        good = 0 <= extra <= 2 and packed.shape[:extra].numel() == 1
        if not good or packed.shape[-2] not in (1, packed.shape[-1]):
            raise BadInput(f"second moments of the shape {tuple(packed.shape)}, expected (groups, m, m)")
        return Moments(packed.reshape(packed.shape[extra:]), extra)  # type: ignore[arg-type]

    def packed(self) -> Tensor:
        return self.gram.reshape((1,) * self.layout + self.gram.shape)

    @property
    def diagonal(self) -> bool:
        """Whether no more than the diagonals are known."""
        return self.gram.shape[1] == 1 and self.gram.shape[2] > 1

    def fits(self, shape: torch.Size | tuple[int, ...]) -> bool:
        """Whether these may be the moments of a tensor of that shape."""
        groups, m = len(self.gram), self.gram.shape[2]
        if not shape or not groups * m:
            return False
        rest = torch.Size(shape[1:]).numel()
        if self.layout == 1:
            kernel, odd = divmod(groups * m, shape[0])
            return not odd and shape[0] % groups == 0 and kernel in (1, torch.Size(shape[2:]).numel())
        if self.layout == 2:
            return shape[0] == groups and len(shape) > 2 and shape[1] == m
        return (rest == m and shape[0] % groups == 0) or (shape[0] == groups and torch.Size(shape[2:]).numel() == m)

    def rows(self, tensor: Tensor) -> Tensor:
        """(outputs, m): each row what one output multiplies its inputs with, group after group, for a tensor that
        ``fits``."""
        groups, m = len(self.gram), self.gram.shape[2]
        if self.layout == 0:
            return tensor.reshape(-1, m)
        if self.layout == 2:
            return tensor.reshape(groups, m, -1).transpose(1, 2).reshape(-1, m)
        inputs = tensor.shape[0] // groups
        return tensor.reshape(groups, inputs, -1, m // inputs).transpose(1, 2).reshape(-1, m)

    def tensor(self, rows: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
        """The inverse of ``rows``."""
        groups, m = len(self.gram), self.gram.shape[2]
        if self.layout == 0:
            return rows.reshape(shape)
        if self.layout == 2:
            return rows.reshape(groups, -1, m).transpose(1, 2).reshape(shape)
        inputs = shape[0] // groups
        return rows.reshape(groups, -1, inputs, m // inputs).transpose(1, 2).reshape(shape)
