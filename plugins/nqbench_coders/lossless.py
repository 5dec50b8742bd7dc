"""Lossless coding of floats: their levels on a grid by an entropy coder, and the bits below the grid uncompressed.

The exponent and sign of a trained weight are far from random, but the low bits of its mantissa are random. ZipNN
(Hershcovitch et al. 2024, arXiv:2411.05239) and DFloat11 (Zhang et al. 2025, arXiv:2504.11651) code exponents
separately, with one table each. Here floats are split in another way: q, the weight divided by a power of two 2^k and
truncated to an integer, is a level like that of a uniform quantizer, so that ``context`` can use the same dependencies:
scales by filter and input, smooth kernels, signs. For weights of at least 2^k, q determines the sign, the exponent and
the first bits of the mantissa; for smaller ones the exponent is coded separately.

Bitstream
=========
``int`` is that of the file's specification (unsigned LEB128); all is little-endian. A float is S (1 bit), E, M:

===== ======== ====== ======
value dtype    bits E bits M
===== ======== ====== ======
0     float32  8      23
1     float16  5      10
2     bfloat16 8      7
3     float64  11     52
===== ======== ====== ======

1.  For each tensor, in order: ``u8`` dtype + 4 [a table]. With a table: ``int`` c >= 1 values, ``int`` z < c, and the c
    values, each as many bytes as the dtype has. Without: ``u8`` d, the low bits of M that are 0 in all its values;
    ``int`` low; ``u8`` reach, from 1 to min(bits M - d + 1, 12).
2.  ``int`` m, at most 2^20. Then two streams, each ``int`` bytes of its table, ``int`` bytes of its payload, and both,
    by the coder in the file's parameters (``context`` or ``rans``). A stream without symbols has none of both.
3.  The rest: a string of bits, filling bytes from the lowest up, the last byte filled with 0s.

The first stream is of *levels*, one for each weight, of the alphabet 2 m + 1: q is the symbol less m. The coder is told
of all tensors, with their shapes, and that their zero is m. In a tensor with a table, the value is number z + q of it.
Else let n = bits M - d.

- If q = 0, an *exponent* x is taken from the second stream, of the alphabet 2^w + 1, w being the most bits E of all
  tensors. If x = 0, the value is +0. Else E = (low - x) mod 2^(bits E), and n + 1 bits come from the string: the upper
  n bits of M, and above them S.
- Else S says whether q < 0, and with l = floor(log2 |q|), E = low + l, and |q| are a 1 and the upper l bits of M; n - l
  bits come from the string, the others of the n.

So a level is 0 where E < low or E >= low + reach. The encoder sets low two octaves below the median weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from nqbench.api import Codec, CorruptFile, Stream, StreamSpec, StreamTensor
from nqbench.api.toolkit.bits import ByteReader, varint
from nqbench_coders.inner_stream import Inner, inner_coder, read_stream, write_stream


class Format(NamedTuple):
    """The layout of a float. stored: its dtype in numpy; for bfloat16, the dtype of its bits."""

    stored: np.dtype[np.generic]
    exponent: int
    mantissa: int

    @property
    def bits(self) -> np.dtype[np.generic]:
        return np.dtype(f"<u{self.stored.itemsize}")


FORMATS = (
    Format(np.dtype(np.float32), 8, 23),
    Format(np.dtype(np.float16), 5, 10),
    Format(np.dtype(np.uint16), 8, 7),
    Format(np.dtype(np.float64), 11, 52),
)
TABLE = 4
REACH = 12
"""Largest number of octaves of levels: beyond, outliers take as many bits as in the string."""
BELOW = 2
"""Octaves from the median weight down to low: on ResNet-32, values from 1 to 3 differ by less than 0.1 %."""
MOST_LEVEL = 1 << 20
SAMPLE, FEW, OFTEN = 1 << 12, 1 << 10, 8
"""A table is tried if a sample of about this many weights has at most this many distinct values, and used if values
occur at least this often on average, not counting the most common one (0 in a pruned network)."""
BLOCK = 1 << 16


@dataclass(frozen=True, eq=False)
class _Grid:
    """How the floats of a tensor without a table are split."""

    format: Format
    drop: int
    low: int
    reach: int


@dataclass(frozen=True, eq=False)
class _Table:
    """The values, as bits, of a tensor with few distinct values."""

    format: Format
    values: np.ndarray
    zero: int


class Lossless(Codec, name="lossless"):
    """Every float tensor bit for bit: entropy-coded levels on a grid, and the bits below the grid uncompressed."""

    coder: Inner = "context"
    """The entropy coder of levels and exponents: ``context`` for the smallest files, ``rans`` for speed."""

    exact: ClassVar[bool] = True

    def compress(self, tensors: Mapping[str, np.ndarray], seed: int) -> bytes:
        from nqbench_coders.kernels.floats import split

        head, parts, exponents, at = b"", [], [], 0
        levels = np.empty(sum(t.size for t in tensors.values()), dtype=np.int32)
        words = np.zeros(sum(t.nbytes for t in tensors.values()) // 8 + 2, dtype=np.uint64)
        state = np.zeros(3, dtype=np.uint64)
        for name, tensor in tensors.items():
            number = next(i for i, f in enumerate(FORMATS) if f.stored == tensor.dtype)
            bits = np.ascontiguousarray(tensor).reshape(-1).view(FORMATS[number].bits)
            own = levels[at : at + bits.size]
            way = _way(bits, FORMATS[number])
            if isinstance(way, _Table):
                head += bytes([number + TABLE]) + varint(way.values.size) + varint(way.zero) + way.values.tobytes()
                own[:] = _ranks(bits, way)
            else:
                head += bytes([number, way.drop]) + varint(way.low) + bytes([way.reach])
                for start in range(0, bits.size, BLOCK):
                    block = bits[start : start + BLOCK].astype(np.uint64)
                    found = np.empty(block.size, dtype=np.int32)
                    count = split(
                        block, own[start : start + BLOCK], found, words, state,
                        way.format.exponent, way.format.mantissa, way.drop, way.low, way.reach,
                    )  # fmt: skip
                    exponents.append(found[:count])
            parts.append((name, tensor.shape, at, at + bits.size))
            at += bits.size
        most = int(np.abs(levels).max(initial=0))
        levels += most
        width = max((f.exponent for f in map(_format_of, tensors.values())), default=0)
        others = np.concatenate([np.zeros(0, dtype=np.int32), *exponents])
        streams = Stream(levels, _level_spec(parts, most)), Stream(others, _exponent_spec(others.size, width))
        coder = inner_coder(self.coder)
        coded = b"".join(write_stream(coder, stream) for stream in streams)
        words[int(state[2])] = state[0]
        rest = words.tobytes()[: 8 * int(state[2]) + -(-int(state[1]) // 8)]
        return head + varint(most) + coded + rest

    def decompress(self, data: bytes, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, np.ndarray]:
        reader, coder = ByteReader(data), inner_coder(self.coder)
        ways = [_read_way(reader) for _ in shapes]
        most, parts, at = reader.varint(MOST_LEVEL, "the largest level"), [], 0
        for name, shape in shapes.items():
            size = int(np.prod(shape, dtype=np.int64))
            parts.append((name, shape, at, at + size))
            at += size
        levels = read_stream(coder, reader, _level_spec(parts, most)) - np.int32(most)
        count = sum(int(np.count_nonzero(levels[p[2] : p[3]] == 0)) for p, w in zip(parts, ways, strict=True)
                    if isinstance(w, _Grid))  # fmt: skip
        width = max((w.format.exponent for w in ways), default=0)
        exponents = read_stream(coder, reader, _exponent_spec(count, width))
        return _joined(parts, ways, levels, exponents, reader.take(reader.left), reader.offset)


def _format_of(tensor: np.ndarray) -> Format:
    return next(f for f in FORMATS if f.stored == tensor.dtype)


def _level_spec(parts: list[tuple[str, tuple[int, ...], int, int]], most: int) -> StreamSpec:
    tensors = tuple(StreamTensor(name, shape, start, stop, zero=most) for name, shape, start, stop in parts)
    return StreamSpec(parts[-1][3] if parts else 0, 2 * most + 1, ordered=True, tensors=tensors)


def _exponent_spec(count: int, width: int) -> StreamSpec:
    return StreamSpec(count, (1 << width) + 1, ordered=True)


def _way(bits: np.ndarray, format: Format) -> _Grid | _Table:
    sample = bits[:: max(1, bits.size // SAMPLE)]
    if bits.size and np.unique(sample).size <= min(FEW, sample.size // 2):
        values, counts = np.unique(bits, return_counts=True)
        if values.size <= MOST_LEVEL and OFTEN * (values.size - 1) <= bits.size - counts.max():
            return _in_order(values, format)
    mantissa = (1 << format.mantissa) - 1
    used = int(np.bitwise_or.reduce(bits, initial=0)) & mantissa
    drop = (used & -used).bit_length() - 1 if used else format.mantissa
    exponent = (bits >> format.bits.type(format.mantissa)) & format.bits.type((1 << format.exponent) - 1)
    kept = exponent[(exponent > 0) & (exponent < (1 << format.exponent) - 1)]
    reach, low = min(format.mantissa - drop + 1, REACH), 1
    if kept.size:
        middle, last = kept.size // 2, kept.size - 1 - kept.size // 10000
        median, top = (int(value) for value in np.partition(kept, (middle, last))[[middle, last]])
        low = max(median - BELOW, top - reach + 1, 1)
    return _Grid(format, drop, low, reach)


def _in_order(values: np.ndarray, format: Format) -> _Table:
    """The values in ascending order; z is the index of +0, or of the next larger value."""
    top = format.bits.type(1 << (8 * format.stored.itemsize - 1))
    negative = (values & top) != 0
    ordered = np.concatenate([values[negative][::-1], values[~negative]])
    return _Table(format, ordered, min(int(np.count_nonzero(negative)), values.size - 1))


def _ranks(bits: np.ndarray, table: _Table) -> np.ndarray:
    """(n,) int32 levels."""
    order = np.argsort(table.values, kind="stable")
    places = order[np.searchsorted(table.values, bits, sorter=order)]
    return (places - table.zero).astype(np.int32)


def _read_way(reader: ByteReader) -> _Grid | _Table:
    start = reader.offset
    kind = reader.take(1)[0]
    if kind >= 2 * TABLE:
        raise CorruptFile(f"a tensor is declared to be of the unknown kind {kind}", offset=start)
    format = FORMATS[kind % TABLE]
    if kind >= TABLE:
        count = reader.varint(MOST_LEVEL + 1, "the number of a table's values")
        zero = reader.varint(max(count - 1, 0), "the value that is zero")
        if not count:
            raise CorruptFile("a table has no values", offset=start)
        return _Table(format, np.frombuffer(reader.take(count * format.stored.itemsize), dtype=format.bits), zero)
    drop = reader.take(1)[0]
    low = reader.varint((1 << format.exponent) - 1, "the lowest exponent of a grid")
    reach = reader.take(1)[0]
    if drop > format.mantissa or not 1 <= reach <= min(format.mantissa - drop + 1, REACH):
        raise CorruptFile(f"a grid drops {drop} bits and reaches {reach} octaves", offset=start)
    return _Grid(format, drop, low, reach)


def _joined(
    parts: list[tuple[str, tuple[int, ...], int, int]], ways: list[_Grid | _Table], levels: np.ndarray,
    exponents: np.ndarray, rest: bytes, end: int,
) -> dict[str, np.ndarray]:  # fmt: skip
    from nqbench_coders.kernels.floats import join

    words = np.zeros(len(rest) // 8 + 2, dtype=np.uint64)
    words.view(np.uint8)[: len(rest)] = np.frombuffer(rest, dtype=np.uint8)
    out, state = {}, np.array([0, 8 * len(rest), 0], dtype=np.int64)
    for (name, shape, start, stop), way in zip(parts, ways, strict=True):
        own = levels[start:stop]
        if isinstance(way, _Table):
            places = own.astype(np.int64) + way.zero
            if places.size and not 0 <= int(places.min()) <= int(places.max()) < way.values.size:
                raise CorruptFile("a level lies outside its table", offset=0)
            bits = way.values[places]
        else:
            bits = np.empty(own.size, dtype=way.format.bits)
            for first in range(0, own.size, BLOCK):
                block = np.empty(min(BLOCK, own.size - first), dtype=np.uint64)
                bad = join(
                    own[first : first + BLOCK], exponents, words, state, block,
                    way.format.exponent, way.format.mantissa, way.drop, way.low, way.reach,
                )  # fmt: skip
                if bad:
                    raise CorruptFile("a weight has no such level or exponent, or too few bits", offset=end - len(rest))
                bits[first : first + BLOCK] = block.astype(way.format.bits)
        out[name] = bits.view(way.format.stored.newbyteorder("<")).astype(way.format.stored, copy=False).reshape(shape)
    left = int(state[1]) - int(state[0])
    if left >= 8 or (left and rest[-1] >> (8 - left)):
        raise CorruptFile("bits follow the last weight's", offset=end - 1)
    if int(state[2]) != exponents.size:
        raise CorruptFile("exponents follow the last weight's", offset=end - len(rest))
    return out
