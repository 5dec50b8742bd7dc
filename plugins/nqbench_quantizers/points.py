"""Points of a cubic lattice: those nearest to a source's vectors, numbered consecutively in lexicographic order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from nqbench.api import BadInput, chunks, scalar
from nqbench.api.chunks import CHUNK, in_chunks

_TABLE = 1 << 25  # keys below this are counted in a table with one entry per key
_KEY = 1 << 62


@dataclass(frozen=True, eq=False)
class Grid:
    """Vectors of d weights, w (n,) float32 in order, padded with 0, on the lattice; u (m,) float32 or None is added to
    each coordinate of its vector. Grid indices lie in [low, low + span)."""

    weights: Tensor
    u: Tensor | None
    step: float
    d: int
    zero: Literal["center", "edge"]
    low: int
    span: int

    @property
    def m(self) -> int:
        """Number of vectors."""
        return -(-self.weights.numel() // self.d)

    def digits(self, start: int, stop: int) -> Tensor:
        """(stop - start, d) float64 grid indices less ``low``. w + u is rounded to float32, the quotient is computed in
        float64: the same on all devices."""
        d = self.d
        x = self.weights[start * d : stop * d]
        if x.numel() < (stop - start) * d:
            x = torch.nn.functional.pad(x, (0, (stop - start) * d - x.numel()))
        x = x.reshape(stop - start, d)
        y = (x if self.u is None else x + self.u[start:stop, None]).double().div_(self.step)
        return (y.round_() if self.zero == "center" else y.floor_()).sub_(self.low)

    def spans(self) -> list[tuple[int, int]]:
        rows = max(1, CHUNK // self.d)
        return [(a, min(a + rows, self.m)) for a in range(0, self.m, rows)]


def grid(
    source: tuple[Tensor, float, float], u: Tensor | None, step: float, d: int, zero: Literal["center", "edge"]
) -> Grid:
    """source: the weights, and their extremes."""
    weights, low, high = source
    reach = 1.0 if u is None else 1.5  # in steps: half a cell, the dither, and float32 rounding
    first = np.floor(min(low, 0.0) / step - reach) if weights.numel() % d else np.floor(low / step - reach)
    last = np.ceil(max(high, 0.0) / step + reach) if weights.numel() % d else np.ceil(high / step + reach)
    # beyond 2^53, float64 does not represent all integers
    if not (last - first < 1 << 30 and max(abs(first), abs(last)) < 1 << 53):
        raise BadInput(f"a step of {step:g} is too small for weights up to {max(-low, high):g}: take a larger step")
    return Grid(weights, u, step, d, zero, int(first), int(last - first) + 1)


def positions(indices: Tensor, step: float, zero: Literal["center", "edge"]) -> Tensor:
    """float32 lattice points of int64 grid indices, of any shape."""
    return ((indices.double() + (0.5 if zero == "edge" else 0.0)) * step).float()


def distinct(g: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """The lattice points that occur: (m,) int32 index of each vector's point, (k, d) int64 grid indices in
    lexicographic order, (k,) int64 members of each point.

    A vector is treated as a number in base ``span``; where that would exceed 62 bits, its leading digits are renumbered
    first.
    """
    heads = torch.zeros(1, 0, dtype=torch.int64, device=g.weights.device)  # the digits of each value of a key
    key, size, done = None, 1, 0
    while done < g.d:
        more = 1
        while done + more < g.d and size * g.span ** (more + 1) < _KEY:
            more += 1
        size *= g.span**more
        if size >= _KEY:
            raise BadInput(f"a step of {g.step:g} is too small in {g.d} dimensions: take a larger step")
        values, key, counts = _number(_keys(g, key, done, done + more, size), size)
        heads = torch.cat([heads[values // g.span**more], _digits(values, g.span, more)], 1)
        size, done = heads.shape[0], done + more
    assert key is not None
    return key, heads + g.low, counts


def _keys(g: Grid, head: Tensor | None, start: int, stop: int, size: int) -> Tensor:
    """(m,) head * span^(stop - start) + digits start ... stop - 1 in base span, int32 where that holds them."""
    out = torch.empty(g.m, dtype=torch.int32 if size < 1 << 31 else torch.int64, device=g.weights.device)
    if head is None and stop == g.d and not chunks.on_torch(out):
        _compiled_keys(g, out)
        return out
    for a, b in g.spans():
        digits = g.digits(a, b)
        key = torch.zeros(b - a, dtype=torch.int64, device=out.device) if head is None else head[a:b].long()
        for j in range(start, stop):
            key = key * g.span + digits[:, j].long()
        out[a:b] = key
    return out


def _compiled_keys(g: Grid, out: Tensor) -> None:
    from nqbench_quantizers import kernels

    w, keys = g.weights.numpy(), out.numpy()
    u = np.empty(0, dtype=np.float32) if g.u is None else g.u.numpy()
    center = g.zero == "center"

    def part(at: slice) -> None:
        own = w[at.start * g.d : at.stop * g.d]
        kernels.lattice_keys(own, u[at], g.step, g.d, center, g.low, g.span, keys[at])

    in_chunks(g.m, part)


def _digits(values: Tensor, span: int, count: int) -> Tensor:
    powers = [span**j for j in range(count - 1, -1, -1)]
    return torch.stack([values // power % span for power in powers], 1)


def _number(key: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct values of (m,) integers in [0, size), ascending int64; each one's index among them, int32; counts."""
    if size > min(_TABLE, max(4 * key.numel(), 1 << 16)):
        return _unique(key)
    if chunks.on_torch(key):
        counts = torch.zeros(size, dtype=torch.int64, device=key.device)
        for part in torch.split(key, CHUNK):
            counts += torch.bincount(part, minlength=size)
    else:
        from nqbench_quantizers import kernels

        table = np.zeros(size, dtype=np.int64)
        kernels.tally(key.numpy(), table)
        counts = torch.from_numpy(table)
    values = counts.nonzero()[:, 0]
    rank = torch.zeros(size, dtype=torch.int32, device=key.device)
    rank[values] = torch.arange(values.numel(), dtype=torch.int32, device=key.device)
    return values, scalar.look_up(rank, key), counts[values]


def _unique(key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if chunks.on_torch(key):
        values, index, counts = torch.unique(key, return_inverse=True, return_counts=True)
        return values.long(), index.to(torch.int32), counts
    from nqbench_quantizers import kernels

    room = 1 << max(4, (2 * min(key.numel(), scalar.MAX_ALPHABET)).bit_length())
    slots, slot_counts = np.full(room, -1, dtype=np.int64), np.zeros(room, dtype=np.int32)
    place = np.empty(key.numel(), dtype=np.int32)
    found = kernels.hash_tally(key.numpy(), slots, slot_counts, place, scalar.MAX_ALPHABET)
    scalar.check_alphabet(found, "take a larger step")
    used = np.flatnonzero(slots >= 0)
    order = used[np.argsort(slots[used], kind="stable")]
    rank = np.zeros(room, dtype=np.int32)
    rank[order] = np.arange(order.size, dtype=np.int32)
    values, counts = torch.from_numpy(slots[order]), torch.from_numpy(slot_counts[order].astype(np.int64))
    return values, scalar.look_up(torch.from_numpy(rank), torch.from_numpy(place)), counts
