"""What a base form may have beside its symbols: arrays of any granularity, vectors within rows, tables by a rule,
transforms. ``Quantized.structure`` holds it; without one a result is of format version 1's plain forms.

For weight i of tensor t, all in float32, each operation rounded once::

    y = scale * (table[symbol] - zero) + shift - u          value = equalize * transform^-1(y)

* **arrays**: ``scale`` (``step`` of the grids), ``zero`` (in the table's unit), ``shift`` (in the weights') and
  ``equalize``, each with a granularity (``nqbench.api.granularity``); absent ones are left out of the formula. An
  array's entries, (E,), lie tensor by tensor in ``parameters`` or ``side`` under its name; or, where ``codes`` is not
  0, they are ``unit * code``: integer codes in [0, codes) under the name itself in ``side``, and their units, floats,
  under ``NAME_unit`` with a coarser granularity: ``global``, ``layer``, or for codes by ``group`` a larger ``group``.
* **stored**: a parameter is written as float16 or bfloat16 if it is listed here. The values are computed from what
  will be written; gradients pass the rounding as if it were none.
* **vectors**: a symbol stands for ``dimension`` weights of one row: the row's kept weights are taken so many at a time,
  and the last vector's superfluous values are dropped. ``codebook`` is (k,) if the dimension is 1, or (k, d); or
  (m, k, d) for m codebooks. Then the j-th symbol of a row, from 0, is of the codebook j mod m, and stands for a vector
  of its own (product codes), or, where ``summed``, each m symbols stand for the sum of their codewords, added in order
  (residual and additive codes).
* **table**: the name of a table by rule (``nqbench.api.tables``) in place of a codebook.
* **hadamard**: the block of a sign-randomized Hadamard transform along the rows (``nqbench.api.hadamard``); ``seed``;
  and ``tile``, rows of a tile, where columns are transformed too.

Which weights are kept: where pruned weights are merged into the symbols as one that deploys as 0, they are kept ones
of that value. What counts kept weights (vectors, transforms) knows them exactly, since it has no such symbol.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from nqbench.api.errors import BadInput
from nqbench.api.granularity import Per, rows_of

ARRAYS = ("scale", "step", "zero", "shift", "equalize")
"""The arrays of the formula; ``step`` is the scale of the grids."""
UNIT = "_unit"
NARROW = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Array:
    """One array of a structure: its granularity, and how its entries are stored.

    Args:
        per: granularity of the entries.
        codes: number of integer codes, 0 where the entries are floats.
        unit: granularity of the codes' units, coarser than ``per``.

    Example:
        >>> Array(Per("group", 32), codes=256, unit=Per("layer")).codes
        256
    """

    per: Per = field(default_factory=Per)
    codes: int = 0
    unit: Per = field(default_factory=Per)


@dataclass(frozen=True, eq=False)
class Placed:
    """Where a tensor's weights are.

    Args:
        shape: the whole tensor's.
        mask: bool of that shape, True where a weight is kept; None where all are.

    Example:
        >>> Placed((2, 3), torch.tensor([[1, 1, 0], [0, 0, 1]]).bool()).lengths().tolist()
        [2, 1]
    """

    shape: tuple[int, ...]
    mask: Tensor | None = None

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    def lengths(self) -> Tensor:
        """(R,) int64 on the CPU: kept weights of each row; (0,) of a tensor without weights, whatever R is: it may be
        2^48 in a file of a few bytes."""
        rows, length = rows_of(self.shape)
        if not self.numel:
            return torch.zeros(0, dtype=torch.int64)
        if self.mask is None:
            return torch.full((rows,), length, dtype=torch.int64)
        return self.mask.reshape(rows, length).sum(1).cpu()


class _Source(Protocol):
    """What ``Structure.of`` reads of a ``Source``."""

    @property
    def tensors(self) -> Sequence[Any]: ...


@dataclass(frozen=True, eq=False)
class Structure:
    """What a base form has beside its symbols; the module's text gives the formula.

    Args:
        tensors: of the group, in order.
        arrays: name (``scale``, ``step``, ``zero``, ``shift``, ``equalize``) -> its granularity and codes.
        stored: parameter -> float16 or bfloat16, in which it is written.
        dimension: weights per symbol, of one row.
        summed: whether a vector is the sum of one codeword of each codebook (residual and additive codes).
        table: name of a table by rule in place of a codebook; empty: none.
        hadamard: block of a sign-randomized Hadamard transform along the rows; 0: none.
        seed: of the transform's signs.
        tile: rows of a transform of tiles; 0: rows are transformed by themselves.

    Raises:
        BadInput: parts that do not fit each other.

    Example:
        >>> from nqbench.api import Source
        >>> source = Source.of([("w", torch.ones(4, 8))])
        >>> Structure.of(source, arrays={"scale": Array(Per("channel", 0))}).symbols()
        (32,)
    """

    tensors: tuple[Placed, ...]
    arrays: Mapping[str, Array] = field(default_factory=dict)
    stored: Mapping[str, torch.dtype] = field(default_factory=dict)
    dimension: int = 1
    summed: bool = False
    table: str = ""
    hadamard: int = 0
    seed: int = 0
    tile: int = 0

    @staticmethod
    def of(source: _Source, **fields: Any) -> Structure:
        """A structure for the tensors of a source.

        Args:
            source: whose parts it takes, with their masks.
            fields: the other fields of ``Structure``.

        Returns:
            The structure.
        """
        return Structure(tuple(Placed(t.shape, t.mask) for t in source.tensors), **fields)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(t.shape for t in self.tensors)

    def symbols(self, books: int = 1) -> tuple[int, ...]:
        """Number of symbols of each tensor."""
        each = books if self.summed else 1
        if self.dimension == 1 and each == 1:
            return tuple(t.numel if t.mask is None else int(t.mask.sum()) for t in self.tensors)
        found = []
        for t in self.tensors:
            if t.mask is None:
                rows, length = rows_of(t.shape)
                found.append(each * rows * -(-length // self.dimension))
            else:
                found.append(each * int((-(-t.lengths() // self.dimension)).sum()))
        return tuple(found)

    def array_names(self) -> tuple[str, ...]:
        """Under which names the entries lie: each array's own, and its unit's if it is one of codes."""
        return tuple(n for name, a in self.arrays.items() for n in ((name, name + UNIT) if a.codes else (name,)))

    def entries(self, name: str) -> int:
        """Entries of what lies under that name."""
        array = self.arrays[name.removesuffix(UNIT)]
        return (array.per if name in self.arrays else array.unit).count(self.shapes)

    def to(self, device: torch.device | str) -> Structure:
        moved = (t if t.mask is None else Placed(t.shape, t.mask.to(device)) for t in self.tensors)
        return replace(self, tensors=tuple(moved))

    # -- as JSON, for what is kept between two stages --------------------------------------------------------------
    def about(self) -> dict[str, Any]:
        """All but the masks, as JSON can say it."""
        return {
            "shapes": [list(shape) for shape in self.shapes],
            "arrays": {
                name: [a.per.by, a.per.size, a.codes, a.unit.by, a.unit.size] for name, a in self.arrays.items()
            },
            "stored": {name: str(dtype).removeprefix("torch.") for name, dtype in self.stored.items()},
            "dimension": self.dimension, "summed": self.summed, "table": self.table,
            "hadamard": self.hadamard, "seed": self.seed, "tile": self.tile,
        }  # fmt: skip

    def masks(self) -> dict[str, Tensor]:
        """Masks by the tensor's number, what ``about`` leaves out."""
        return {str(index): t.mask for index, t in enumerate(self.tensors) if t.mask is not None}

    @staticmethod
    def from_about(about: Mapping[str, Any], masks: Mapping[str, Tensor]) -> Structure:
        """The inverse of ``about`` and ``masks``."""
        fields = dict(about)
        shapes: Sequence[Sequence[int]] = fields.pop("shapes")
        arrays = {n: Array(Per(by, size), codes, Per(u, g)) for n, (by, size, codes, u, g) in fields["arrays"].items()}
        stored = {name: getattr(torch, dtype) for name, dtype in fields["stored"].items()}
        tensors = tuple(Placed(tuple(shape), masks.get(str(i))) for i, shape in enumerate(shapes))
        return Structure(tensors, **fields | {"arrays": arrays, "stored": stored})


class _AsStored(torch.autograd.Function):
    """Rounded to a narrower float and back; the gradient passes."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, dtype: torch.dtype) -> Tensor:
        return value.to(dtype).to(torch.float32)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        return grads[0], None


def as_stored(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    """(…) float32 as a decoder gets it."""
    if dtype is None or dtype == torch.float32:
        return value.to(torch.float32)
    return _AsStored.apply(value, dtype)  # type: ignore[no-any-return, no-untyped-call]


def units_of_codes(array: Array, unit: Tensor, shape: Sequence[int], codes: int) -> Tensor:
    """The unit of each of a tensor's ``codes`` codes: (1,), or (codes,) where units are by block."""
    if array.unit.by != "group" or unit.numel() <= 1:
        return unit
    rows = rows_of(shape)[0]
    each = array.unit.size // array.per.size
    return unit.reshape(rows, -1).repeat_interleave(each, dim=1)[:, : codes // rows].reshape(-1)


def check_arrays(structure: Structure) -> None:
    """Raises BadInput for arrays that no decoder could read. Their entries are checked where they are at hand."""
    for name, array in structure.arrays.items():
        if name not in ARRAYS:
            raise BadInput(f"no array is called '{name}'; there are {', '.join(ARRAYS)}")
        array.per.count(structure.shapes)
        if not 0 <= array.codes <= 1 << 16:
            raise BadInput(f"{array.codes} codes of '{name}'; at most 2^16 are possible")
        if array.unit.by == "group":
            if array.per.by != "group" or array.unit.size % array.per.size:
                raise BadInput(f"units of '{name}' by {array.unit}, for codes by {array.per}: no multiple")
        elif array.unit.by not in ("global", "layer"):
            raise BadInput(f"units of '{name}' by {array.unit}: global, layer or group are possible")
    if not 1 <= structure.dimension <= 1 << 16:
        raise BadInput(f"a symbol of {structure.dimension} weights; 1 to 2^16 are possible")
