"""GGUF files (llama.cpp's) without their package: where their tensors lie.

The file: ``GGUF``, version (2 or 3), the numbers of tensors and of keys; keys with their values; for each tensor its
name, its sizes (the innermost first), its type and the offset of its data, which begin at the next multiple of
``general.alignment`` (32 unless it is a key). All is little-endian. ``gguf_blocks`` has what the data are.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nqbench.api.errors import BadInput
from nqbench.api.toolkit.gguf_blocks import TYPES, BlockType, unread_type

_MOST = 1 << 20  # tensors, keys, bytes of a name
_PLAIN = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True)
class Entry:
    """A tensor of a file. shape: the outermost size first. start, size: its bytes in the file; kind: None where it has
    no blocks or they cannot be read; unread: then the name of their type."""

    name: str
    shape: tuple[int, ...]
    kind: BlockType | None
    start: int
    size: int
    unread: str = ""


def entries_of(path: Path) -> list[Entry]:
    """The tensors that a GGUF file has in blocks that can be read, and the others with a size of 0.

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
        size = 0 if kind is None or not shape or shape[-1] % kind.weights else count // kind.weights * kind.size
        if first + offset + size > end:
            raise ValueError(f"the tensor '{name}' ends behind the file's end")
        entries.append(Entry(name, shape, kind if size else None, first + offset, size, unread_type(type_)))
    return entries
