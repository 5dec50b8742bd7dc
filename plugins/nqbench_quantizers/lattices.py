"""Points of E8, D4 and Z after a Hadamard transform, entropy-coded [QuIP#, 2402.04396; Conway and Sloane 1982, 1999].

A row's weights are rotated (``nqbench.api.hadamard``), which makes them nearly Gaussian, divided by a scale (``step``
times their root mean square, one per tensor or channel) and cut into vectors of d, d = 8 or 4: each vector is mapped to
the nearest point of the lattice. The second moment per weight of a cell of volume 1 is 0.0717 for E8 and 0.0766 for D4,
against 1/12 = 0.0833 for the integers: at equal rate, 0.65 and 0.37 dB less error; at equal error, 0.11 and 0.06 bits
per weight less.

Nearest points: for D_n, all coordinates are rounded and, if their sum is odd, the one with the largest error is rounded
the other way; E8 is the union of D8 and D8 + (1/2, ..., 1/2), of whose two nearest points the nearer one is taken
[Conway and Sloane 1982, sections 4 and 5].

The points are numbered by their norm, up to 2^16 of them (a table of ``nqbench.api.tables``, which takes no bytes in
the file): up to 2 bits per weight for E8 and 4 for D4, before entropy coding. A vector whose lattice point is not among
them is mapped to the nearest one that is. ``zn``, the integers, is a plain grid with an entropy code, the reference for
the others: its symbols are the coordinates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import ConfigDict, Field, field_validator, model_validator
from torch import Tensor

from nqbench.api import BadInput, Knob, Quantized, Quantizer, Source, scalar
from nqbench.api.hadamard import MOST, rotate
from nqbench.api.tables import MOST_POINTS, table_of
from nqbench.api.toolkit.blocks import Blocks, Entries, per_of
from nqbench_quantizers.row_vectors import row_vectors

_FEW = 0.2  # largest share of vectors outside the table that is accepted
_AT_ONCE = 1 << 24


class _Rotated(Quantizer):
    """A lattice applied after a Hadamard transform."""

    d: ClassVar[int]
    rule: ClassVar[str]
    scale_name: ClassVar[str] = "scale"

    step: float = Field(1.0, gt=0)
    """Scale of the lattice, as a multiple of the root mean square of the rotated weights."""
    granularity: Literal["global", "layer", "channel"] = "layer"
    """Which weights share a scale: those of all tensors (``global``), of a tensor (``layer``), or of an output
    channel."""
    block: int = Field(256, ge=0)
    """Size of the Hadamard transform, a power of two; 0: no transform."""

    tile: int = Field(0, ge=0)
    """Number of rows that are transformed together, a power of two; 0: each row separately. Needs ``block``."""

    @model_validator(mode="after")
    def _tiles(self) -> _Rotated:
        if self.tile and not self.block:
            raise ValueError("tile needs a transform along the rows: give block, too")
        return self

    @field_validator("block", "tile")
    @classmethod
    def _power(cls, block: int) -> int:
        if block & (block - 1) or block == 1 or block > MOST:
            raise ValueError(f"a power of two from 2 to {MOST} is needed, or 0")
        return block

    def uses_seed(self) -> bool:
        return self.block > 0

    def dimension(self) -> int:
        return self.d

    def knob(self, source: Source) -> Knob:
        return Knob("step", self._finest, 8.0, "log", more_bytes="down")

    @property
    def _finest(self) -> float:
        return {1: 0.01, 4: 0.4, 8: 1.75}[self.d]

    def quantize(self, source: Source) -> Quantized:
        if bool((source.weights == source.weights[0]).all()):
            # one value needs no lattice, and no lattice represents it exactly
            return Quantized.nearest(source, source.weights[:1])
        blocks = Blocks(source, per_of(self.granularity, 1))
        rotated = self._rotated(source)
        kept = [m.sum(1) for m in blocks.matrices(torch.ones_like(rotated))]
        squares = [m.square().sum(1) for m in blocks.matrices(rotated)]
        scale = torch.cat([self.step * (s / n.clamp(min=1)).sqrt() for s, n in zip(squares, kept, strict=True)])
        entries = Entries.floats(self.scale_name, scale, blocks, torch.float16)
        units = torch.nan_to_num(rotated / blocks.each(entries.values), nan=0.0, posinf=0.0, neginf=0.0)
        seed = source.seed if self.block else 0
        return self._result(source, blocks, entries, units, {"hadamard": self.block, "seed": seed, "tile": self.tile})

    def _result(
        self, source: Source, blocks: Blocks, scale: Entries, units: Tensor, transform: Mapping[str, int]
    ) -> Quantized:
        """units: (n,) the rotated weights divided by their scales."""
        symbols, count = self._numbered(row_vectors(source.tensors, units, self.d)[0])
        structure = blocks.structure(scale, dimension=self.d, table=self.rule, **transform)
        return Quantized(
            symbols, count, source.sizes, dict(scale.parameters), dict(scale.side), structure=structure
        )  # fmt: skip

    def _rotated(self, source: Source) -> Tensor:
        if not self.block:
            return source.weights
        placed = Blocks(source, per_of("layer", 1)).structure().tensors
        parts = torch.split(source.weights, list(source.sizes))
        return torch.cat(
            [
                rotate(part, t.lengths(), self.block, source.seed, self.tile)
                for part, t in zip(parts, placed, strict=True)
            ]
        )

    def _numbered(self, vectors: Tensor) -> tuple[Tensor, int]:
        """(vectors,) int32 numbers of the nearest points, and the number of points in the table."""
        points = self.nearest(vectors)
        table = table_of(self.rule, MOST_POINTS, self.d)
        keys, order = _keys(table), np.argsort(_keys(table), kind="stable")
        wanted = _keys(points.cpu().numpy())
        found = order[np.searchsorted(keys, wanted, sorter=order).clip(max=len(order) - 1)]
        number = torch.from_numpy(found).to(vectors.device)
        beyond = torch.from_numpy(keys[found] != wanted).to(vectors.device)
        if float(beyond.float().mean()) > _FEW:
            raise BadInput(f"more than {_FEW:.0%} of the vectors lie beyond 2^16 points: take a larger step")
        if bool(beyond.any()):
            number[beyond] = _nearest_of(torch.from_numpy(table.copy()).to(vectors.device), vectors[beyond])
        return number.to(torch.int32), int(number.max()) + 1

    @staticmethod
    def nearest(x: Tensor) -> Tensor:
        """(n, d) nearest points of the lattice."""
        raise NotImplementedError


class Zn(_Rotated, name="zn", paper="Gish and Pierce 1968; arXiv:2402.04396"):
    """A uniform grid after a Hadamard transform."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{}, {"step": 0.3, "block": 8, "tile": 4, "granularity": "channel"}]}
    )
    d, rule, scale_name = 1, "", "step"

    step: float = Field(0.5, gt=0)
    """Step of the grid, as a multiple of the root mean square of the rotated weights."""

    def _result(
        self, source: Source, blocks: Blocks, scale: Entries, units: Tensor, transform: Mapping[str, int]
    ) -> Quantized:
        levels = torch.round(units)
        low, high = (int(edge) for edge in levels.aminmax())
        scalar.check_alphabet(high - low + 1, "take a larger step")
        return Quantized(
            (levels - low).to(torch.int32), high - low + 1, source.sizes, dict(scale.parameters),
            {"offset": low, **scale.side}, "grid", structure=blocks.structure(scale, **transform),
        )  # fmt: skip


class D4(_Rotated, name="d4", paper="Conway and Sloane 1982; arXiv:2402.04396"):
    """Maps four weights at a time to the nearest point of D4, after a Hadamard transform."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{}, {"step": 0.6, "block": 8, "tile": 4, "granularity": "channel"}]}
    )
    d, rule = 4, "d4"

    @staticmethod
    def nearest(x: Tensor) -> Tensor:
        return even(x)


class E8(_Rotated, name="e8", paper="Conway and Sloane 1982; arXiv:2402.04396"):
    """Maps eight weights at a time to the nearest point of E8, after a Hadamard transform."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}, {"step": 2.5, "block": 0, "granularity": "channel"}]})
    d, rule = 8, "e8"

    step: float = Field(2.0, gt=0)
    """Scale of the lattice, as a multiple of the root mean square of the rotated weights."""

    @staticmethod
    def nearest(x: Tensor) -> Tensor:
        whole, half = even(x), even(x - 0.5) + 0.5
        nearer = (x - half).square().sum(1) < (x - whole).square().sum(1)
        return torch.where(nearer[:, None], half, whole)


def even(x: Tensor) -> Tensor:
    """(n, d) nearest points of Z^d with an even sum of coordinates, which is D_d."""
    rounded = torch.round(x)
    off = x - rounded
    odd = rounded.sum(1) % 2 != 0
    worst = off.abs().argmax(1, keepdim=True)
    other = torch.where(off.gather(1, worst) < 0, -1.0, 1.0)
    return rounded + torch.zeros_like(x).scatter_(1, worst, other) * odd[:, None]


def _keys(points: np.ndarray) -> np.ndarray:
    """(n,) int64 keys, distinct for points whose coordinates are below 64; all others have the key -1."""
    twice = np.rint(2 * points.astype(np.float64))
    inside: np.ndarray = np.all(np.abs(twice) < 64, axis=1)
    digits = np.where(inside[:, None], twice, 0).astype(np.int64) + 64
    key: np.ndarray = (digits << (7 * np.arange(points.shape[1]))).sum(1)
    return np.where(inside, key, -1)


def _nearest_of(table: Tensor, vectors: Tensor) -> Tensor:
    norms = table.square().sum(1)
    at_once = max(1, _AT_ONCE // len(table))
    return torch.cat([(norms - 2 * part @ table.T).argmin(1) for part in torch.split(vectors, at_once)])
