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

Outputs need not matter alike: with weights g the cost is sum_r g_r e_r H e_r^T over rows r, the second factor of a
Kronecker-factored Fisher matrix [K-FAC, 1503.05671] reduced to its diagonal. The weights of a group's R outputs follow
its matrix as ceil(R / m) more rows, (G, m + ceil(R / m), m), filled up with zeros.
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
        outputs: (outputs,) or longer, float32, at least 0: the weights of the outputs, group after group, of mean 1;
            only beside whole matrices. None: all are 1.

    Example:
        >>> moments = Moments.of(torch.eye(3)[None, None])  # the first axis is the inputs'
        >>> moments.rows(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])).tolist()
        [[1.0, 3.0, 5.0], [2.0, 4.0, 6.0]]
    """

    gram: Tensor
    layout: Layout = 0
    outputs: Tensor | None = None

    @staticmethod
    def of(packed: Tensor) -> Moments:
        """From the packed form. Raises BadInput for a tensor of another shape."""
        extra = packed.dim() - 3
        good = 0 <= extra <= 2 and packed.shape[:extra].numel() == 1
        if not good or 1 < packed.shape[-2] < packed.shape[-1]:
            raise BadInput(f"second moments of the shape {tuple(packed.shape)}, expected (groups, m, m)")
        whole = packed.reshape(packed.shape[extra:])
        m = whole.shape[2]
        if whole.shape[1] <= m:
            return Moments(whole, extra)  # type: ignore[arg-type]
        return Moments(whole[:, :m], extra, whole[:, m:].reshape(-1))  # type: ignore[arg-type]

    @staticmethod
    def of_tensor(packed: Tensor, name: str, shape: torch.Size | tuple[int, ...]) -> Moments:
        """From the packed form, for a tensor of that name and shape. Raises BadInput where they do not fit it or are
        not finite; nothing is asked of those of a tensor without weights."""
        moments, shape = Moments.of(packed), tuple(shape)
        if 0 in shape:
            return moments
        if not moments.fits(shape):
            raise BadInput(f"second moments of the shape {tuple(packed.shape)} do not fit {name} {shape}")
        if not bool(torch.isfinite(packed).all()):
            raise BadInput(f"the second moments of {name} are not finite")
        return moments

    def packed(self) -> Tensor:
        whole = self.gram
        if self.outputs is not None:
            groups, _, m = whole.shape
            each = self.outputs.to(whole).reshape(groups, -1)
            more = torch.nn.functional.pad(each, (0, -each.shape[1] % m)).reshape(groups, -1, m)
            whole = torch.cat([whole, more], 1)
        return whole.reshape((1,) * self.layout + whole.shape)

    def weights_of(self, outputs: int) -> Tensor | None:
        """(outputs,): the weight of each row of ``rows``; None: all are 1. Raises BadInput for too few."""
        if self.outputs is None:
            return None
        each = self.outputs.reshape(len(self.gram), -1)
        wanted = outputs // len(self.gram)
        if each.shape[1] < wanted:
            raise BadInput(f"second moments with weights of {each.numel()} outputs, expected {outputs}")
        return each[:, :wanted].reshape(-1)

    @property
    def diagonal(self) -> bool:
        """Whether no more than the diagonals are known."""
        return self.gram.shape[1] == 1 and self.gram.shape[2] > 1

    def fits(self, shape: torch.Size | tuple[int, ...]) -> bool:
        """Whether these may be the moments of a tensor of that shape."""
        groups, m = len(self.gram), self.gram.shape[2]
        if not groups * m:
            return False
        if not shape:
            return groups == m == 1 and not self.layout
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
