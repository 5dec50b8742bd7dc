"""The base forms: what a decoder computes from symbols, parameters and side information."""

from __future__ import annotations

import pytest
import torch

from nqbench.api import BadInput, Quantized, Source, dither

SYMBOLS = torch.tensor([0, 2, 1, 2], dtype=torch.int32)


def test_a_look_up_scales_each_tensor_by_its_own() -> None:
    q = Quantized(
        SYMBOLS, 3, (3, 1), {"codebook": torch.tensor([-1.0, 0.0, 2.0])}, {"scale": torch.tensor([10.0, 100.0])}
    )
    assert q.reconstruct().tolist() == [-10, 20, 0, 200]
    assert q.ordered
    assert q.zero == 1


def test_a_grid_needs_no_table() -> None:
    q = Quantized(SYMBOLS, 3, (4,), {"step": torch.tensor([0.5])}, {"offset": -1.0}, form="grid")
    assert q.reconstruct().tolist() == [-0.5, 0.5, 0.0, 0.5]
    assert q.zero == 1
    half = Quantized(SYMBOLS, 3, (4,), {"step": torch.tensor([0.5])}, {"offset": -0.5}, form="grid")
    assert half.zero is None


def test_a_dithered_vector_shares_its_dither_and_drops_its_padding() -> None:
    codebook = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    q = Quantized(
        torch.tensor([1, 0], dtype=torch.int32),
        2,
        (3,),
        {"codebook": codebook},
        {"seed": 7, "dither_step": 0.5},
        form="dithered",
    )
    u = dither(7, 0.5, 2)
    expected = torch.stack([2 - u[0], 3 - u[0], 0 - u[1]])
    assert torch.equal(q.reconstruct(), expected)
    assert q.zero is None
    assert not q.ordered


def test_gradients_reach_each_codeword_from_its_members() -> None:
    q = Quantized(SYMBOLS, 3, (4,), {"codebook": torch.tensor([-1.0, 0.0, 2.0])})
    codebook = q.parameters["codebook"].clone().requires_grad_()
    (q.reconstruct({"codebook": codebook}) * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    assert codebook.grad.tolist() == [1, 3, 6]


def test_nearest_sorts_the_codebook_and_sends_a_tie_down() -> None:
    q = Quantized.nearest(Source(torch.tensor([-9.0, 0.5, 0.6, 1.4])), torch.tensor([1.0, 0.0]))
    assert q.parameters["codebook"].tolist() == [0, 1]
    assert q.symbols.tolist() == [0, 0, 1, 1]


def test_nearest_breaks_no_tie_by_rounding_the_edge() -> None:
    for start in (1.0, 1.0 + 2**-23):
        below = torch.tensor([start, start + 2**-23])
        q = Quantized.nearest(Source(below), below)  # the edge is no float32 number, and would round to a codeword
        assert q.symbols.tolist() == [0, 1]


def test_what_cannot_be_read_is_refused() -> None:
    with pytest.raises(BadInput, match="dimension 2"):
        Quantized(SYMBOLS, 3, (9,), {"codebook": torch.zeros(3, 2)}).reconstruct()
    with pytest.raises(BadInput, match="own form"):
        Quantized(SYMBOLS, 3, (4,), form="plugin").reconstruct()
    with pytest.raises(BadInput, match="3 scales for 2 tensors"):
        Quantized(SYMBOLS, 3, (3, 1), {"codebook": torch.zeros(3)}, {"scale": torch.ones(3)}).reconstruct()
