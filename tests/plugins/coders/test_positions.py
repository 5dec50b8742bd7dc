"""Masks of pruned weights: what is written is read, by the definition of each form, and nothing is trusted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nqbench_coders.positions import Bitmap, Gaps, Zero

from nqbench.api import CorruptFile

shapes_strategy = st.lists(st.lists(st.integers(0, 7), max_size=3).map(tuple), max_size=4)


@st.composite
def masks(draw: st.DrawFn) -> list[np.ndarray]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kept = draw(st.sampled_from([0.0, 0.02, 0.5, 1.0]))
    return [rng.random(shape) < kept for shape in draw(shapes_strategy)]


@pytest.mark.parametrize(
    "form", [Gaps(), Gaps(bits=1), Gaps(bits=3), Bitmap(), Bitmap(bits=1), Bitmap(bits=13)], ids=str
)
@settings(max_examples=60, deadline=None)
@given(given_masks=masks())
def test_masks_come_back(form: Gaps | Bitmap, given_masks: list[np.ndarray]) -> None:
    stream = form.to_stream(given_masks)
    shapes = [mask.shape for mask in given_masks]
    assert stream.spec.alphabet == form.alphabet()
    assert stream.spec.count <= form.max_count(shapes)
    for mask, read in zip(given_masks, form.from_stream(stream.symbols, shapes), strict=True):
        assert read.dtype == np.bool_
        np.testing.assert_array_equal(read, mask)


def test_gaps_are_those_of_the_definition() -> None:
    # kept: 0, 3, 4, 12; with 2 bits the escape is 3: skip 0, skip 2, skip 0, then 7 = 3 + 3 + 1
    mask = np.zeros(14, dtype=bool)
    mask[[0, 3, 4, 12]] = True
    stream = Gaps(bits=2).to_stream([mask[:6].reshape(2, 3), mask[6:]])
    assert stream.symbols.tolist() == [0, 2, 0, 3, 3, 1]


def test_a_gap_of_exactly_the_escape_takes_one() -> None:
    mask = np.array([0, 0, 0, 1], dtype=bool)
    assert Gaps(bits=2).to_stream([mask]).symbols.tolist() == [3, 0]


def test_a_bitmap_has_the_first_place_in_the_lowest_bit() -> None:
    mask = np.array([1, 0, 0, 0, 0, 0, 0, 1, 0, 1], dtype=bool)
    assert Bitmap().to_stream([mask]).symbols.tolist() == [0x81, 0x02]


@pytest.mark.parametrize(
    ("form", "symbols", "why"),
    [
        (Gaps(bits=2), [0, 3], "no end"),
        (Gaps(bits=2), [3, 3, 0], "beyond"),
        (Gaps(bits=2), [0] * 7, "7 gaps for 6 places"),
        (Gaps(bits=2), [4], "outside"),
        (Gaps(bits=2), [-1, 2], "outside"),
        (Bitmap(), [0, 0], "2 symbols for 6 places"),
        (Bitmap(), [], "0 symbols for 6 places"),
        (Bitmap(), [64], "beyond"),
        (Bitmap(), [256], "outside"),
    ],
)
def test_positions_that_cannot_be_are_refused(form: Gaps | Bitmap, symbols: list[int], why: str) -> None:
    with pytest.raises(CorruptFile, match=why):
        form.from_stream(np.array(symbols, dtype=np.int32), [(2, 3)])


def test_zero_has_nothing_to_write() -> None:
    assert Zero().merges
