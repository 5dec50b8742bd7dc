"""What coders share: varints, whole-byte and fixed-width packing, and a reader that trusts nothing.

Everything is little-endian. A varint is unsigned LEB128: seven bits a byte, the lowest first, the top bit set on every
byte but the last; at most nine bytes (63 bits).
"""

from __future__ import annotations

import numpy as np

from nqbench.api.errors import CorruptFile

_CHUNK = 1 << 16
"""Symbols that are spread into single bits at a time (32 bytes each)."""


def varint(value: int) -> bytes:
    """``value`` in [0, 2^63) as LEB128."""
    if not 0 <= value < 1 << 63:
        raise ValueError(f"{value} does not fit a varint")
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


class ByteReader:
    """Reads a byte string front to back; every lack of bytes is a ``CorruptFile`` with its offset."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.offset = 0

    @property
    def left(self) -> int:
        return len(self.data) - self.offset

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        if count > self.left:
            raise CorruptFile(f"{count} bytes are needed and {self.left} are left", offset=self.offset)
        self.offset += count
        return self.data[self.offset - count : self.offset]

    def rest(self) -> bytes:
        return self.take(self.left)

    def varint(self, limit: int = (1 << 63) - 1, what: str = "a number") -> int:
        """The next varint, which must not exceed ``limit``."""
        value, start = 0, self.offset
        for shift in range(0, 63, 7):
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                if value > limit:
                    raise CorruptFile(f"{what} is {value}, above its limit {limit}", offset=start)
                return value
        raise CorruptFile(f"{what} is longer than nine bytes", offset=start)


def bit_width(alphabet: int) -> int:
    """ceil(log2 alphabet): bits of a fixed-length code; 0 for one symbol."""
    return (alphabet - 1).bit_length()


def byte_width(alphabet: int) -> int:
    """1, 2 or 4: whole bytes that hold a symbol."""
    return 1 if alphabet <= 1 << 8 else 2 if alphabet <= 1 << 16 else 4


def pack_bytes(symbols: np.ndarray, alphabet: int) -> bytes:
    """symbols: (n,) int32 in [0, alphabet) -> ``byte_width(alphabet)`` little-endian bytes each."""
    return symbols.astype(f"<u{byte_width(alphabet)}").tobytes()


def unpack_bytes(data: bytes, alphabet: int) -> np.ndarray:
    """The inverse of ``pack_bytes``: (n,) int32; ``CorruptFile`` if the bytes are no whole symbols of the alphabet."""
    width = byte_width(alphabet)
    if len(data) % width:
        raise CorruptFile(f"{len(data)} bytes are no whole number of {width}-byte symbols")
    wide = np.frombuffer(data, dtype=f"<u{width}")
    if wide.size and int(wide.max()) >= alphabet:
        bad = int(np.argmax(wide >= alphabet))
        raise CorruptFile(f"symbol number {bad} is {int(wide[bad])}, outside [0, {alphabet})")
    return wide.astype(np.int32)


def pack_bits(symbols: np.ndarray, width: int) -> bytes:
    """symbols: (n,) int32 in [0, 2^width) -> ceil(n width / 8) bytes: width bits each, lowest bit first, no gaps.

    Bit b of symbol i is bit (i width + b) % 8 of byte (i width + b) // 8; the unused bits of the last byte are 0.
    """
    parts = []
    for start in range(0, symbols.size, _CHUNK):  # a multiple of 8 symbols ends on a byte
        wide = symbols[start : start + _CHUNK].astype("<u4").view(np.uint8).reshape(-1, 4)
        bits = np.unpackbits(wide, axis=1, bitorder="little")[:, :width]
        parts.append(np.packbits(bits, bitorder="little").tobytes())
    return b"".join(parts)


def unpack_bits(data: bytes, width: int, count: int) -> np.ndarray:
    """The inverse of ``pack_bits``: (count,) int32; ``CorruptFile`` unless the bytes are exactly those of ``count``."""
    need = (count * width + 7) // 8
    if len(data) != need:
        raise CorruptFile(f"{need} bytes are needed and {len(data)} are there", offset=min(need, len(data)))
    out = np.zeros(count, dtype=np.int32)
    if not width:
        return out
    raw = np.frombuffer(data, dtype=np.uint8)
    for start in range(0, count, _CHUNK):
        part = out[start : start + _CHUNK]
        used = raw[start * width // 8 : ((start + part.size) * width + 7) // 8]
        bits = np.zeros((part.size, 32), dtype=np.uint8)
        bits[:, :width] = np.unpackbits(used, count=part.size * width, bitorder="little").reshape(-1, width)
        part[:] = np.packbits(bits, bitorder="little").view("<i4")
    if (count * width) % 8 and raw[-1] >> (count * width) % 8:
        raise CorruptFile("the bits after the last symbol are not zero", offset=len(data) - 1)
    return out


def words(data: bytes, order: str = "<") -> np.ndarray:
    """The bytes as uint64 words of the given order, zero-padded by at least two words, so that a window of 64 bits may
    be read at any bit of ``data``."""
    padded = np.zeros(len(data) // 8 + 3, dtype=np.uint64)
    padded.view(np.uint8)[: len(data)] = np.frombuffer(data, dtype=np.uint8)
    return padded.astype(np.uint64, copy=False) if order == "<" else padded.byteswap(inplace=True)
