"""The bitstreams are what the modules' docstrings say: slow decoders written from those alone, and golden files."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from nqbench_coders.huffman import Huffman
from nqbench_coders.lzw import Lzw
from nqbench_coders.rans import Rans
from nqbench_coders.raw import Raw

from nqbench.api import Coder, Encoded, Stream

GOLDEN_STREAMS: dict[str, tuple[list[int], int]] = {
    "levels": ([int(c) for c in "3323433233143323053323343332333"], 6),
    "sparse": ([70000, 5, 70000, 70000, 16000000, 70000, 5, 70000] * 3, 1 << 24),
    "same": ([4] * 9, 5),
    "empty": ([], 3),
}
GOLDEN = [
    (Huffman(), "levels", "ea61d63e", "2623f89ee23080"),
    (Huffman(), "sparse", "2f40003dd29c0005a65bbb", "4688d11a00"),
    (Huffman(), "same", "37c0", ""),
    (Huffman(), "empty", "", ""),
    (Rans(), "levels", "04fe541936", "a649d48afa3a47"),
    (Rans(), "sparse", "022fc0003dd2960002d32de0", "e948473a01"),
    (Rans(), "same", "0037c0", ""),
    (Rans(), "empty", "", ""),
    (Lzw(), "levels", "", "9b860c27f40628cb3c6800"),
    (Lzw(), "sparse", "032fc0003dd2800016996ed5", "916845867c04"),
    (Lzw(), "same", "0137c0", "15"),
    (Lzw(), "empty", "", ""),
    (Raw(), "levels", "", "9bc64d5bb869e8a68ddbb40d"),
    (Raw(), "same", "", "24499204"),
]
GOLDEN_LONG = [  # long enough for four strings and eight states; the payload by its SHA-256
    (Huffman(), "f2faf866a14b3d", "09c01cfcb976904fdf149ea917141f2d8e7bee0ca6c54d52d1bcbc45eefd28a2"),
    (
        Rans(),
        "0ae317f6a32981f0f3efc2546ce98e82895dab6c822878473e07f25d",
        "015898be9b46ddac8bc61e4bb2dc0253cb1c1acf45daf7cb9db59d1234b78c80",
    ),
    (Lzw(), "", "ad1d65a8243ee920953e1c505785556b55b35c345fdf32b7c5632af9484315cf"),
    (
        Lzw(dictionary_bits=9, when_full="reset"),
        "00",
        "e3d509214a993b43b824e3337db7d825e4646da6dbd1d1c5fb190f6d11eb4de2",
    ),
]


def long_stream() -> Stream:
    """2^19 symbols of 40, few large, from a linear congruential generator."""
    symbols, value = [], 1
    for _ in range(1 << 12):
        value = (value * 1103515245 + 12345) % 2**31
        symbols.append(((value >> 8) % 997) ** 2 * 40 // 997**2)
    return Stream.of(np.tile(symbols, 1 << 7), 40)


@pytest.mark.parametrize(("coder", "stream", "table", "payload"), GOLDEN)
def test_old_files_stay_readable(coder: Coder, stream: str, table: str, payload: str) -> None:
    symbols, alphabet = GOLDEN_STREAMS[stream]
    encoded = Encoded(bytes.fromhex(table), bytes.fromhex(payload))
    assert coder.decode(encoded, Stream.of(symbols, alphabet).spec).tolist() == symbols


@pytest.mark.parametrize(("coder", "table", "digest"), GOLDEN_LONG)
def test_long_streams_are_written_as_before(coder: Coder, table: str, digest: str) -> None:
    encoded = coder.encode(long_stream())
    assert encoded.table.hex() == table
    assert hashlib.sha256(encoded.payload).hexdigest() == digest


class Arithmetic:
    """The binary arithmetic decoder and its contexts, from the docstring of nqbench_coders.table."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at, self.low, self.high, self.value = data, 0, 0, 2**32 - 1, 0
        for _ in range(4):
            self.shift_in()
        self.contexts: dict[object, list[int]] = {}

    def shift_in(self) -> None:
        byte = self.data[self.at] if self.at < len(self.data) else 0
        self.at += 1
        self.value = (self.value << 8 | byte) & 0xFFFFFFFF

    def bit(self, context: object = None) -> int:
        p, n = self.contexts.setdefault(context, [32768, 0])
        span = self.high - self.low
        middle = self.low + (span >> 16) * p + ((span & 65535) * p >> 16)
        one = self.value <= middle
        self.low, self.high = (self.low, middle) if one else (middle + 1, self.high)
        while self.low >> 24 == self.high >> 24:
            self.low, self.high = self.low << 8 & 0xFFFFFFFF, (self.high << 8 & 0xFFFFFFFF) | 255
            self.shift_in()
        if context is not None:
            p += (65536 - p) // (n + 2) if one else -(p // (n + 2))
            self.contexts[context] = [min(max(p, 64), 65472), min(n + 1, 62)]
        return int(one)

    def plain(self, bits: int, number: int = 0) -> int:
        for _ in range(bits):
            number = number << 1 | self.bit()
        return number


def read_table(data: bytes, target: int, frequencies: bool) -> dict[int, int]:
    """Symbol -> code length or frequency."""
    source, found, weight = Arithmetic(data), {}, 0
    symbol, level, trend, wide = -1, -1, "none", False
    while weight < target:
        bits = 0
        while bits < 24 and source.bit(("gap", wide, bits)):
            bits += 1
        gap = source.plain(bits, 1)
        wide = gap > 1
        symbol += gap
        if level < 0:
            level = source.plain(5)
        elif source.bit(("same", trend)):
            trend = "none"
        else:
            trend = "up" if source.bit(("higher", trend)) else "down"
            size = 1
            while size < 31 and source.bit(("size", size)):
                size += 1
            level += size if trend == "up" else -size
        found[symbol] = source.plain(level, 1) if frequencies else level
        weight += found[symbol] if frequencies else target >> level
    assert weight == target
    return found


def read_huffman(encoded: Encoded, count: int) -> list[int]:
    lengths = read_table(encoded.table, 1 << 31, frequencies=False)
    code, last, book = 0, 0, {}
    for length, symbol in sorted((length, symbol) for symbol, length in lengths.items()):
        code <<= length - last
        book[length, code] = symbol
        code, last = code + 1, length
    sizes, strings, payload = [], [], encoded.payload
    if count >= 1 << 18:
        for _ in range(3):
            shift, size = 0, 0
            while True:
                byte, payload = payload[0], payload[1:]
                size |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    break
            sizes.append(size)
    for size in sizes:
        strings.append(payload[:size])
        payload = payload[size:]
    out = []
    for i, string in enumerate([*strings, payload]):
        quarter = -(-count // 4) if sizes else count
        stop = min(quarter * (i + 1), count)
        word, length = 0, 0
        for byte in string:
            for bit in range(7, -1, -1):
                word, length = word << 1 | byte >> bit & 1, length + 1
                if len(out) < stop and (length, word) in book:
                    out.append(book[length, word])
                    word, length = 0, 0
    return out


def read_rans(encoded: Encoded, count: int) -> list[int]:
    precision = encoded.table[0]
    frequencies = read_table(encoded.table[1:], 1 << precision, frequencies=True)
    slots, start = [], {}
    for symbol, frequency in frequencies.items():
        start[symbol] = len(slots)
        slots += [symbol] * frequency
    size = len(encoded.payload)
    if count >= 1 << 19:
        states = [int.from_bytes(encoded.payload[8 * i : 8 * i + 8], "little") for i in range(8)]
        head = 64
    else:
        head = size if size <= 8 else (size - 1) % 4 + 5
        states = [int.from_bytes(encoded.payload[:head], "little")]
    words = [int.from_bytes(encoded.payload[i : i + 4], "little") for i in range(head, size, 4)][::-1]
    out = []
    for i in range(count):
        x = states[i % len(states)]
        slot = x % 2**precision
        symbol = slots[slot]
        x = frequencies[symbol] * (x >> precision) + slot - start[symbol]
        if x < 1 << 31 and words:
            x = x << 32 | words.pop()
        states[i % len(states)] = x
        out.append(symbol)
    assert not words
    assert set(states) == {1 << 31 if count >= 1 << 19 else 0}
    return out


@pytest.mark.parametrize("name", ["levels", "sparse", "same", "long"])
def test_decoders_written_from_the_docstrings_agree(name: str) -> None:
    stream = long_stream() if name == "long" else Stream.of(*GOLDEN_STREAMS[name])
    if name != "same":
        assert read_huffman(Huffman().encode(stream), stream.spec.count) == stream.symbols.tolist()
    assert read_rans(Rans().encode(stream), stream.spec.count) == stream.symbols.tolist()
