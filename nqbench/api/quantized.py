"""The result of a quantizer, and the base forms that can be decoded without the quantizer's code.

Every base form is one formula (in float32, each operation rounded once, so that all devices give the same bits):

    value_i = scale[t(i)] * table[symbol_j] - u_j,     j = i // d,  t(i) the tensor that weight i belongs to

| form            | table                         | scale                      | u                           |
| --------------- | ----------------------------- | -------------------------- | --------------------------- |
| `lookup`        | `codebook` (k,) or (k, d)     | `scale` (1,) or (T,), or 1 | 0                           |
| `grid`          | symbol + `offset`             | `step` (1,) or (T,)        | 0                           |
| `dithered`      | `codebook` (k,) or (k, d)     | `scale` (1,) or (T,), or 1 | `nqbench.api.philox.dither` |
| `dithered-grid` | symbol + `offset` - x         | `step` (1,) or (T,)        | 0                           |

x is the dither of width 1, drawn anew from the same seed for each tensor: a tensor's values do not depend on which
others share its group. A name in the table is looked up in `parameters` (what may move in fine-tuning) and then in
`side` (what may not); both grids need `offset` in side, `dithered` needs `seed` and `dither_step`, `dithered-grid`
`seed`. A result with a `structure` (`nqbench.api.structure`) has more: scales of any granularity, zero points, vectors
within rows, several codebooks, tables by rule, transforms. Form `plugin`: only the quantizer's own `reconstruct` can
read it, and a file of it needs that plugin installed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from nqbench.api.errors import BadInput
from nqbench.api.formula import codebook_of, has_zero, values_of
from nqbench.api.philox import dither, unit_dither
from nqbench.api.plain import all_plain, plain
from nqbench.api.structure import Structure
from nqbench.api.toolkit.passes import assign, midpoints

Form = Literal["lookup", "grid", "dithered", "plugin", "dithered-grid"]
GRIDS = ("grid", "dithered-grid")
"""The forms whose levels are a step apart."""
DITHERED = ("dithered", "dithered-grid")
Side = Tensor | int | float


class Weights(Protocol):
    """What ``Quantized.nearest`` reads of a ``Source``, which may itself hold the last result."""

    @property
    def weights(self) -> Tensor:
        """(n,) float32."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Kept weights per tensor; they sum to n."""


@dataclass(frozen=True, eq=False)
class Quantized:
    """The result of a quantizer. Its tensors may be views of any kind; they are stored row-major.

    Args:
        symbols: (m,) int32 in [0, alphabet), m = ceil(n / d) without a structure.
        alphabet: number of different symbols that there could be.
        sizes: kept weights per tensor, summing to n.
        parameters: name -> float32 tensor that may move in fine-tuning; written to the file.
        side: other values that a decoder needs, also written to the file: int (63 bits), float (64 bits) or tensor.
        form: how it is decoded: one of the module's base forms, or ``plugin``.
        held: parameter -> bool tensor of its shape, True where an entry must not move (partially fixed codebooks); not
            written.
        statistics: figures for the report (H(Q|U), iterations, J); not written.
        structure: granularities, vectors within rows, tables, transforms; None: the plain forms.

    Example:
        >>> q = Quantized(torch.tensor([1, 0, 1], dtype=torch.int32), 2, (3,), {"codebook": torch.tensor([-1.0, 0.5])})
        >>> q.reconstruct().tolist()
        [0.5, -1.0, 0.5]
    """

    symbols: Tensor
    alphabet: int
    sizes: tuple[int, ...]
    parameters: Mapping[str, Tensor] = field(default_factory=dict)
    side: Mapping[str, Side] = field(default_factory=dict)
    form: Form = "lookup"
    held: Mapping[str, Tensor] = field(default_factory=dict)
    statistics: Mapping[str, float] = field(default_factory=dict)
    structure: Structure | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "symbols", plain(self.symbols))
        for name in ("parameters", "side", "held"):
            object.__setattr__(self, name, all_plain(getattr(self, name)))

    @property
    def n(self) -> int:
        return sum(self.sizes)

    @property
    def dimension(self) -> int:
        """Weights per symbol, d: as the structure declares, else by the codebook."""
        if self.structure is not None:
            return self.structure.dimension
        table = self.find("codebook")
        return int(table.shape[1]) if isinstance(table, Tensor) and table.dim() == 2 else 1

    @property
    def books(self) -> int:
        """Number of codebooks, m."""
        table = self.find("codebook") if self.structure is not None else None
        return int(table.shape[0]) if isinstance(table, Tensor) and table.dim() == 3 else 1

    @property
    def table(self) -> Tensor | None:
        """(k,) or (k, d) float32 values of the symbols before scale and dither, or (m, k, d) of several codebooks; None
        for form `plugin`."""
        if self.form == "plugin":
            return None
        if self.form in GRIDS:
            levels = torch.arange(self.alphabet, dtype=torch.float32, device=self.symbols.device)
            return levels + float(self.side["offset"])
        if self.structure is not None:
            books = codebook_of(self, self.structure)
            assert books is not None
            if len(books) > 1:
                return books
            return books[0] if self.structure.dimension > 1 else books.reshape(-1)
        table = self.find("codebook")
        if not isinstance(table, Tensor):
            raise BadInput(f"form '{self.form}' needs a tensor 'codebook' in parameters or side")
        return table.to(torch.float32)

    @property
    def ordered(self) -> bool:
        """Whether larger symbols stand for larger values."""
        table = self.table
        return table is not None and table.dim() == 1 and bool((table[1:] > table[:-1]).all())

    @property
    def zero(self) -> int | None:
        """The symbol that deploys as exactly 0, if there is one. Never for vectors or dithered forms."""
        table = self.table
        if table is None or table.dim() != 1 or self.form in DITHERED:
            return None
        if self.structure is not None and not has_zero(self, self.structure):
            return None
        hits = torch.nonzero(table == 0)
        return int(hits[0, 0]) if len(hits) else None

    def find(self, name: str) -> Side | None:
        return self.parameters[name] if name in self.parameters else self.side.get(name)

    def reconstruct(self, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
        """The weights by the base form.

        Args:
            parameters: take the place of its own; the result is differentiable in them.

        Returns:
            (n,) float32, the same bits on every device.

        Raises:
            BadInput: form ``plugin``, or symbols that do not fit the table or the number of weights.
        """
        if self.form == "plugin":
            raise BadInput("this quantizer reads its own form: call its reconstruct")
        q = self if parameters is None else replace(self, parameters=parameters)
        if q.structure is not None:
            return values_of(q, q.structure)
        n, d = q.n, q.dimension
        if q.symbols.numel() != math.ceil(n / d):
            raise BadInput(f"{q.symbols.numel()} symbols of dimension {d} cannot stand for {n} weights")
        if q.form in GRIDS:
            # no table: a fine grid can have millions of levels
            values = q.symbols.to(torch.float32) + float(q.side["offset"])
            if q.form == "dithered-grid":
                values = values - unit_dither(int(q.side["seed"]), q.sizes, values.device)
            scale = q.find("step")
        else:
            table = q.table
            assert table is not None
            # index_select is twice as fast, but its gradient on a GPU adds in any order
            chosen = table[q.symbols.long()] if table.requires_grad else table.index_select(0, q.symbols)
            values = chosen.reshape(-1)[:n]
            scale = q.find("scale")
        if scale is not None:
            values = values * q._per_weight(scale)
        if q.form == "dithered":
            u = dither(int(q.side["seed"]), float(q.side["dither_step"]), q.symbols.numel(), values.device)
            values = values - (u if d == 1 else u.repeat_interleave(d)[:n])
        return values

    def _per_weight(self, scale: Side) -> Tensor:
        """A scale of one entry, or of one entry a tensor, spread over the weights."""
        s = torch.as_tensor(scale, dtype=torch.float32, device=self.symbols.device).reshape(-1)
        if s.numel() == 1:
            return s
        if s.numel() != len(self.sizes):
            raise BadInput(f"{s.numel()} scales for {len(self.sizes)} tensors")
        return s.repeat_interleave(torch.tensor(self.sizes, device=s.device))

    @staticmethod
    def nearest(source: Weights, codebook: Tensor, **fields: object) -> Quantized:
        """Assign each weight to the nearest codeword, or to the lower one of two at the same distance.

        Args:
            source: the weights.
            codebook: (k,) in any order, finite; stored ascending as the movable parameter ``codebook``.
            fields: further fields of ``Quantized``.

        Returns:
            The result, of form ``lookup``, with all k codewords.

        Raises:
            BadInput: an empty codebook, or one that is not finite.

        Example:
            >>> from nqbench.api import Source
            >>> Quantized.nearest(Source(torch.tensor([0.2, 0.9, -3.0])), torch.tensor([1.0, 0.0])).symbols.tolist()
            [0, 1, 0]
        """
        codebook = codebook.detach().to(source.weights).reshape(-1).sort().values.contiguous()
        if not bool(torch.isfinite(codebook).all()) or codebook.numel() == 0:
            raise BadInput("a codebook needs at least one entry, all finite")
        symbols = assign(source.weights, midpoints(codebook))
        return Quantized(
            symbols=symbols,
            alphabet=codebook.numel(),
            sizes=source.sizes,
            parameters={"codebook": codebook},
            **fields,  # type: ignore[arg-type]
        )
