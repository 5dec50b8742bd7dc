"""Dependent quantization: which points a weight may take depends on the weights before it in its row.

A trellis of 8 states goes through a row (the places of one entry of the tensor's first dimension, row-major), from
state 0 on. States with an even number allow the even levels of a grid, those with an odd number the odd ones and 0:
level u = 2 k and u = 2 k - sgn(k). The parity of the index k chooses the next state. A choice among few points, as
cheap to code as those of a grid twice as coarse, then has nearly the errors of the fine one (trellis-coded
quantization, Marcellin and Fischer 1990, doi:10.1109/26.46532; the states and transitions of ISO/IEC 15938-17).
A pruned weight has k = 0, and takes part in this.

Quantizers that choose so hand out levels of the fine grid, as any uniform quantizer does; a coder may find out, since
hardly any other levels follow the trellis, and code the indices instead.
"""

from __future__ import annotations

import numpy as np

STATES = 8
NEXT = np.array([[0, 2], [7, 5], [1, 3], [6, 4], [2, 0], [5, 7], [3, 1], [4, 6]], dtype=np.int64)
"""(state, parity of k) -> the state at the next place."""


def walk(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """(rows, places) whole numbers -> (rows, places) int64 indices k, and bool: the states are odd; None where a level
    is not one of its state's."""
    levels = np.asarray(levels).astype(np.int64)
    state = np.zeros(len(levels), dtype=np.int64)
    indices, odd = np.empty_like(levels), np.empty(levels.shape, dtype=np.bool_)
    for j in range(levels.shape[1]):
        u = levels[:, j]
        odd[:, j] = state & 1
        wrong = (u & 1 == 1) != odd[:, j]
        if bool((wrong & (u != 0)).any()):
            return None
        indices[:, j] = (u + np.sign(u) * (u & 1)) // 2
        state = NEXT[state, indices[:, j] & 1]
    return indices, odd
