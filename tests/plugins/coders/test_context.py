"""``context``: a slow decoder written from its docstring alone, golden bytes, and what it costs."""

from __future__ import annotations

import hashlib
import itertools
import math
from decimal import Decimal, getcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nqbench_coders.context import FEWEST_TRIED, TRIED_PART, Context, _encode, _promising
from nqbench_coders.huffman import Huffman
from nqbench_coders.positions import Bitmap, Gaps
from nqbench_coders.rans import Rans
from nqbench_coders.tensor_layout import as_bitmap, pieces_of

from nqbench.api import Coder, CorruptFile, Encoded, Stream, StreamSpec, StreamTensor


# -- a decoder from the docstring ----------------------------------------------------------------------------------
def rate(n: int) -> int:
    return 131072 // (2 * n + 3)


def level(x: int, y: int, q: int, k: int) -> int:
    z = x // 16 * 16
    return sum(z**q >= y**q * 2**j for j in range(k - 1))


class SlowChunk:
    """One chunk: the arithmetic coder, the states, and the averages that outlive a piece. cost: -sum log2 P, bits."""

    def __init__(self, data: bytes, mixed: bool, signed: bool) -> None:
        self.data, self.mixed, self.signed, self.cost = data, mixed, signed, 0.0
        self.x, self.span, self.read = int.from_bytes(data[:8].ljust(8, b"\0"), "big"), 2**64 - 1, 8
        self.states: dict[tuple[int, int], list[int]] = {}
        self.weights: dict[int, list[int]] = {}
        self.recent = self.mean = 2048

    def take(self, p: int) -> int:
        bound = self.span // 65536 * p
        bit = int(self.x < bound)
        if bit:
            self.span = bound
        else:
            self.x, self.span = self.x - bound, self.span - bound
        if self.span < 2**32:
            self.x = self.x << 32 | int.from_bytes(self.data[self.read : self.read + 4].ljust(4, b"\0"), "big")
            self.span, self.read = self.span << 32, self.read + 4
        self.cost -= math.log2((p if bit else 65536 - p) / 65536)
        return bit

    def decide(self, f: int, contexts: list[int]) -> int:
        states = [self.states.setdefault((c, f), [2**21, 2**21, 0]) for c in contexts]
        mixed = self.mixed and (not self.signed or f in (0, 1, 15))
        if not mixed:
            states = states[:1]
        chances = [(slow + fast) // 128 for slow, fast, _ in states]
        if mixed:
            halves = [min(p // 16, 4095) for p in chances]
            s = [round(256 * math.log((h + 0.5) / (4095.5 - h))) for h in halves]
            w = self.weights.setdefault(f, {2: [629145] * 2, 3: [419430] * 3, 4: [314572] * 4}[len(states)])
            y = min(max(sum(map(int.__mul__, w, s)) >> 20, -3072), 3071)
            p = min(max(round(65536 / (1 + math.exp(-y / 256))), 4), 65532)
            bit = self.take(p)
            for i in range(len(w)):
                w[i] += (s[i] * (65536 * bit - p) + 8192) // 16384
        else:
            bit = self.take(min(max(chances[0], 4), 65532))
        for state in states:
            r = rate(state[2])
            state[0] += (2**22 * bit - state[0]) * r // 65536
            state[1] += (2**22 * bit - state[1]) * max(r, 2048) // 65536
            state[2] = min(state[2] + 1, 800)
        return bit

    def symbol(self, abc: list[int], ways: tuple[int, int, int, int], zero: int, alphabet: int) -> int:
        """ways: L of the scale, U, and what e and g are."""
        up, down = alphabet - 1 - zero, zero
        of_scale, u, e, g = ways
        ahead = [504 + 31 * of_scale + 15 + abs(u)] if self.signed else []
        if not max(up, down) or not self.decide(0, abc + ahead):
            return zero
        below = self.decide(15, [e, g] if self.signed else abc) if up and down else not up
        most, t = (down if below else up), 0
        if self.signed:
            t = min(max(0, abc[0] - 15) // 3, most.bit_length() - 1)
            ahead = [504 + 31 * of_scale + 15 + (-u if below else u)]
        reach, q = (most - 1) >> t, 0
        while q < min(reach, 14) and self.decide(q + 1, abc + ahead):
            q += 1
        if q == 14 and reach > 14:
            j, last = 0, 7 if self.signed else 15
            while (reach - 13) >> (j + 1) and self.decide(16 + min(j, last), abc + ahead):
                j += 1
            r = 1
            for _ in range(j):
                r = r << 1 | self.take(32768)
            q = r + 13
        x = q
        for i in range(t):
            x = x << 1 | (self.take(32768) if i else self.decide(24 + min(q, 7), abc + ahead))
        return zero - (x + 1) if below else zero + x + 1

    def piece(self, shape: tuple[int, ...], mask: list[bool], first: int, zero: int, alphabet: int) -> list[int]:
        """Symbols of the places ``first``, ..., first + len(mask) - 1 of a tensor, where the mask is True."""
        inputs, height, width = 1, 1, 4096
        if len(shape) >= 2 and shape[0] >= 2:
            h, w = math.prod(shape[2:-1]), (shape[-1] if len(shape) > 2 else 1)
            if h * w <= 4096:
                inputs, height, width = shape[1], h, w
        spots = height * width
        averages: dict[int, tuple[int, int]] = {}
        of_filter, u, before, begin = self.mean, 3, self.mean, first
        seen, levels, out, inverse = {}, {}, [], 0
        for place, kept in enumerate(mask, first):
            column = place % (inputs * spots)
            if column == 0 and place != first:
                of_filter, u, before, begin = self.mean, 3, self.mean, place
            i, s = column // spots, column % spots
            average, t = averages.get(i, (self.recent, 1))
            if column % 16 == 0 or place == first:
                inverse = 2**24 // (self.mean + 82)
            magnitude = level_here = 0
            if kept:

                def m(k: int, place: int = place, begin: int = begin, before: int = before) -> int:
                    return seen[place - k] if place - k >= begin else before

                left, above, beside = m(1), m(3), m(1)
                if height > 1:
                    b = max(3, spots if inputs > 1 else width)
                    above, beside = m(width if s >= width else b), m(1 if s % width else b)
                near = (2 * left + m(2) + 3 * above + 2 * beside) // 8
                scale = min(65535, (average + 82) * ((of_filter + 82) * inverse // 256) // 65536)
                v = min(s, 7) if spots > 1 else level(self.recent, 1024, 1, 8)
                contexts = [
                    level((9 * scale + 5 * near + 2 * self.recent) // 16, 128, 3, 32),
                    32 + 16 * level(average, 256, 2, 16) + level(of_filter, 256, 2, 16),
                    288 + 27 * v + 9 * min(left // 4096, 2) + 3 * min(above // 4096, 2) + min(beside // 4096, 2),
                ]

                def v(k: int, when: bool = True, place: int = place, begin: int = begin) -> int:
                    return levels[place - k] if when and place - k >= begin else 0

                beside_it, above_it, spot_of_row = height == 1 or s % width > 0, s >= width, s % width
                v1, v2, v3 = v(1, beside_it), v(width, above_it), v(spots)
                v4 = levels.get(place - inputs * spots, 0)
                sides = v(width + 1, beside_it and above_it) + v(width - 1, above_it and spot_of_row < width - 1)
                tendency = 3 * v1 + 3 * v2 + sides
                size = level(min(65535, 2**21 * abs(tendency) // (scale + 1024)), 256, 2, 16)
                size = -size if tendency < 0 else size
                e = 792 + sum(w * ((x > 0) - (x < 0)) for w, x in zip((27, 9, 3, 1), (v1, v2, v3, v4), strict=True))
                ways = level(scale, 1024, 1, 8), size, e, 833 + 8 * (size + 15) + min(s, 7)
                out.append(self.symbol(contexts, ways, zero, alphabet))
                level_here = max(-15, min(out[-1] - zero, 15))
                magnitude = 4096 * abs(level_here)
            seen[place], levels[place] = magnitude, level_here
            averages[i] = average + (magnitude - average) * rate(t) // 65536, min(t + 1, 200)
            of_filter, u = of_filter + (magnitude - of_filter) * rate(u) // 65536, min(u + 1, 1023)
            self.recent += (magnitude - self.recent) // 32
            self.mean += (magnitude - self.mean) // 256
        return out


def slowly(encoded: Encoded, spec: StreamSpec) -> tuple[list[int], float]:
    """Symbols of a stream of one chunk, and the bits that its model charges."""
    first, table = encoded.table[0], encoded.table[1:]
    assert 32 <= first < 48
    chunk = SlowChunk(encoded.payload, bool(first & 1), bool(first & 8))
    zero = 0
    if first & 2:
        zero = sum((byte & 127) << 7 * i for i, byte in enumerate(table))
    if first & 4:
        each, out, bits = spec.alphabet.bit_length() - 1, [], []
        for tensor in spec.tensors:
            if math.prod(tensor.shape):
                bits += chunk.piece(tensor.shape, [True] * math.prod(tensor.shape), 0, 0, 2)
        for i in range(0, len(bits), each):
            out.append(sum(bit << j for j, bit in enumerate(bits[i : i + each])))
        return out, chunk.cost
    if not spec.tensors:
        return chunk.piece((), [True] * spec.count, 0, zero, spec.alphabet), chunk.cost
    out = []
    for tensor in spec.tensors:
        mask = [True] * math.prod(tensor.shape) if tensor.mask is None else tensor.mask.reshape(-1).tolist()
        last = max((i + 1 for i, kept in enumerate(mask) if kept), default=0)
        of = zero if tensor.zero is None else tensor.zero
        out += chunk.piece(tensor.shape, mask[:last], 0, of, spec.alphabet)
    return out, chunk.cost


# -- streams -------------------------------------------------------------------------------------------------------
def network(rng: np.random.Generator, shapes: list[tuple[int, ...]], spread: float, kept: float | None) -> Stream:
    """Levels whose scale differs by filter and by input, as a network's do."""
    parts, pieces, at = [], [], 0
    for number, shape in enumerate(shapes):
        scale = np.full(shape, spread)
        for axis in range(min(len(shape), 2)):
            factors = np.exp(rng.normal(0, 0.7, shape[axis]))
            scale = scale * factors.reshape([-1 if a == axis else 1 for a in range(len(shape))])
        whole = np.clip(np.rint(rng.laplace(0, 1, shape) * scale), -20, 19).astype(np.int32) + 20
        mask = None if kept is None else rng.random(shape) < kept
        piece = whole.reshape(-1) if mask is None else whole[mask]
        parts.append(StreamTensor(f"{number}.weight", shape, at, at + piece.size, zero=20, mask=mask))
        pieces.append(piece)
        at += piece.size
    symbols = np.concatenate(pieces)
    return Stream(symbols, StreamSpec(symbols.size, 40, ordered=True, tensors=tuple(parts)))


SHAPES = [
    (8, 3, 3, 3),
    (12, 8, 3, 3),
    (6, 1, 5, 5),
    (9, 4, 3),
    (5, 4, 2, 1),
    (30, 40),
    (1, 50),
    (40,),
    (0, 3),
    (10, 30),
]


def integers(count: int, modulus: int) -> list[int]:
    """From a linear congruential generator, few large: golden streams must not depend on a library's generator."""
    value, out = 1, []
    for _ in range(count):
        value = (value * 1103515245 + 12345) % 2**31
        out.append(((value >> 8) % 997) ** 2 * modulus // 997**2)
    return out


def golden(name: str) -> Stream:
    parts = (
        StreamTensor("a", (16, 8, 3, 3), 0, 1152, zero=6),
        StreamTensor("b", (20, 60), 1152, 2352, zero=2),
    )
    folded = [
        zero + (x // 2 if x % 2 else -(x // 2))
        for zero, x in zip([6] * 1152 + [2] * 1200, integers(2352, 5), strict=True)
    ]
    return {
        "tensors": Stream(np.array(folded), StreamSpec(2352, 13, ordered=True, tensors=parts)),
        "no tensors": Stream.of([min(x, 900) for x in integers(3000, 60)], 1000, ordered=True),
        "bitmap": bitmap_stream([np.array(integers(4608, 5)).reshape(32, 16, 3, 3) > 3]),
    }[name]


def bitmap_stream(masks: list[np.ndarray], bits: int = 8) -> Stream:
    """As the container hands positions to a coder."""
    symbols = Bitmap(bits=bits).to_stream(masks).symbols
    tensors = tuple(StreamTensor("", mask.shape, 0, 0) for mask in masks)
    return Stream(symbols, StreamSpec(symbols.size, 1 << bits, tensors=tensors))


def adaptively(stream: Stream, mixing: bool, signed: bool = True) -> Encoded:
    """The adaptive code itself, not the better of it and a static one; or as it was before it read signs."""
    bitmap = as_bitmap(stream)
    encoded = _encode(bitmap or stream, 32 + mixing + 4 * (bitmap is not None) + 8 * signed, 1 << 30)
    assert encoded is not None
    return encoded


def bits_of(coder: Coder, stream: Stream) -> int:
    encoded = coder.encode(stream)
    np.testing.assert_array_equal(coder.decode(encoded, stream.spec), stream.symbols)
    return 8 * (len(encoded.table) + len(encoded.payload))


def entropy_bits(symbols: np.ndarray) -> float:
    counts = np.unique(symbols, return_counts=True)[1]
    return float(-(counts * np.log2(counts / counts.sum())).sum())


GOLDEN: dict[tuple[str, bool], tuple[str, str]] = {
    ("tensors", False): ("28", "ba1ac29f1168f3464401a9350570e9573ea401402002ed41942a408db5be2902"),
    ("tensors", True): ("29", "24bb633762a308aeca0b7e8bb8309f8450130d5970f628d940012f93e6170cd9"),
    ("no tensors", False): ("2a00", "08ae05b97ee5d5fcb27cf909cc9855af542ff2738f3f3493b37cf58beb659114"),
    ("no tensors", True): ("2b00", "f03e5a0acedd0ea37a22251a1174b6945abaabbaceb020cd60a9afd1b4d070c5"),
    ("bitmap", False): ("2c", "7d40b68ac2c94f631c899506ec4c069468f698592310c7da6a4a3f2e10785b29"),
    ("bitmap", True): ("2d", "74f738a2b0e9b309d3d25e0b8454aefa9c3a10799b5db40551eb4800b2cfc432"),
}
OLDER: dict[tuple[str, bool], tuple[str, str]] = {  # as files were before their contexts had signs
    ("tensors", False): ("20", "25836e254ebeda6bff109b3d51b36a123cb11d001cc7589c25942e5f51b37a05"),
    ("tensors", True): ("21", "1d1b5b8350be0538a5715d657de19c45aeccecde43ec35824a573d91725b0552"),
    ("no tensors", False): ("2200", "37aaceddff6c7bf7ad5405cae3061d84f6ce379ed0d23b0334552b917daa3e9d"),
    ("no tensors", True): ("2300", "1750971163916b07e19667b5b54a0e251b4f17f0a340d49e5705eb92ddf96e2b"),
    ("bitmap", False): ("24", "7d40b68ac2c94f631c899506ec4c069468f698592310c7da6a4a3f2e10785b29"),
    ("bitmap", True): ("25", "3015c29f6ff9333a3f6746bb23b108ea41d98a5237b3ca3f17d5b1477011de68"),
}


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("name", "mixing"), GOLDEN)
def test_streams_are_written_as_before(name: str, mixing: bool, signed: bool) -> None:
    encoded = adaptively(golden(name), mixing, signed)
    np.testing.assert_array_equal(Context().decode(encoded, golden(name).spec), golden(name).symbols)
    expected = (GOLDEN if signed else OLDER)[name, mixing]
    assert (encoded.table.hex(), hashlib.sha256(encoded.payload).hexdigest()) == expected


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("mixing", [False, True])
@pytest.mark.parametrize(("kept", "spread"), [(None, 1.0), (0.3, 1.0), (None, 12.0)])
def test_a_decoder_written_from_the_docstring_agrees(
    kept: float | None, spread: float, mixing: bool, signed: bool
) -> None:
    stream = network(np.random.default_rng(3), SHAPES, spread, kept)
    encoded = adaptively(stream, mixing, signed)
    symbols, cost = slowly(encoded, stream.spec)
    assert symbols == stream.symbols.tolist()
    # the arithmetic coder reaches the model's own -sum log2 P
    assert cost <= 8 * len(encoded.payload) <= 1.001 * cost + 64


@pytest.mark.parametrize("name", ["tensors", "no tensors", "bitmap"])
def test_that_decoder_agrees_on_the_golden_streams(name: str) -> None:
    stream = golden(name)
    for mixing in (False, True):
        for signed in (False, True):
            assert slowly(adaptively(stream, mixing, signed), stream.spec)[0] == stream.symbols.tolist()


def test_no_entry_of_the_tables_is_near_a_rounding_border() -> None:
    """So that whatever logarithm and exponential a decoder has, they are the same integers."""
    getcontext().prec = 40
    exact = [256 * ((Decimal(2 * h + 1) / (8191 - 2 * h)).ln()) for h in range(0, 4096, 5)]
    exact += [65536 / (1 + (Decimal(-y) / 256).exp()) for y in range(-3071, 3072, 7)]
    assert min(abs(x % 1 - Decimal("0.5")) for x in exact if x % 1) > Decimal("1e-8")
    fast = [256 * math.log((h + 0.5) / (4095.5 - h)) for h in range(4096)]
    fast += [65536 / (1 + math.exp(-y / 256)) for y in range(-3072, 3072)]
    assert min(abs(x - math.floor(x) - 0.5) for x in fast) > 1e-7


# -- what is encoded is decoded ------------------------------------------------------------------------------------
@st.composite
def networks(draw: st.DrawFn) -> Stream:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shapes = draw(st.lists(st.lists(st.integers(0, 6), min_size=0, max_size=5).map(tuple), min_size=1, max_size=4))
    kept = draw(st.sampled_from([None, 0.0, 0.1, 0.7]))
    return network(rng, shapes, draw(st.sampled_from([0.01, 0.5, 30.0])), kept)


@settings(max_examples=150, deadline=None)
@given(stream=networks(), mixing=st.booleans())
def test_levels_of_any_tensors_come_back(stream: Stream, mixing: bool) -> None:
    coder = Context(mixing=mixing)
    np.testing.assert_array_equal(coder.decode(coder.encode(stream), stream.spec), stream.symbols)


@settings(max_examples=60, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(0, 9), max_size=4).map(tuple), max_size=4),
    kept=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    bits=st.sampled_from([1, 3, 8, 16]),
)
def test_bitmaps_of_any_tensors_come_back(shapes: list[tuple[int, ...]], kept: float, bits: int) -> None:
    rng = np.random.default_rng(len(shapes))
    stream = bitmap_stream([rng.random(shape) < kept for shape in shapes], bits)
    np.testing.assert_array_equal(Context().decode(Context().encode(stream), stream.spec), stream.symbols)


def test_a_stream_of_several_chunks_cut_within_tensors_and_masks() -> None:
    stream = network(np.random.default_rng(5), [(700, 900), (300, 200, 3, 3), (3_000_000,)], 0.5, 0.8)
    assert stream.spec.count > 3 << 20
    for coder in (Context(), Context(mixing=False)):
        encoded = coder.encode(stream)
        assert encoded.table[0] in (40, 41)
        assert len(encoded.table) > 3
        np.testing.assert_array_equal(coder.decode(encoded, stream.spec), stream.symbols)


def test_a_mask_is_searched_once_for_all_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    masks = [rng.random(900) < 0.5, np.ones(0, dtype=bool), rng.random((40, 30)) < 0.2, None]
    tensors, at = [], 0
    for mask, shape in zip(masks, [(900,), (0,), (40, 30), (70,)], strict=True):
        kept = math.prod(shape) if mask is None else int(mask.sum())
        tensors.append(StreamTensor("", shape, at, at + kept, 1, mask))
        at += kept
    borders = [0, 1, tensors[0].stop, *range(tensors[0].stop + 9, at, 9), at]
    searched: list[int] = []

    def counted(mask: np.ndarray) -> np.ndarray:
        searched.append(mask.size)
        return mask.nonzero()[0]

    monkeypatch.setattr(np, "flatnonzero", counted)
    held = pieces_of(StreamSpec(at, 3, tensors=tuple(tensors)), borders, 0)
    assert searched == [900, 1200]
    for (first, last), pieces in zip(itertools.pairwise(borders), held, strict=True):
        assert [i for piece in pieces for i in range(piece.start, piece.stop)] == list(range(first, last))
        for piece in pieces:
            (tensor,) = (t for t in tensors if t.start <= piece.start < t.stop)
            before = piece.start - tensor.start
            kept = np.ones(70, dtype=bool) if tensor.mask is None else tensor.mask.reshape(-1)
            assert int(kept[: piece.place].sum()) == before
            assert not before or kept[piece.place]


# -- what it costs -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mixing", [False, True])
@pytest.mark.parametrize("scale", [0.45, 0.9, 2.0])
def test_independent_symbols_cost_at_most_two_percent_beyond_the_entropy(scale: float, mixing: bool) -> None:
    levels = np.rint(np.random.default_rng(0).laplace(0, scale, 1_000_000)).astype(np.int32)
    stream = Stream.of(levels - levels.min(), int(np.ptp(levels)) + 1, ordered=True)
    encoded = adaptively(stream, mixing)
    assert 8 * len(encoded.payload) < 1.02 * entropy_bits(levels)
    assert bits_of(Context(mixing=mixing), stream) < 1.001 * entropy_bits(levels) + 8 * 64


@pytest.mark.parametrize("mixing", [False, True])
@pytest.mark.parametrize("scale", [0.2, 0.9, 4.0, 20.0])
@pytest.mark.parametrize("times", [1, 6])
def test_a_long_stream_of_independent_symbols_is_not_coded_twice(times: int, scale: float, mixing: bool) -> None:
    levels = np.rint(np.random.default_rng(3).laplace(0, scale, times * TRIED_PART * FEWEST_TRIED)).astype(np.int32)
    levels -= levels.min()
    shapes = [(1024, 512), (1024, 56, 3, 3), (levels.size - 1024 * (512 + 504),)]
    starts = np.cumsum([0, *(math.prod(shape) for shape in shapes)])
    tensors = tuple(StreamTensor(str(i), shapes[i], int(starts[i]), int(starts[i + 1])) for i in range(3))
    for parts in ((), tensors):
        spec = StreamSpec(levels.size, int(levels.max()) + 1, ordered=True, tensors=parts)
        assert not _promising(Stream(levels, spec), 40 + mixing)


def test_a_long_stream_in_which_one_tensor_in_four_profits_is_coded() -> None:
    """It is the smaller part, and stands last: neither the largest tensor nor the stream's beginning shows it."""
    rng = np.random.default_rng(4)
    scales = np.exp(0.7 * rng.normal(size=(1000, 1))) * np.exp(0.7 * rng.normal(size=(1, 300)))
    levels = np.rint(np.append(rng.laplace(0, 1, 900_000), rng.laplace(0, 1, (1000, 300)) * scales)).astype(np.int32)
    tensors = (StreamTensor("a", (900, 1000), 0, 900_000), StreamTensor("b", (1000, 300), 900_000, levels.size))
    spec = StreamSpec(levels.size, int(np.ptp(levels)) + 1, ordered=True, tensors=tensors)
    stream = Stream(levels - levels.min(), spec)
    assert _promising(stream, 41)
    assert bits_of(Context(), stream) < 0.99 * bits_of(Rans(), stream)


def test_scales_by_filter_and_input_are_found() -> None:
    """Their zeroth-order entropy by tensor cannot see them: the adaptive code must, as on real networks."""
    stream = network(np.random.default_rng(1), [(64, 32, 3, 3), (100, 300)], 1.0, None)
    by_tensor = sum(entropy_bits(stream.symbols[t.start : t.stop]) for t in stream.spec.tensors)
    plain, mixed = bits_of(Context(mixing=False), stream), bits_of(Context(), stream)
    assert mixed < plain < 0.93 * by_tensor


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from([2, 3, 17, 256, 5000, 1 << 24]),
    st.sampled_from([1, 2, 30, 3000]),
    st.booleans(),
)
def test_never_more_than_huffman_and_one_byte(seed: int, alphabet: int, count: int, ordered: bool) -> None:
    rng = np.random.default_rng(seed)
    symbols = (alphabet * rng.random(count) ** rng.choice([1, 5, 40])).astype(np.int32)
    stream = Stream.of(symbols, alphabet, ordered=ordered)
    assert bits_of(Context(), stream) <= min(bits_of(Huffman(), stream) + 8, bits_of(Rans(), stream))


def test_signs_of_smooth_kernels_are_found() -> None:
    """A slope across each kernel, of random direction: half of the signs follow from the weights before them."""
    rng = np.random.default_rng(4)
    slopes = rng.normal(0, 1.2, (64, 32, 2, 1, 1))
    ramp = np.arange(-2, 3)
    kernels = slopes[:, :, 0] * ramp + slopes[:, :, 1] * ramp[:, None] + rng.normal(0, 0.5, (64, 32, 5, 5))
    levels = np.rint(kernels).astype(np.int32)
    part = StreamTensor("w", levels.shape, 0, levels.size, zero=-int(levels.min()))
    spec = StreamSpec(levels.size, int(np.ptp(levels)) + 1, ordered=True, tensors=(part,))
    stream = Stream(levels.reshape(-1) - levels.min(), spec)
    for mixing, least in ((False, 0.25), (True, 0.3)):
        saved = len(adaptively(stream, mixing, signed=False).payload) - len(adaptively(stream, mixing).payload)
        assert 8 * saved > least * np.count_nonzero(levels)


def test_positions_profit_from_the_shapes() -> None:
    rng = np.random.default_rng(2)
    chance = np.clip(rng.random((64, 1, 1, 1)) * rng.random((1, 32, 1, 1)), 0.01, 0.9)
    masks = [rng.random((64, 32, 3, 3)) < chance]
    with_shapes = bitmap_stream(masks)
    without = Stream.of(with_shapes.symbols, 256)
    assert bits_of(Context(), with_shapes) < 0.9 * bits_of(Context(), without)
    assert bits_of(Context(), with_shapes) < 0.9 * bits_of(Rans(), Gaps().to_stream(masks))


# -- what no encoder writes ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("table", "payload", "section", "offset", "reason"),
    [
        ("", "00", "coder_table", 0, "empty"),
        ("30", "", "coder_table", 0, "begins with 48"),
        ("20", "", "coder_table", 0, "zero symbol"),
        ("24", "", "coder_table", 0, "bitmap"),
        ("22", "", "coder_table", 1, "bytes are needed"),
        ("2209", "", "coder_table", 1, "above its limit"),
        ("220100", "", "coder_table", 2, "follow"),
        ("2201", "80" * 5000, "", None, "follow"),
        ("2201", "8000", "", 1, "the last byte is superfluous"),
    ],
)
def test_bytes_that_no_encoder_writes(table: str, payload: str, section: str, offset: int | None, reason: str) -> None:
    with pytest.raises(CorruptFile, match=reason) as caught:
        Context().decode(Encoded(bytes.fromhex(table), bytes.fromhex(payload)), StreamSpec(9, 5, ordered=True))
    assert caught.value.section == section
    assert offset is None or caught.value.offset == offset


def test_a_magnitude_beyond_the_alphabet_is_refused() -> None:
    """Ones all along: an Exp-Golomb code of the largest length, and the largest digits."""
    with pytest.raises(CorruptFile, match="beyond the alphabet"):
        Context().decode(Encoded(bytes.fromhex("2200"), b"\0\0\0\0\0\0\0\1"), StreamSpec(1, 40, ordered=True))


def test_a_huffman_table_behind_a_marker_tells_its_own_offset() -> None:
    inner = Huffman().encode(Stream.of([3, 4] * 20, 5))
    assert inner.table[0] < 64
    spec = StreamSpec(40, 5)
    assert Context().decode(Encoded(b"\x1d" + inner.table, inner.payload), spec).tolist() == [3, 4] * 20
    damaged = inner.table + b"\7" * 9
    with pytest.raises(CorruptFile) as own:
        Huffman().decode(Encoded(damaged, inner.payload), spec)
    with pytest.raises(CorruptFile) as caught:
        Context().decode(Encoded(b"\x1d" + damaged, inner.payload), spec)
    assert own.value.offset is not None
    assert (caught.value.section, caught.value.offset) == ("coder_table", own.value.offset + 1)
