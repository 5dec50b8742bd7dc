"""What holds for every coder: decode(encode(x)) == x, in whatever the edges of the alphabet and of the stream are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nqbench_coders import nqbench_plugins

from nqbench.api import Coder, Stream
from nqbench.registry import registry

# peers whose package is not installed are not registered
CODERS = [cls() for cls in nqbench_plugins() if issubclass(cls, Coder) and ("coder", cls.name) in registry().found]
FAST = [coder for coder in CODERS if coder.name != "dahuffman"]  # plain Python: minutes for a million
ids = [coder.name for coder in CODERS]


def round_trip(coder: Coder, stream: Stream) -> None:
    before = stream.symbols.copy()
    encoded = coder.encode(stream)
    decoded = coder.decode(encoded, stream.spec)
    assert decoded.dtype == np.int32
    np.testing.assert_array_equal(decoded, before)
    np.testing.assert_array_equal(stream.symbols, before)
    assert coder.encode(stream) == encoded


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    """Empty to some thousands of symbols, alphabets to 2^24, dense or with gaps, skewed or flat, runs or not."""
    alphabet = draw(
        st.sampled_from([1, 2, 3, 16, 255, 256, 257, 4096, 65536, 65537, 1 << 24]) | st.integers(1, 1 << 24)
    )
    distinct = draw(st.integers(1, min(alphabet, 600)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.sampled_from([0, 1, 2, 7, 100, 5000]))
    values = rng.integers(0, alphabet, distinct)
    skew = draw(st.sampled_from([1.0, 3.0, 40.0]))
    symbols = values[(distinct * rng.random(count) ** skew).astype(np.int64)]
    if draw(st.booleans()):
        symbols = np.repeat(symbols, rng.integers(1, 9, count))[:count]
    return Stream.of(symbols, alphabet)


@pytest.mark.parametrize("coder", CODERS, ids=ids)
@settings(max_examples=60, deadline=None)
@given(stream=streams())
def test_what_is_encoded_is_decoded(coder: Coder, stream: Stream) -> None:
    round_trip(coder, stream)


EDGES = {
    "empty": ([], 5),
    "one symbol": ([3], 5),
    "the last of the largest alphabet": ([(1 << 24) - 1], 1 << 24),
    "an alphabet of one": ([0] * 1000, 1),
    "one distinct value": ([7] * 1000, 9),
    "two distinct values": ([0, 1] * 500, 2),
    "all distinct": (list(range(3000)), 3000),
    "both ends of a gap": ([0, 65535] * 50, 65536),
    "kwkwk": ([0, 1, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1], 2),
}


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("coder", CODERS, ids=ids)
def test_edges(coder: Coder, edge: str) -> None:
    symbols, alphabet = EDGES[edge]
    round_trip(coder, Stream.of(symbols, alphabet))


@pytest.mark.parametrize("coder", FAST, ids=str)
def test_a_million_symbols(coder: Coder) -> None:
    rng = np.random.default_rng(0)
    symbols = np.clip(np.rint(rng.laplace(0, 2.0, 10**6)) + 40, 0, 80)
    round_trip(coder, Stream.of(symbols.astype(np.int32), 81))


@pytest.mark.parametrize("coder", FAST, ids=str)
def test_a_large_flat_alphabet(coder: Coder) -> None:
    rng = np.random.default_rng(1)
    round_trip(coder, Stream.of(rng.integers(0, 1 << 17, 400_000), 1 << 17))
