"""im2col by strides against torch's own unfold, and per-sample squares against one sample at a time."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nqbench.api import BadInput
from nqbench.api.toolkit.persample import Tape, owner, squares
from nqbench.api.toolkit.windows import vectors


@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 0, 1), (2, 1, 1), ((1, 2), (2, 0), (2, 1)), (3, 2, 2)])
def test_columns_are_those_of_unfold(stride: int, padding: int, dilation: int) -> None:
    layer = nn.Conv2d(4, 6, (3, 2), stride=stride, padding=padding, dilation=dilation, groups=2)
    x = torch.randn(3, 4, 9, 8).contiguous(memory_format=torch.channels_last)
    expected = nn.functional.unfold(x, (3, 2), dilation=dilation, padding=padding, stride=stride)
    assert torch.equal(vectors(layer, x), expected)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (5, 4, 9)),
        (nn.Conv2d(3, 5, 3, padding=(1, 0), dilation=2), (5, 3, 7, 8)),
        (nn.Linear(4, 3), (5, 4)),
        (nn.Linear(4, 3), (5, 6, 4)),  # a sequence: the gradients of its places add before squaring
    ],
)
def test_squares_are_those_of_one_sample_at_a_time(layer: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    with Tape(layer, ["weight", "bias"]) as tape:
        outputs = layer(x)
        cotangent = torch.randn_like(outputs)
        got = tape.squared(outputs, cotangent)
    for name in ("weight", "bias"):
        p = layer.get_parameter(name)
        total = torch.zeros_like(p)
        for i in range(len(x)):
            total += torch.autograd.grad((layer(x[i : i + 1]) * cotangent[i : i + 1]).sum(), p)[0].square()
        torch.testing.assert_close(got[name], total)


def test_embeddings_and_norms_take_a_backward_pass_a_sample() -> None:
    module = nn.Sequential(nn.Embedding(7, 4), nn.LayerNorm(4), nn.Flatten(), nn.Linear(12, 3))
    x = torch.randint(0, 7, (5, 3))
    names = [name for name, _ in module.named_parameters()]
    with squares(module, names) as sums:
        outputs = module(x)
        cotangent = torch.randn_like(outputs)
        got = sums.squared(outputs, cotangent)
    for name in names:
        p = module.get_parameter(name)
        total = torch.zeros_like(p)
        for i in range(len(x)):
            total += torch.autograd.grad((module(x[i : i + 1]) * cotangent[i : i + 1]).sum(), p)[0].square()
        torch.testing.assert_close(got[name], total)


def test_unknown_layers_are_refused_by_name() -> None:
    with pytest.raises(BadInput, match=r"'0.weight' belongs to a LayerNorm"):
        owner(nn.Sequential(nn.LayerNorm(3)), "0.weight")


class Tied(nn.Module):
    """A linear layer whose weight is an embedding's too, behind attention, which never calls its output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 7, bias=False)
        self.embed = nn.Embedding(7, 4)
        self.embed.weight = self.head.weight
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.embed(x)
        out: torch.Tensor = self.head(self.attention(h, h, h)[0]).mean(1)
        return out


def test_weights_that_are_used_behind_a_layers_back_are_not_missed() -> None:
    module, x = Tied(), torch.randint(0, 7, (5, 3))
    names = ["head.weight", "attention.out_proj.weight"]
    with squares(module, names) as sums:
        outputs = module(x)
        cotangent = torch.randn_like(outputs)
        got = sums.squared(outputs, cotangent)
    for name in names:
        p = module.get_parameter(name)
        total = torch.zeros_like(p)
        for i in range(len(x)):
            total += torch.autograd.grad((module(x[i : i + 1]) * cotangent[i : i + 1]).sum(), p)[0].square()
        torch.testing.assert_close(got[name], total)
        assert bool(total.any())


class HandedOn(nn.Module):
    """A linear layer that is never called: its weight is handed to torch's function, with a bias put together."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.head, self.never = nn.Linear(6, 9, bias=False), nn.Linear(9, 3), nn.Linear(2, 2)
        self.q_bias = nn.Parameter(torch.randn(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = torch.cat([self.q_bias, self.q_bias.new_zeros(6)])
        out: torch.Tensor = self.head(torch.tanh(nn.functional.linear(x, self.qkv.weight, bias)))
        return out


def test_a_weight_that_is_handed_to_the_function_is_not_taken_for_unused() -> None:
    module, x = HandedOn(), torch.randn(5, 6)
    names = ["qkv.weight", "head.weight", "never.weight"]
    with Tape(module, names) as tape:
        outputs = module(x)
        cotangent = torch.randn_like(outputs)
        got = tape.squared(outputs, cotangent)
        with pytest.raises(BadInput, match=r"'qkv\.weight' is used without a call of its Linear"):
            tape.output_gradients(outputs, cotangent)
    for name in names[:2]:
        p = module.get_parameter(name)
        total = torch.zeros_like(p)
        for i in range(len(x)):
            total += torch.autograd.grad((module(x[i : i + 1]) * cotangent[i : i + 1]).sum(), p)[0].square()
        torch.testing.assert_close(got[name], total)
    assert not bool(got["never.weight"].any())
