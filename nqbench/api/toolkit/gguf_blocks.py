"""The blocks in which GGUF files (llama.cpp's) store weights: taken apart into numbers, put together again, and read.

A block is a permutation of the bits of its numbers: codes n, one a weight; in super-blocks of 256 weights, codes c and
c' of the scales and minima of blocks of 16 or 32; and the units d and m, float16. So any bytes come back, whether
llama.cpp would write them or not. The types, as ggml's structures (``block_q4_0``, ``block_q4_K`` and so on) say:

====== ======= ========================================================================== =====================
type   bytes   in the block, in order                                                     value
====== ======= ========================================================================== =====================
q4_0   18      d, 16 bytes of codes                                                       d (n - 8)
q4_1   20      d, m, 16 bytes of codes                                                    d n + m
q5_0   22      d, 4 bytes of fifth bits, 16 of codes                                      d (n - 16)
q5_1   24      d, m, 4 bytes of fifth bits, 16 of codes                                   d n + m
q8_0   34      d, 32 signed bytes                                                         d (n - 128)
q2_k   84      16 bytes of c (low half) and c', 64 of codes, d, m                         (d c) n - m c'
q3_k   110     32 bytes of third bits, 64 of codes, 12 of c, d                            (d (c - 32)) (n - 4)
q4_k   144     d, m, 12 bytes of c and c', 128 of codes                                   (d c) n - m c'
q5_k   176     d, m, 12 bytes of c and c', 32 of fifth bits, 128 of codes                 (d c) n - m c'
q6_k   210     128 bytes of codes, 64 of their upper two bits, 16 signed bytes of c, d    (d (c - 128)) (n - 32)
====== ======= ========================================================================== =====================

Signed bytes are counted from -128. Bits that share bytes are interleaved: with k numbers a byte, a group of g bytes has
the numbers 0 to g - 1 in its lowest bits, g to 2 g - 1 in the next, and so on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from nqbench.api.errors import BadInput


@dataclass(frozen=True)
class Run:
    """Bits of numbers in consecutive bytes. numbers: which; at: the first one's byte; shift: the bits' place in
    the byte, low: in the number; width: how many."""

    numbers: slice
    at: int
    shift: int
    width: int
    low: int = 0


@dataclass(frozen=True)
class Part:
    """The numbers of one meaning in a block: ``count`` of ``bits``. zero: what is taken off before one is used; signed:
    they are signed bytes, which count from -128."""

    count: int
    bits: int
    runs: tuple[Run, ...]
    zero: int = 0
    signed: bool = False

    @property
    def dtype(self) -> type[np.unsignedinteger]:
        return np.uint8 if self.bits <= 8 else np.uint16

    def take(self, rows: np.ndarray) -> np.ndarray:
        """(blocks, count) numbers, of (blocks, bytes of a block) uint8."""
        found = np.zeros((len(rows), self.count), dtype=self.dtype)
        for run in self.runs:
            body = rows[:, run.at : run.at + len(range(self.count)[run.numbers])]
            found[:, run.numbers] |= ((body >> run.shift) & ((1 << run.width) - 1)).astype(self.dtype) << run.low
        return found ^ 128 if self.signed else found

    def put(self, numbers: np.ndarray, rows: np.ndarray) -> None:
        """The reverse of ``take``: into rows, whose bits there are 0."""
        whole = numbers ^ 128 if self.signed else numbers
        for run in self.runs:
            body = (whole[:, run.numbers] >> run.low) & ((1 << run.width) - 1)
            rows[:, run.at : run.at + body.shape[1]] |= (body << run.shift).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class BlockType:
    """number: in the file; weights: of a block. parts: ``codes``, then ``scales`` and ``minima`` of super-blocks, then
    the units ``d`` and, with a minimum, ``m``."""

    name: str
    number: int
    weights: int
    parts: Mapping[str, Part]

    @property
    def size(self) -> int:
        """Bytes of a block."""
        return sum(part.count * part.bits for part in self.parts.values()) // 8


@dataclass(frozen=True, eq=False)
class Blocks:
    """A tensor's blocks. numbers: for each of the type's parts (blocks, count), uint8, or uint16 of units: float16's
    bits."""

    kind: BlockType
    numbers: Mapping[str, np.ndarray]

    @staticmethod
    def of(data: bytes, kind: BlockType) -> Blocks:
        """From a tensor's bytes. Raises BadInput for a length that is no multiple of a block's."""
        if len(data) % kind.size:
            raise BadInput(f"{len(data)} bytes are no whole blocks of {kind.name}")
        rows = np.frombuffer(data, dtype=np.uint8).reshape(-1, kind.size)
        return Blocks(kind, {name: part.take(rows) for name, part in kind.parts.items()})

    def data(self) -> bytes:
        """The tensor's bytes again."""
        rows = np.zeros((len(self.numbers["d"]), self.kind.size), dtype=np.uint8)
        for name, part in self.kind.parts.items():
            part.put(self.numbers[name], rows)
        return rows.tobytes()

    def values(self) -> np.ndarray:
        """(n,) float32, each operation rounded once, in the order of ggml."""
        # units of damaged or invented blocks may be infinite or no numbers
        with np.errstate(invalid="ignore", over="ignore"):
            step, shift = self._unit("d"), self._unit("m") if "m" in self.numbers else None
            if "scales" in self.numbers:
                step = step * self._centred("scales")
            codes = self._centred("codes").reshape(*step.shape, self.kind.weights // step.shape[1])
            found = step[..., None] * codes
            if shift is not None and "minima" in self.numbers:
                found = found - (shift * self._centred("minima"))[..., None]
            elif shift is not None:
                found = found + shift[..., None]
        return np.asarray(found, dtype=np.float32).reshape(-1)

    def _unit(self, name: str) -> np.ndarray:
        return self.numbers[name].view(np.float16).astype(np.float32)

    def _centred(self, name: str) -> np.ndarray:
        return self.numbers[name].astype(np.float32) - np.float32(self.kind.parts[name].zero)


def _runs(at: int, group: int, width: int, groups: int = 1, low: int = 0) -> Iterator[Run]:
    """Interleaved numbers, 8 / width in each byte, in groups of so many bytes from ``at``."""
    each = 8 // width
    for j in range(groups * each):
        yield Run(slice(j * group, (j + 1) * group), at + j // each * group, j % each * width, width, low)


def _unit(at: int) -> Part:
    return Part(1, 16, (*_runs(at, 1, 8), *_runs(at + 1, 1, 8, low=8)))


def _units(at: int, minimum: bool) -> dict[str, Part]:
    return {"d": _unit(at), "m": _unit(at + 2)} if minimum else {"d": _unit(at)}


def _plain(name: str, number: int, bits: int, minimum: bool = False) -> BlockType:
    """A block of 32 weights with units of its own."""
    at, zero = 4 if minimum else 2, 0 if minimum else 1 << (bits - 1)
    if bits == 8:
        codes = Part(32, 8, tuple(_runs(at, 32, 8)), zero, signed=True)
    elif bits == 5:
        # the fifth bits are one number of 32 bits: weight i's is bit i % 8 of byte i // 8
        fifth = [Run(slice(j, None, 8), at, j, 1, low=4) for j in range(8)]
        codes = Part(32, 5, (*fifth, *_runs(at + 4, 16, 4)), zero)
    else:
        codes = Part(32, 4, tuple(_runs(at, 16, 4)), zero)
    return BlockType(name, number, 32, {"codes": codes, **_units(0, minimum)})


def _q2_k() -> BlockType:
    scales, minima = (Part(16, 4, (Run(slice(16), 0, shift, 4),)) for shift in (0, 4))
    codes = Part(256, 2, tuple(_runs(16, 32, 2, groups=2)))
    return BlockType("q2_k", 10, 256, {"codes": codes, "scales": scales, "minima": minima, **_units(80, True)})


def _q3_k() -> BlockType:
    codes = Part(256, 3, (*_runs(0, 32, 1, low=2), *_runs(32, 32, 2, groups=2)), zero=4)
    scales = Part(16, 6, (*_runs(96, 8, 4), *_runs(104, 4, 2, low=4)), zero=32)
    return BlockType("q3_k", 11, 256, {"codes": codes, "scales": scales, **_units(108, False)})


def _q45_k(name: str, number: int, bits: int) -> BlockType:
    """The first four scales and minima have bytes of their own, whose upper two bits are the next four's upper ones."""
    scales, minima = (
        Part(8, 6, (Run(slice(4), at, 0, 6), Run(slice(4, 8), 12, shift, 4), Run(slice(4, 8), at, 6, 2, low=4)))
        for at, shift in ((4, 0), (8, 4))
    )
    fifth = tuple(_runs(16, 32, 1, low=4)) if bits == 5 else ()
    codes = Part(256, bits, (*fifth, *_runs(48 if fifth else 16, 32, 4, groups=4)))
    return BlockType(name, number, 256, {"codes": codes, "scales": scales, "minima": minima, **_units(0, True)})


def _q6_k() -> BlockType:
    codes = Part(256, 6, (*_runs(0, 64, 4, groups=2), *_runs(128, 32, 2, groups=2, low=4)), zero=32)
    scales = Part(16, 8, tuple(_runs(192, 16, 8)), zero=128, signed=True)
    return BlockType("q6_k", 14, 256, {"codes": codes, "scales": scales, **_units(208, False)})


TYPES = (
    _plain("q4_0", 2, 4), _plain("q4_1", 3, 4, minimum=True), _plain("q5_0", 6, 5), _plain("q5_1", 7, 5, minimum=True),
    _plain("q8_0", 8, 8), _q2_k(), _q3_k(), _q45_k("q4_k", 12, 4), _q45_k("q5_k", 13, 5), _q6_k(),
)  # fmt: skip
"""In the order that streams of the codec ``gguf`` number them: new ones come last."""
PLAIN = frozenset({0, 1, 24, 25, 26, 27, 28, 30})
"""The numbers of the types without blocks: floats and integers."""
_OTHERS = {
    9: "q8_1", 15: "q8_k", 16: "iq2_xxs", 17: "iq2_xs", 18: "iq3_xxs", 19: "iq1_s", 20: "iq4_nl", 21: "iq3_s",
    22: "iq2_s", 23: "iq4_xs", 29: "iq1_m", 34: "tq1_0", 35: "tq2_0", 39: "mxfp4", 40: "nvfp4",
}  # fmt: skip


def unread_type(number: int) -> str:
    """The name of a type of blocks that cannot be read, ``''`` of one that can or that has no blocks."""
    if number in PLAIN or any(kind.number == number for kind in TYPES):
        return ""
    return _OTHERS.get(number, f"type {number}")
