"""A sound coder, and copies of it that break the contract in one way each."""

from __future__ import annotations

import os
import struct
import zlib

import numpy as np

from nqbench.api import Coder, CorruptFile, Encoded, Stream, StreamSpec, check_decoded


class SoundCoder(Coder, name="sound-coder"):
    """DEFLATE over four bytes per symbol."""

    def encode(self, stream: Stream) -> Encoded:
        return Encoded(b"", zlib.compress(stream.symbols.astype("<i4").tobytes(), 6))

    def decode(self, encoded: Encoded, spec: StreamSpec) -> np.ndarray:
        unfold = zlib.decompressobj()
        try:
            data = unfold.decompress(encoded.payload, 4 * spec.count + 1)
        except zlib.error as error:
            raise CorruptFile("not a DEFLATE stream") from error
        if len(data) != 4 * spec.count:
            raise CorruptFile(f"{len(data)} bytes where {4 * spec.count} were expected")
        return check_decoded(np.frombuffer(data, "<i4").astype(np.int32), spec)


class LosesASymbol(SoundCoder, name="loses-a-symbol"):
    """Takes the largest symbol for the one below it."""

    def encode(self, stream: Stream) -> Encoded:
        symbols = stream.symbols.copy()
        symbols[symbols == stream.spec.alphabet - 1] = max(0, stream.spec.alphabet - 2)
        return super().encode(Stream(symbols, stream.spec))


class BytesOnly(SoundCoder, name="bytes-only"):
    """Works for alphabets up to 256."""

    def encode(self, stream: Stream) -> Encoded:
        if stream.spec.alphabet > 256:
            raise ValueError("too many symbols")
        return super().encode(stream)


class WrongType(SoundCoder, name="wrong-type"):
    """Decodes to int64."""

    def decode(self, encoded: Encoded, spec: StreamSpec) -> np.ndarray:
        return super().decode(encoded, spec).astype(np.int64)


class SortsInPlace(SoundCoder, name="sorts-in-place"):
    """Leaves the stream's symbols sorted."""

    def encode(self, stream: Stream) -> Encoded:
        result = super().encode(stream)
        stream.symbols.sort()
        return result


class Salted(SoundCoder, name="salted"):
    """Writes random bytes into its table."""

    def encode(self, stream: Stream) -> Encoded:
        return Encoded(os.urandom(4), super().encode(stream).payload)


class KeepsTheTableItself(SoundCoder, name="keeps-the-table-itself"):
    """Remembers in memory what it should have written."""

    def encode(self, stream: Stream) -> Encoded:
        _MEMORY[stream.spec.count] = stream.symbols.copy()
        return Encoded(b"", struct.pack("<I", stream.spec.count))

    def decode(self, encoded: Encoded, spec: StreamSpec) -> np.ndarray:
        if len(encoded.payload) != 4 or spec.count not in _MEMORY:
            raise CorruptFile("unknown stream")
        return check_decoded(_MEMORY[spec.count], spec)


_MEMORY: dict[int, np.ndarray] = {}


class CrashesOnGarbage(SoundCoder, name="crashes-on-garbage"):
    """Lets the library's own error out."""

    def decode(self, encoded: Encoded, spec: StreamSpec) -> np.ndarray:
        return np.frombuffer(zlib.decompress(encoded.payload), "<i4").astype(np.int32)[: spec.count]


class TrustsItsLength(SoundCoder, name="trusts-its-length"):
    """Unfolds whatever there is before it looks at the count."""

    def decode(self, encoded: Encoded, spec: StreamSpec) -> np.ndarray:
        try:
            data = zlib.decompress(encoded.payload)
        except zlib.error as error:
            raise CorruptFile("not a DEFLATE stream") from error
        if len(data) != 4 * spec.count:
            raise CorruptFile(f"{len(data)} bytes where {4 * spec.count} were expected")
        return check_decoded(np.frombuffer(data, "<i4").astype(np.int32), spec)


class TrustsItsSymbols(SoundCoder, name="trusts-its-symbols"):
    """Does not look whether symbols are in the alphabet."""

    def decode(self, encoded: Encoded, spec: StreamSpec) -> np.ndarray:
        unfold = zlib.decompressobj()
        try:
            data = unfold.decompress(encoded.payload, 4 * spec.count + 1)
        except zlib.error as error:
            raise CorruptFile("not a DEFLATE stream") from error
        if len(data) != 4 * spec.count:
            raise CorruptFile("too short")
        return np.frombuffer(data, "<i4").astype(np.int32)


class InfiniteRate(SoundCoder, name="infinite-rate"):
    """Charges infinitely much for a symbol that has not occurred."""

    def rate(self, counts: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            return np.asarray(np.log2(counts.sum()) - np.log2(counts.astype(np.float64)))


class RateInBytes(SoundCoder, name="rate-in-bytes"):
    """Tells the price in bytes, not in bits."""

    def rate(self, counts: np.ndarray) -> np.ndarray:
        return super().rate(counts) / 8


class AbortsOnGarbage(SoundCoder, name="aborts-on-garbage"):
    """Ends the process, as an assertion in a C library would."""

    def decode(self, encoded: Encoded, spec: StreamSpec) -> np.ndarray:
        try:
            return super().decode(encoded, spec)
        except CorruptFile:
            os.abort()
