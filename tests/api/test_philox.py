"""The counter-based generator: published vectors, and one law on every path."""

from __future__ import annotations

import pytest
import torch

from nqbench.api import philox

ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # Random123 1.14, tests/kat_vectors, philox4x32 10
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_the_published_vectors_come_out(
    counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    x0, x1, x2, x3 = (torch.tensor([word], dtype=torch.int64) for word in counter)
    assert tuple(int(word) for word in philox.philox4x32((x0, x1, x2, x3), key)) == expected


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 2**63 - 1])
def test_the_compiled_loop_gives_the_same_bits(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 3_000
    slow = philox.dither(seed, 0.37, count)
    monkeypatch.setattr(philox, "_COMPILED_FROM", 1)
    assert torch.equal(philox.dither(seed, 0.37, count), slow)


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = philox.dither(5, 1.0, 1_000)
    monkeypatch.setattr(philox, "_CHUNK", 77)
    assert torch.equal(philox.dither(5, 1.0, 1_000), whole)


def test_the_dither_is_uniform_on_the_open_cell() -> None:
    u = philox.dither(9, 2.0, 1 << 18)
    assert float(u.abs().max()) < 1.0
    assert float(u.double().mean()) == pytest.approx(0.0, abs=4 * (1 / 3) ** 0.5 / 2**9)
    assert float(u.double().square().mean()) == pytest.approx(1 / 3, rel=0.01)
