"""Coders of the standard library and of zstandard, on symbols packed into 1, 2 or 4 little-endian bytes.

Bitstream: the table is empty. The payload is what the library writes for the packed symbols (1 byte each for alphabets
up to 2^8, 2 up to 2^16, 4 above): ``bzip2`` one .bz2 stream; ``zlib`` one raw deflate stream (RFC 1951); ``xz`` one raw
LZMA2 stream, to be decoded with a dictionary of at least the size of the packed symbols; ``zstd`` one frame (RFC 8878)
that states its content size. An empty stream has an empty payload.

Every decompressor is given the largest allowed output size, so that a decompression bomb is refused at the first excess
byte.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from typing import Any, Literal, Protocol

import numpy as np
from pydantic import Field

from nqbench.api import Coder, CorruptFile, Encoded, Stream, StreamSpec
from nqbench.api.toolkit.bits import byte_width, pack_bytes, unpack_bytes


class _Decompressor(Protocol):
    """The common interface of the decompressors of bz2 and lzma."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class ByteCoder(Coder):
    """A general-purpose compressor, applied to packed symbols."""

    def encode(self, stream: Stream) -> Encoded:
        packed = pack_bytes(stream.symbols, stream.spec.alphabet)
        return Encoded(b"", self.compress(packed) if packed else b"")

    def decode(self, encoded: Encoded, spec: StreamSpec) -> np.ndarray:
        if encoded.table:
            raise CorruptFile("this coder has no table", section="coder_table", offset=0)
        size = spec.count * byte_width(spec.alphabet)
        if not size and not encoded.payload:
            return np.empty(0, dtype=np.int32)
        data = self.decompress(encoded.payload, size)
        if len(data) != size:
            more = "more than " if len(data) > size else ""
            raise CorruptFile(f"the payload holds {more}{min(len(data), size)} bytes where {size} were expected")
        return unpack_bytes(data, spec.alphabet)

    def compress(self, data: bytes) -> bytes:
        raise NotImplementedError

    def decompress(self, data: bytes, size: int) -> bytes:
        """At most size + 1 bytes. Raises CorruptFile."""
        raise NotImplementedError


def _whole(decompressor: _Decompressor, data: bytes, size: int, errors: type[Exception]) -> bytes:
    """Runs a bz2 or lzma decompressor over exactly one stream."""
    try:
        out = decompressor.decompress(data, max_length=size + 1)
        if not decompressor.eof and len(out) == size:  # the end mark is only read when more output is requested
            out += decompressor.decompress(b"", max_length=1)
    except errors as error:
        raise CorruptFile(f"the payload is no valid stream ({error})") from None
    if len(out) <= size and not decompressor.eof:
        raise CorruptFile("the payload ends early", offset=len(data))
    if decompressor.unused_data:
        raise CorruptFile("bytes follow the stream's end", offset=len(data) - len(decompressor.unused_data))
    return out


class Bzip2(ByteCoder, name="bzip2"):
    """Burrows-Wheeler transform and Huffman codes, by the standard library's bz2."""

    level: int = Field(9, ge=1, le=9)
    """Block size in 100,000 bytes."""

    def compress(self, data: bytes) -> bytes:
        return bz2.compress(data, self.level)

    def decompress(self, data: bytes, size: int) -> bytes:
        return _whole(bz2.BZ2Decompressor(), data, size, OSError)


class Zlib(ByteCoder, name="zlib", paper="RFC 1951"):
    """Deflate: LZ77 with a 32 kB window and Huffman codes, by zlib."""

    level: int = Field(9, ge=0, le=9)
    """Effort."""

    strategy: Literal["default", "filtered", "huffman-only", "rle"] = "default"
    """``huffman-only`` uses Huffman codes without searching for repetitions."""

    def compress(self, data: bytes) -> bytes:
        strategy = {
            "default": zlib.Z_DEFAULT_STRATEGY,
            "filtered": zlib.Z_FILTERED,
            "huffman-only": zlib.Z_HUFFMAN_ONLY,
            "rle": zlib.Z_RLE,
        }[self.strategy]
        compressor = zlib.compressobj(self.level, zlib.DEFLATED, -15, 9, strategy)
        return compressor.compress(data) + compressor.flush()

    def decompress(self, data: bytes, size: int) -> bytes:
        decompressor = zlib.decompressobj(-15)
        try:
            out = decompressor.decompress(data, size + 1)
        except zlib.error as error:
            raise CorruptFile(f"the payload is no deflate stream ({error})") from None
        if len(out) <= size and not decompressor.eof:
            raise CorruptFile("the payload ends early", offset=len(data))
        if decompressor.unused_data:
            raise CorruptFile("bytes follow the stream's end", offset=len(data) - len(decompressor.unused_data))
        return out


class Xz(ByteCoder, name="xz"):
    """LZMA2: LZ77 with a large window and a context-modelling range coder, by the standard library's lzma."""

    preset: int = Field(9, ge=0, le=9)
    """Effort."""

    extreme: bool = False
    """Slightly smaller output in twice the time."""

    def compress(self, data: bytes) -> bytes:
        return lzma.compress(data, lzma.FORMAT_RAW, filters=self._filters(len(data)))

    def decompress(self, data: bytes, size: int) -> bytes:
        # raw LZMA2 does not state its window: it is set here, not by the file
        decompressor = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=self._filters(size))
        return _whole(decompressor, data, size, lzma.LZMAError)

    def _filters(self, size: int) -> list[dict[str, Any]]:
        preset = self.preset | (lzma.PRESET_EXTREME if self.extreme else 0)
        return [{"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": min(max(size, 4096), 1 << 30)}]


class Zstd(ByteCoder, name="zstd", requires="zstandard", paper="RFC 8878"):
    """Zstandard: LZ77 with Huffman codes and finite state entropy, by the package zstandard."""

    level: int = Field(19, ge=1, le=22)
    """Effort."""

    def compress(self, data: bytes) -> bytes:
        import zstandard

        return zstandard.ZstdCompressor(level=self.level, write_checksum=False).compress(data)

    def decompress(self, data: bytes, size: int) -> bytes:
        import zstandard

        try:
            stated = zstandard.frame_content_size(data)
            if stated != size:
                raise CorruptFile(f"the frame states {stated} bytes where {size} were expected", offset=0)
            return zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise CorruptFile(f"the payload is no zstd frame ({error})") from None
