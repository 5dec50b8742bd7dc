"""Coders of other packages, for comparison; each is registered if its package is installed (extra ``peers``).

``ncompress`` (Unix compress, .Z) and ``imagecodecs-lzw`` (TIFF's LZW) take symbols packed into 1, 2 or 4 bytes;
``pcodec`` takes them as unsigned integers; ``constriction`` (ANS) and ``dahuffman`` have a table by
``nqbench_coders.table``: constriction's as ``rans`` chooses it (one byte of precision, then the frequencies),
dahuffman's the exact counts.

Do not use them for archives: the packages define the payload and may change it, and only nqbench's own coders are
fuzzed.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from nqbench.api import Coder, CorruptFile, Encoded, Stream, StreamSpec, check_decoded
from nqbench_coders.library import ByteCoder
from nqbench_coders.rans import MOST_PRECISION, best_table
from nqbench_coders.symbol_counts import used_symbols
from nqbench_coders.table import read_table, write_table


class _Bounded(io.BytesIO):
    """A file that keeps ``most`` + 1 bytes and drops the rest. It raises no exception, which would end the process,
    since the caller is C++."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def write(self, data: Any) -> int:
        super().write(bytes(data)[: max(self.most + 1 - self.tell(), 0)])
        return len(data)


class Ncompress(ByteCoder, name="ncompress", requires="ncompress"):
    """LZW in the format of Unix compress (.Z, 16 bits), by the package ncompress."""

    def compress(self, data: bytes) -> bytes:
        import ncompress

        return bytes(ncompress.compress(data))

    def decompress(self, data: bytes, size: int) -> bytes:
        import ncompress

        out = _Bounded(size)
        try:
            ncompress.decompress(data, out)
        except (ValueError, RuntimeError) as error:
            raise CorruptFile(f"the payload is no .Z stream ({error})") from None
        return out.getvalue()


class ImagecodecsLzw(ByteCoder, name="imagecodecs-lzw", requires="imagecodecs"):
    """LZW in the format of TIFF (12 bits), by the package imagecodecs."""

    def compress(self, data: bytes) -> bytes:
        import imagecodecs

        return bytes(imagecodecs.lzw_encode(data))

    def decompress(self, data: bytes, size: int) -> bytes:
        import imagecodecs

        try:
            return bytes(imagecodecs.lzw_decode(data, out=size + 1))
        except (RuntimeError, ValueError) as error:
            raise CorruptFile(f"the payload is no LZW stream ({error})") from None


class Pcodec(Coder, name="pcodec", requires="pcodec"):
    """Binned range coding of numbers, by the package pcodec."""

    def encode(self, stream: Stream) -> Encoded:
        from pcodec import ChunkConfig, standalone

        numbers = stream.symbols.astype(_number(stream.spec.alphabet))
        return Encoded(b"", standalone.simple_compress(numbers, ChunkConfig()) if numbers.size else b"")

    def decode(self, encoded: Encoded, spec: StreamSpec) -> np.ndarray:
        from pcodec import standalone

        out = np.zeros(spec.count, dtype=_number(spec.alphabet))
        if not spec.count:
            return out.astype(np.int32)
        try:
            progress = standalone.simple_decompress_into(encoded.payload, out)
        except (RuntimeError, TypeError) as error:
            raise CorruptFile(f"the payload is no pcodec stream ({error})") from None
        if not progress.finished or progress.n_processed != spec.count:
            raise CorruptFile(f"the payload does not hold {spec.count} symbols")
        return check_decoded(out.astype(np.int64), spec)


def _number(alphabet: int) -> type[np.uint16] | type[np.uint32]:
    return np.uint16 if alphabet <= 1 << 16 else np.uint32


class Constriction(Coder, name="constriction", requires="constriction"):
    """Asymmetric numeral system with a categorical model, by the package constriction."""

    def encode(self, stream: Stream) -> Encoded:
        import constriction

        if not stream.symbols.size:
            return Encoded(b"", b"")
        used, counts = used_symbols(stream)
        _, frequencies, table = best_table(used, counts)
        if used.size == 1:
            return Encoded(table, b"")
        coder = constriction.stream.stack.AnsCoder()
        coder.encode_reverse(np.searchsorted(used, stream.symbols).astype(np.int32), _categorical(frequencies))
        return Encoded(table, coder.get_compressed().astype("<u4").tobytes())

    def decode(self, encoded: Encoded, spec: StreamSpec) -> np.ndarray:
        import constriction

        if not spec.count:
            return np.empty(0, dtype=np.int32)
        if not encoded.table or encoded.table[0] > MOST_PRECISION:
            reason = f"the table does not begin with a precision of at most {MOST_PRECISION}"
            raise CorruptFile(reason, section="coder_table", offset=0)
        target = 1 << encoded.table[0]
        table = read_table(encoded.table, spec.alphabet, spec.count, target, with_extra=True, start=1)
        if table.used.size == 1:
            return np.full(spec.count, table.used[0], dtype=np.int32)
        if len(encoded.payload) % 4:
            raise CorruptFile("the payload is no whole number of words", offset=len(encoded.payload))
        words = np.frombuffer(encoded.payload, dtype="<u4").astype(np.uint32)
        try:
            coder = constriction.stream.stack.AnsCoder(words)
        except ValueError as error:
            raise CorruptFile(f"the payload is no ANS state ({error})") from None
        ranks = coder.decode(_categorical((1 << table.classes) + table.extra), spec.count)
        if not coder.is_empty():
            raise CorruptFile("words follow the last symbol")
        used: np.ndarray = table.used.astype(np.int32)[ranks]
        return used


def _categorical(frequencies: np.ndarray) -> object:
    import constriction

    probabilities = frequencies / frequencies.sum()
    return constriction.stream.model.Categorical(probabilities.astype(np.float32), perfect=False)


class Dahuffman(Coder, name="dahuffman", requires="dahuffman"):
    """Huffman code in plain Python, by the package dahuffman."""

    def encode(self, stream: Stream) -> Encoded:
        if not stream.symbols.size:
            return Encoded(b"", b"")
        used, counts = used_symbols(stream)
        classes = np.frexp(counts)[1].astype(np.int64) - 1
        table = write_table(used, classes, counts - (1 << classes))
        return Encoded(table, bytes(_dahuffman(used, counts).encode(stream.symbols.tolist())))

    def decode(self, encoded: Encoded, spec: StreamSpec) -> np.ndarray:
        if not spec.count:
            return np.empty(0, dtype=np.int32)
        table = read_table(encoded.table, spec.alphabet, spec.count, spec.count, with_extra=True)
        codec = _dahuffman(table.used, (1 << table.classes) + table.extra)
        if len(encoded.payload) > 8 * spec.count + 8:
            raise CorruptFile("the payload is too long")
        symbols = codec.decode(encoded.payload)
        return check_decoded(np.array(symbols, dtype=np.int64), spec)


def _dahuffman(used: np.ndarray, counts: np.ndarray):  # type: ignore[no-untyped-def]  # an untyped package's class
    import dahuffman

    return dahuffman.HuffmanCodec.from_frequencies(dict(zip(used.tolist(), counts.tolist(), strict=True)))
