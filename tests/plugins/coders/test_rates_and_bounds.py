"""What coders cost, against the entropy, against the optimal prefix code, and against brute force."""

from __future__ import annotations

import heapq
import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nqbench_coders import rans
from nqbench_coders.huffman import Huffman, canonical_codes, length_limit
from nqbench_coders.kernels.prefix import code_lengths, limited_lengths
from nqbench_coders.lzw import Lzw
from nqbench_coders.rans import Rans, quantized_frequencies
from nqbench_coders.raw import Raw
from nqbench_coders.table import write_table

from nqbench.api import Coder, CorruptFile, Encoded, Stream, StreamSpec


def laplace(scale: float, count: int) -> Stream:
    """Laplace weights on a grid."""
    levels = np.rint(np.random.default_rng(0).laplace(0, scale, count)).astype(np.int32)
    levels -= levels.min()
    return Stream.of(levels, int(levels.max()) + 1)


def entropy_bits(stream: Stream) -> float:
    counts = np.bincount(stream.symbols)
    counts = counts[counts > 0]
    return float(-(counts * np.log2(counts / counts.sum())).sum())


def bits(coder: Coder, stream: Stream) -> int:
    encoded = coder.encode(stream)
    np.testing.assert_array_equal(coder.decode(encoded, stream.spec), stream.symbols)
    return 8 * (len(encoded.table) + len(encoded.payload))


def optimal_prefix_bits(counts: list[int]) -> int:
    """Huffman's sum of merged weights, by a heap."""
    heap, total = list(counts), 0
    heapq.heapify(heap)
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        total += merged
        heapq.heappush(heap, merged)
    return total


@pytest.mark.parametrize("scale", [0.4, 1.0, 3.0, 20.0])
def test_rans_is_within_a_thousandth_of_the_entropy(scale: float) -> None:
    stream = laplace(scale, 1_000_000)
    assert bits(Rans(), stream) < 1.001 * entropy_bits(stream) + 8 * 64


@pytest.mark.parametrize("count", [10, 1000, 30_000])
def test_rans_on_short_streams_costs_little_beyond_its_table(count: int) -> None:
    stream = laplace(1.5, count)
    encoded = Rans().encode(stream)
    # the payload is rounded up to bytes, and the frequencies to the precision that is best for table and payload
    assert 8 * len(encoded.payload) < 1.03 * entropy_bits(stream) + 24
    assert len(encoded.table) <= 2 * len(np.unique(stream.symbols)) + 2


def test_rans_of_one_symbol_among_thousands_of_rare_ones_is_near_the_entropy() -> None:
    """With a slot of 2^16 each, they would take more of the whole than is theirs, and the file 10 % more."""
    rng = np.random.default_rng(0)
    levels = np.rint(rng.laplace(0, 400, 1 << 21)).astype(np.int32)
    levels[rng.random(levels.size) < 0.97] = 0
    levels -= levels.min()
    stream = Stream.of(levels, int(levels.max()) + 1)
    assert len(np.unique(levels)) > 3000
    assert Rans().encode(stream).table[0] > 16
    assert bits(Rans(), stream) < 1.015 * entropy_bits(stream)


@pytest.mark.parametrize("precision", [12, 16, 17, 18, 19, 24, 28])
@pytest.mark.parametrize("count", [1000, (1 << 19) + 3])
def test_rans_decodes_at_any_precision(precision: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a table of slots, or by a search."""
    stream = laplace(100.0, count)

    def chosen(used: np.ndarray, counts: np.ndarray) -> tuple[int, np.ndarray, bytes]:
        frequencies = quantized_frequencies(counts, precision)
        classes = np.frexp(frequencies)[1].astype(np.int64) - 1
        return precision, frequencies, bytes([precision]) + write_table(used, classes, frequencies - (1 << classes))

    monkeypatch.setattr(rans, "best_table", chosen)
    assert bits(Rans(), stream) > 0.99 * entropy_bits(stream)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from([1, 2, 17, 256, 5000, 1 << 20]),
    st.sampled_from([1, 2, 30, 3000, (1 << 19) + 5]),
    st.integers(0, 3000),
)
def test_rans_never_takes_less_than_it_says(seed: int, alphabet: int, count: int, ending: int) -> None:
    """Also where a run of the smallest symbol ends the stream, which costs nothing."""
    rng = np.random.default_rng(seed)
    symbols = (alphabet * rng.random(count) ** rng.choice([1, 5, 40])).astype(np.int32)
    symbols[count - min(ending, count - 1) :] = symbols.min()
    stream = Stream.of(symbols, alphabet)
    encoded = Rans().encode(stream)
    assert Rans().least(stream) <= len(encoded.table) + len(encoded.payload)


def test_what_rans_takes_at_least_is_near_what_it_takes() -> None:
    stream = laplace(3.0, 1 << 20)
    assert 0.999 * bits(Rans(), stream) <= 8 * Rans().least(stream)


@pytest.mark.parametrize("scale", [0.4, 1.0, 3.0, 20.0])
def test_huffman_is_within_a_thousandth_of_the_optimal_prefix_code(scale: float) -> None:
    stream = laplace(scale, 600_000)  # four strings
    counts = np.bincount(stream.symbols)
    assert bits(Huffman(), stream) < 1.001 * optimal_prefix_bits(counts[counts > 0].tolist())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 10**6), min_size=2, max_size=60))
def test_unlimited_lengths_are_optimal(counts: list[int]) -> None:
    lengths = code_lengths(np.array(counts), 60)
    assert int(np.dot(lengths, counts)) == optimal_prefix_bits(counts)
    assert sum(2.0**-length for length in lengths.tolist()) == 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 200), min_size=2, max_size=6), st.integers(1, 4))
def test_limited_lengths_are_the_best_of_all_that_satisfy_kraft(counts: list[int], limit: int) -> None:
    if len(counts) > 2**limit:
        limit = 3
    rising = np.sort(np.array(counts))
    best = min(
        sum(length * count for length, count in zip(lengths, rising.tolist(), strict=True))
        for lengths in itertools.product(range(1, limit + 1), repeat=len(counts))
        if sum(2.0**-length for length in lengths) <= 1
    )
    lengths = limited_lengths(rising, limit)
    assert int(np.dot(lengths, rising)) == best
    assert int(lengths.max()) <= limit


def test_fibonacci_counts_are_held_to_the_limit() -> None:
    counts = [1, 1]
    while len(counts) < 27:
        counts.append(counts[-1] + counts[-2])
    lengths = code_lengths(np.array(counts), length_limit(27))
    assert int(lengths.max()) == 16
    assert sum(2.0**-length for length in lengths.tolist()) == 1
    cost = int(np.dot(lengths, counts))
    assert optimal_prefix_bits(counts) < cost < 1.0002 * optimal_prefix_bits(counts)
    small = Stream.of(np.repeat(np.arange(22), counts[:22]), 22)
    assert bits(Huffman(), small) > 0


def test_canonical_codes_are_those_of_the_definition() -> None:
    # RFC 1951, section 3.2.2: lengths 3 3 3 3 3 2 4 4
    codes = canonical_codes(np.array([3, 3, 3, 3, 3, 2, 4, 4]))
    assert codes.tolist() == [0b010, 0b011, 0b100, 0b101, 0b110, 0b00, 0b1110, 0b1111]


def test_the_table_of_sixteen_levels_takes_a_few_bytes() -> None:
    levels = np.clip(np.rint(np.random.default_rng(0).normal(8, 2, 40_000)), 0, 15).astype(np.int32)
    assert len(Huffman().encode(Stream.of(levels, 16)).table) <= 8


def test_the_table_of_a_sparse_alphabet_takes_some_bytes_a_used_symbol() -> None:
    values = np.random.default_rng(0).integers(0, 1 << 24, 100)
    symbols = np.random.default_rng(1).choice(values, 5000)
    assert len(Huffman().encode(Stream.of(symbols, 1 << 24)).table) <= 100 * 4.5


@pytest.mark.parametrize("coder", [Huffman(), Rans()], ids=str)
def test_one_distinct_value_costs_no_payload(coder: Coder) -> None:
    encoded = coder.encode(Stream.of([5] * 10**6, 9))
    assert encoded.payload == b""
    assert len(encoded.table) <= 3


def test_raw_costs_the_ceiling_of_the_logarithm() -> None:
    for alphabet, width in [(1, 0), (2, 1), (3, 2), (16, 4), (17, 5), (1 << 24, 24)]:
        stream = Stream.of(np.zeros(1000, dtype=np.int32), alphabet)
        assert len(Raw().encode(stream).payload) == (1000 * width + 7) // 8


def reference_lzw(symbols: list[int], roots: int, limit: int, reset: bool) -> list[tuple[int, int]]:
    """(code, width) by the definition, with strings in a dictionary."""
    book: dict[tuple[int, ...], int] = {(root,): root for root in range(roots)}
    out, at = [], 0
    while at < len(symbols):
        length = 1
        while at + length < len(symbols) and tuple(symbols[at : at + length + 1]) in book:
            length += 1
        phrase = tuple(symbols[at : at + length])
        out.append((book[phrase], (len(book) - 1).bit_length()))
        at += length
        if at < len(symbols) and len(book) < limit:
            book[(*phrase, symbols[at])] = len(book)
            if reset and len(book) == limit:
                book = {(root,): root for root in range(roots)}
    return out


def lzw_rows(period: int) -> list[list[int]]:
    """Seven symbols, all of which occur (the roots are the alphabet), in repeated patterns, sound and disturbed."""
    rng = np.random.default_rng(period)
    symbols = np.tile(rng.integers(0, 7, period), 6000 // period)
    noisy = np.where(rng.random(symbols.size) < 0.2, rng.integers(0, 7, symbols.size), symbols)
    return [[*range(7), *row.tolist()] for row in (symbols, noisy)]


def little_endian(codes: list[tuple[int, int]]) -> bytes:
    """(code, width) pairs, each from its lowest bit up."""
    bits = "".join(f"{code:0{width}b}"[::-1] for code, width in codes)
    return int(bits[::-1], 2).to_bytes((len(bits) + 7) // 8, "little")


@pytest.mark.parametrize("noise", [0.0, 0.001, 0.3])
@pytest.mark.parametrize(("period", "alphabet"), [(1, 7), (3, 7), (700, 7), (700, 250)])
def test_lzw_writes_them_also_when_long_full(period: int, alphabet: int, noise: float) -> None:
    """Long enough to be read from four places at once: where phrases soon begin together (noise), where they never do
    (a single symbol again and again), and where the dictionary's rows are too long to be laid out (250 symbols)."""
    rng = np.random.default_rng(period)
    row = np.resize(rng.integers(0, alphabet, period), 50_000)
    row = np.where(rng.random(row.size) < noise, rng.integers(0, alphabet, row.size), row)
    row[:alphabet] = np.arange(alphabet)
    encoded = Lzw(dictionary_bits=9).encode(Stream.of(row, alphabet))
    assert encoded.payload == little_endian(reference_lzw(row.tolist(), alphabet, 512, reset=False))


@pytest.mark.parametrize("period", [1, 2, 3, 50])
def test_lzw_writes_the_codes_of_the_definition(period: int) -> None:
    for row in lzw_rows(period):
        encoded = Lzw(dictionary_bits=9).encode(Stream.of(row, 7))
        assert encoded.payload == little_endian(reference_lzw(row, 7, 512, reset=False))


@pytest.mark.parametrize("period", [1, 2, 3, 50])
def test_files_from_before_the_clear_code_are_read(period: int) -> None:
    """Then a full dictionary went back to the roots by itself."""
    for row in lzw_rows(period):
        old = Encoded(b"", little_endian(reference_lzw(row, 7, 512, reset=True)))
        decoded = Lzw(dictionary_bits=9, when_full="reset").decode(old, Stream.of(row, 7).spec)
        assert decoded.tolist() == row


def read_lzw_with_clears(payload: bytes, count: int, roots: int, limit: int) -> tuple[list[int], list[int]]:
    """Symbols, and the dictionary's size at each clear code; by the docstring, with phrases in a list."""
    number, place, out, cleared = int.from_bytes(payload, "little"), 0, [], []
    fresh: list[list[int]] = [[root] for root in range(roots)] + [[]]
    book, unfinished = list(fresh), False
    while len(out) < count:
        width = (len(book) - 1).bit_length()
        code = number >> place & (1 << width) - 1
        place += width
        if code == roots:
            cleared.append(len(book))
            book, unfinished = list(fresh), False
            continue
        if unfinished:
            book[-1] = [*book[-1], book[code][0]]
        out += book[code]
        unfinished = len(book) < limit
        if unfinished:
            book.append(book[code])
    assert len(payload) == (place + 7) // 8
    return out, cleared


@pytest.mark.parametrize("period", [1, 2, 3, 50])
def test_a_clear_code_follows_a_full_dictionary(period: int) -> None:
    for row in lzw_rows(period):
        encoded = Lzw(dictionary_bits=9, when_full="reset").encode(Stream.of(row, 7))
        assert encoded.table == b"\0"
        symbols, cleared = read_lzw_with_clears(encoded.payload, len(row), 7, 512)
        assert symbols == row
        assert set(cleared) <= {512}


def test_a_dictionary_that_stops_paying_is_emptied() -> None:
    rng = np.random.default_rng(0)
    stages = [np.tile(rng.integers(0, 7, 50) + 7 * stage, 1500) for stage in range(4)]
    row = [*range(28), *np.concatenate(stages).tolist()]
    noise = np.flatnonzero(rng.random(len(row) - 28) < 0.05) + 28
    for place in noise.tolist():
        row[place] = int(rng.integers(0, 28))
    encoded = Lzw(when_full="reset").encode(Stream.of(row, 28))
    symbols, cleared = read_lzw_with_clears(encoded.payload, len(row), 28, 1 << 16)
    assert symbols == row
    assert cleared
    assert max(cleared) < 1 << 16
    assert len(encoded.payload) < len(Lzw(dictionary_bits=9).encode(Stream.of(row, 28)).payload)


def test_a_dictionary_without_roots_is_refused() -> None:
    """Its one code, the clear code, would take no bits: a decoder could read it for ever."""
    for table in (b"\0\0", b"\0\0\0"):
        with pytest.raises(CorruptFile, match="no symbols"):
            Lzw(when_full="reset").decode(Encoded(table, b"\7" * 9), StreamSpec(5, 9))


def test_prices_are_the_code_lengths() -> None:
    # counts 3 1 1 and one more each: 4 2 2 -> 1 2 2 bits
    assert Huffman().rate(np.array([3, 1, 1])).tolist() == [1, 2, 2]
    assert Raw().rate(np.ones(5)).tolist() == [3] * 5
    assert Rans().rate(np.array([3, 1, 1])).tolist() == [1, 2, 2]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=64), st.integers(6, 16))
def test_frequencies_sum_to_the_precision_and_none_vanishes(counts: list[int], precision: int) -> None:
    frequencies = quantized_frequencies(np.array(counts), precision)
    assert int(frequencies.sum()) == 1 << precision
    assert int(frequencies.min()) >= 1


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 10**4) | st.integers(1, 3), min_size=1, max_size=8), st.integers(3, 6))
@example([83, 5, 1, 1], 5)
@example([10**6, 1, 1, 1, 1], 3)
@example([1, 1, 1, 1, 1], 5)
def test_frequencies_are_the_best_on_their_side_of_the_rounded_ones(counts: list[int], precision: int) -> None:
    """By the table of the least cost of each sum, symbol by symbol."""
    total = 1 << precision
    rounded = [max(1, round(count * (total / sum(counts)))) for count in counts]
    least = {0: 0.0}
    for count, r in zip(counts, rounded, strict=True):
        possible = range(1, r + 1) if sum(rounded) > total else range(r, total + 1)
        sums: dict[int, float] = {}
        for (before, cost), f in itertools.product(least.items(), possible):
            if before + f <= total:
                sums[before + f] = min(sums.get(before + f, math.inf), cost - count * math.log2(f))
        least = sums
    found = quantized_frequencies(np.array(counts), precision)
    assert int(found.sum()) == total
    assert -float(np.dot(counts, np.log2(found))) <= least[total] + 1e-9 * sum(counts)


def test_frequencies_of_many_symbols_are_taken_from_one() -> None:
    """Of 2^17 places one has what the others need; a look at all of them for each count would take minutes."""
    counts = np.ones(1 << 17, dtype=np.int64)
    counts[5] = 1 << 40
    frequencies = quantized_frequencies(counts, 18)
    assert frequencies[5] == (1 << 17) + 1
    assert (np.delete(frequencies, 5) == 1).all()
