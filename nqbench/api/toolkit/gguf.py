"""GGUF files (llama.cpp's) without their package: where tensors lie, and blocks of codes taken apart and put together.

The file: ``GGUF``, version (2 or 3), the numbers of tensors and of keys; keys with their values; for each tensor its
name, its sizes (the innermost first), its type and the offset of its data, which begin at the next multiple of
``general.alignment`` (32 unless it is a key). All is little-endian.

Blocks of 32 weights, n the codes, d and m float16 (ggml's ``block_q4_0`` and so on):

====== ===== ====================================== =============
type   bytes in the block                           value
====== ===== ====================================== =============
q4_0   18    d, 16 bytes of two codes               d (n - 8)
q4_1   20    d, m, 16 bytes of two codes            d n + m
q5_0   22    d, 4 bytes of fifth bits, 16 bytes     d (n - 16)
q5_1   24    d, m, 4 bytes of fifth bits, 16 bytes  d n + m
q8_0   34    d, 32 signed bytes                     d n
====== ===== ====================================== =============

A byte of two codes has weight i's in its low half and weight i + 16's in its high one. f32 and f16 have no blocks.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nqbench.api.errors import BadInput

BLOCK = 32
_MOST = 1 << 20  # tensors, keys, bytes of a name
_PLAIN = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True)
class BlockType:
    """number: in the file. bits of a code; minimum: whether there is an m; signed: codes are signed bytes."""

    name: str
    number: int
    bits: int
    minimum: bool = False
    signed: bool = False

    @property
    def size(self) -> int:
        """Bytes of a block."""
        return 2 + 2 * self.minimum + (4 if self.bits == 5 else 0) + (32 if self.bits == 8 else 16)

    @property
    def zero(self) -> int:
        """What is taken off a code, counted from 0, before it is multiplied."""
        return 0 if self.minimum else 1 << (self.bits - 1)


TYPES = (
    BlockType("q4_0", 2, 4), BlockType("q4_1", 3, 4, minimum=True), BlockType("q5_0", 6, 5),
    BlockType("q5_1", 7, 5, minimum=True), BlockType("q8_0", 8, 8, signed=True),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Blocks:
    """A tensor's blocks. codes: (n,) int32 from 0; d, m: (n / 32,) uint16, float16's bits; m: empty without one."""

    kind: BlockType
    codes: np.ndarray
    d: np.ndarray
    m: np.ndarray

    @staticmethod
    def of(data: bytes, kind: BlockType) -> Blocks:
        """From a tensor's bytes. Raises BadInput for a length that is no multiple of a block's."""
        if len(data) % kind.size:
            raise BadInput(f"{len(data)} bytes are no whole blocks of {kind.name}")
        rows = np.frombuffer(data, dtype=np.uint8).reshape(-1, kind.size)
        d, at = rows[:, :2].copy().view("<u2")[:, 0], 2
        m = np.zeros(0, dtype=np.uint16)
        if kind.minimum:
            m, at = rows[:, 2:4].copy().view("<u2")[:, 0], 4
        fifth = None
        if kind.bits == 5:
            high = rows[:, at : at + 4].copy().view("<u4")
            fifth, at = (high >> np.arange(BLOCK, dtype=np.uint32)) & 1, at + 4
        body = rows[:, at:]
        if kind.bits == 8:
            codes = body.view(np.int8).astype(np.int32) + 128
        else:
            codes = np.concatenate([body & 15, body >> 4], axis=1).astype(np.int32)
            if fifth is not None:
                codes |= fifth.astype(np.int32) << 4
        return Blocks(kind, codes.reshape(-1), d, m)

    def data(self) -> bytes:
        """The tensor's bytes again."""
        codes, parts = self.codes.reshape(-1, BLOCK), [self.d.astype("<u2")[:, None].view(np.uint8)]
        if self.kind.minimum:
            parts.append(self.m.astype("<u2")[:, None].view(np.uint8))
        if self.kind.bits == 5:
            high = ((codes >> 4).astype(np.uint32) << np.arange(BLOCK, dtype=np.uint32)).sum(1, dtype=np.uint32)
            parts.append(high.astype("<u4")[:, None].view(np.uint8))
        if self.kind.bits == 8:
            parts.append((codes - 128).astype(np.int8).view(np.uint8))
        else:
            low = codes & 15
            parts.append((low[:, :16] | low[:, 16:] << 4).astype(np.uint8))
        return np.ascontiguousarray(np.concatenate(parts, axis=1)).tobytes()

    def values(self) -> np.ndarray:
        """(n,) float32, each operation rounded once."""
        d = self.d.view(np.float16).astype(np.float32)[:, None]
        found = d * (self.codes.reshape(-1, BLOCK) - self.kind.zero).astype(np.float32)
        if self.kind.minimum:
            found = found + self.m.view(np.float16).astype(np.float32)[:, None]
        return np.asarray(found, dtype=np.float32).reshape(-1)


@dataclass(frozen=True)
class Entry:
    """A tensor of a file. shape: the outermost size first. start, size: its bytes in the file; kind: None of one that
    has no such blocks."""

    name: str
    shape: tuple[int, ...]
    kind: BlockType | None
    start: int
    size: int


def entries_of(path: Path) -> list[Entry]:
    """The tensors that a GGUF file has in blocks of these types, and the others with a size of 0.

    Args:
        path: the file, which is read up to its data.

    Returns:
        An entry for each, in the file's order.

    Raises:
        BadInput: no GGUF file of version 2 or 3, or one that ends too early.
    """
    try:
        with path.open("rb") as file:
            return _entries(file.read, file.tell, path.stat().st_size)
    except (struct.error, ValueError, KeyError, OSError, OverflowError, RecursionError) as error:
        raise BadInput(f"{path} is no GGUF file that can be read: {' '.join(str(error).split())[:120]}") from None


def _entries(read: Callable[[int], bytes], tell: Callable[[], int], end: int) -> list[Entry]:
    def number(code: str) -> int:
        return int(struct.unpack("<" + code, read(struct.calcsize(code)))[0])

    def text() -> str:
        size = number("Q")
        if size > _MOST:
            raise ValueError(f"a name of {size} bytes")
        return read(size).decode()

    def value(kind: int) -> object:
        if kind == 8:
            return text()
        if kind == 9:
            inner, count = number("I"), number("Q")
            if count > end:
                raise ValueError(f"an array of {count} entries")
            if inner in _PLAIN:
                read(count * struct.calcsize(_PLAIN[inner]))
                return None
            return [value(inner) for _ in range(count)] and None
        return struct.unpack("<" + _PLAIN[kind], read(struct.calcsize(_PLAIN[kind])))[0]

    if read(4) != b"GGUF" or number("I") not in (2, 3):
        raise ValueError("it does not begin as GGUF of version 2 or 3 does")
    tensors, keys = number("Q"), number("Q")
    if max(tensors, keys) > _MOST:
        raise ValueError(f"{tensors} tensors and {keys} keys")
    alignment = 32
    for _ in range(keys):
        name, found = text(), value(number("I"))
        if name == "general.alignment" and isinstance(found, int):
            alignment = max(found, 1)
    heads, entries = [], list[Entry]()
    for _ in range(tensors):
        name, rank = text(), number("I")
        if rank > 8:
            raise ValueError(f"a tensor of {rank} axes")
        sizes = tuple(number("Q") for _ in range(rank))
        heads.append((name, sizes[::-1], number("I"), number("Q")))
    first = -(-tell() // alignment) * alignment
    for name, shape, type_, offset in heads:
        kind = next((t for t in TYPES if t.number == type_), None)
        count = int(np.prod(shape, dtype=np.float64))
        size = 0 if kind is None or not shape or shape[-1] % BLOCK else count // BLOCK * kind.size
        if first + offset + size > end:
            raise ValueError(f"the tensor '{name}' ends behind the file's end")
        entries.append(Entry(name, shape, kind if size else None, first + offset, size))
    return entries
