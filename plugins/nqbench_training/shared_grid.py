"""Merging results on the same grid: one step, one alphabet and one stream in the file."""

from __future__ import annotations

from dataclasses import replace

import torch

from nqbench.api import Group, Quantized
from nqbench.api.quantized import GRIDS


def merged(groups: tuple[Group, ...]) -> tuple[Group, ...]:
    """One group for all tensors if all results are on the same grid, so that the file has one step and one alphabet.

    Groups without kept weights, of any form, are merged, too.
    """
    filled = [group.quantized for group in groups if group.quantized.n]
    if not filled or len({_grid(q) for q in filled}) > 1 or _grid(filled[0]) is None:
        return groups
    offsets = [float(q.side["offset"]) for q in filled]
    low, high = min(offsets), max(at + q.alphabet for at, q in zip(offsets, filled, strict=True))
    shifted = [q.symbols + round(at - low) for at, q in zip(offsets, filled, strict=True)]
    weights = sum(q.n for q in filled)
    figures = {
        key: sum(q.statistics[key] * q.n for q in filled) / weights
        for key in filled[0].statistics
        if all(key in q.statistics for q in filled)
    }
    whole = replace(
        filled[0],
        symbols=torch.cat(shifted),
        alphabet=round(high - low),
        sizes=tuple(size for group in groups for size in group.quantized.sizes),
        side={**filled[0].side, "offset": low if low % 1 else round(low)},
        statistics=figures,
    )
    return (Group(tuple(name for group in groups for name in group.names), whole),)


def _grid(q: Quantized) -> tuple[object, ...] | None:
    """Form, step, position of zero in its cell, and seed of a grid whose only parameter is one step; None for any other
    result."""
    step = q.parameters.get("step")
    plain = not set(q.side) - {"offset", "seed"} and len(q.parameters) == 1 and not q.held
    if q.form not in GRIDS or q.structure is not None or step is None or step.numel() != 1 or not plain:
        return None
    return q.form, float(step), float(q.side["offset"]) % 1, q.side.get("seed")
