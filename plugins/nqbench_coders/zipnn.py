"""ZipNN (Hershcovitch et al. 2024, arXiv:2411.05239) by its authors' package: byte planes, with Huffman-coded
exponents.

All tensors of a dtype are concatenated to one buffer, to its advantage: headers and tables are stored per buffer, not
per tensor. It does not support float64, whose bytes are passed as if they were float32.

Bitstream: CRC-32 of what follows (4 bytes, little-endian); a byte for each tensor in order, its dtype (0 float32, 1
float16, 2 bfloat16, 3 float64); for each dtype that occurs, in this order, the size of its buffer as an ``int`` of the
file's specification, and the buffer, as the package writes it with ``input_format="byte"``.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from nqbench.api import Codec, CorruptFile
from nqbench.api.toolkit.bits import ByteReader, varint

_DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(np.uint16),
    "float64": np.dtype(np.float64),
}
_STORED = list(_DTYPES.values())


class ZipNN(Codec, name="zipnn", requires="zipnn", paper="arXiv:2411.05239"):
    """Lossless compression of floats by the package zipnn: byte planes, Huffman-coded where that saves bytes."""

    exact: ClassVar[bool] = True

    def compress(self, tensors: Mapping[str, np.ndarray], seed: int) -> bytes:
        numbers = [_STORED.index(t.dtype) for t in tensors.values()]
        out = bytes(numbers)
        for number, name in enumerate(_DTYPES):
            own = [t.tobytes() for t, n in zip(tensors.values(), numbers, strict=True) if n == number]
            if any(own):
                buffer = bytes(_library(name).compress(bytearray(b"".join(own))))
                out += varint(len(buffer)) + buffer
        return zlib.crc32(out).to_bytes(4, "little") + out

    def decompress(self, data: bytes, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, np.ndarray]:
        if len(data) < 4 or zlib.crc32(data[4:]).to_bytes(4, "little") != data[:4]:
            raise CorruptFile("the stream's checksum is wrong", offset=0)
        reader = ByteReader(data[4:])
        numbers = reader.take(len(shapes))
        if numbers and max(numbers) >= len(_DTYPES):
            raise CorruptFile("a tensor is declared to be of an unknown dtype", offset=4)
        back: dict[str, np.ndarray] = {}
        for number, name in enumerate(_DTYPES):
            own = [(n, s) for (n, s), chosen in zip(shapes.items(), numbers, strict=True) if chosen == number]
            sizes = [int(np.prod(shape, dtype=np.int64)) for _, shape in own]
            plain = _plain(reader, name, sum(sizes) * _STORED[number].itemsize) if sum(sizes) else b""
            start, values = 0, np.frombuffer(plain, dtype=_STORED[number])
            for (tensor, shape), size in zip(own, sizes, strict=True):
                back[tensor] = values[start : start + size].reshape(shape).copy()
                start += size
        if reader.left:
            raise CorruptFile("bytes follow the last buffer", offset=4 + reader.offset)
        return {name: back[name] for name in shapes}


def _plain(reader: ByteReader, name: str, size: int) -> bytes:
    start = 4 + reader.offset
    buffer = reader.take(reader.varint(reader.left, "a buffer's size"))
    try:
        plain = bytes(_library(name).decompress(buffer))
    except Exception as error:
        raise CorruptFile(f"zipnn cannot decode a buffer: {type(error).__name__}: {error}", offset=start) from error
    if len(plain) != size:
        raise CorruptFile(f"a buffer holds {len(plain)} bytes, not {size}", offset=start)
    return plain


def _library(dtype: str) -> Any:
    from zipnn import ZipNN as Library

    return Library(input_format="byte", bytearray_dtype="float32" if dtype == "float64" else dtype, threads=1)
