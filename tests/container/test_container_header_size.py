"""The header is compact: at 250x LeNet-5 is 6.9 kB in all."""

import json

import pytest
import torch
from nqz_kit import kit_registry
from torch import nn

from nqbench.api import Group, Quantized
from nqbench.container import Contents, encode, sections_of

LENET5 = {
    "conv1.weight": (20, 1, 5, 5), "conv1.bias": (20,), "conv2.weight": (50, 20, 5, 5), "conv2.bias": (50,),
    "fc1.weight": (500, 800), "fc1.bias": (500,), "fc2.weight": (10, 500), "fc2.bias": (10,),
}  # fmt: skip


def lenet5():
    """431,080 parameters, as published."""
    return {name: torch.randn(shape) for name, shape in LENET5.items()}


def resnet32():
    """464,154 parameters and the batch norms' statistics, under torchvision's names."""
    net = nn.Module()
    net.conv1, net.bn1 = nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16)
    width = 16
    for stage, planes in enumerate((16, 32, 64), 1):
        blocks = []
        for _ in range(5):
            block = nn.Module()
            block.conv1, block.bn1 = nn.Conv2d(width, planes, 3, bias=False), nn.BatchNorm2d(planes)
            block.conv2, block.bn2 = nn.Conv2d(planes, planes, 3, bias=False), nn.BatchNorm2d(planes)
            blocks.append(block)
            width = planes
        setattr(net, f"layer{stage}", nn.Sequential(*blocks))
    net.fc = nn.Linear(64, 10)
    assert sum(p.numel() for p in net.parameters()) == 464_154
    return net.state_dict()


def header_bytes(state, granularity, pruned):
    registry = kit_registry()
    names = [name for name, tensor in state.items() if tensor.dim() > 1]
    masks = {name: torch.rand(state[name].shape) < 0.1 for name in names} if pruned else {}
    groups = []
    for members in [names] if granularity == "global" else [[name] for name in names]:
        sizes = tuple(int(masks[n].sum()) if pruned else state[n].numel() for n in members)
        symbols = torch.randint(0, 16, (sum(sizes),), dtype=torch.int32)
        groups.append(Group(tuple(members), Quantized(symbols, 16, sizes, {"codebook": torch.randn(16).sort().values})))
    contents = Contents(
        order=tuple(state),
        shapes={n: tuple(t.shape) for n, t in state.items()},
        dtypes={n: t.dtype for n, t in state.items()},
        raw={n: t for n, t in state.items() if n not in names},
        parameters=frozenset(n for n in state if n.endswith((".weight", ".bias"))),
        groups=tuple(groups),
        masks=masks,
        quantizer=registry.make("quantizer", "kmeans", {"k": 16}),
        coder=registry.make("coder", "huffman"),
        positions=registry.make("positions", "kit-bitmap"),
    )
    return encode(contents, registry)[1].parts["header"]


@pytest.mark.parametrize(
    ("state", "granularity", "most"),
    [(lenet5, "global", 400), (lenet5, "layer", 400), (resnet32, "global", 1000), (resnet32, "layer", 1000)],
)
@pytest.mark.parametrize("pruned", [False, True], ids=["whole", "pruned"])
def test_headers_are_compact(state, granularity, most, pruned):
    assert header_bytes(state(), granularity, pruned) <= most


def test_a_header_does_not_grow_with_the_weights():
    small = {name: torch.randn(8, 8) for name in ("a.weight", "b.weight")}
    large = {name: torch.randn(64, 64) for name in ("a.weight", "b.weight")}
    assert abs(header_bytes(large, "global", False) - header_bytes(small, "global", False)) <= 8


@pytest.mark.parametrize("form", ["lookup", "plugin"])
def test_parameters_at_their_defaults_are_left_out_unless_the_reader_needs_them(form):
    registry = kit_registry()
    quantizer = registry.make("quantizer", "kmeans", {"k": 8})
    symbols = torch.arange(6, dtype=torch.int32)
    contents = Contents(
        order=("weight",),
        shapes={"weight": (6,)},
        dtypes={"weight": torch.float32},
        raw={},
        parameters=frozenset({"weight"}),
        groups=(Group(("weight",), Quantized(symbols, 6, (6,), {"codebook": torch.arange(6.0)}, form=form)),),
        masks={},
        quantizer=quantizer,
        coder=registry.make("coder", "huffman"),
        positions=None,
    )
    written = json.loads(sections_of(encode(contents, registry)[0]).header.quantizer.json)
    whole = json.loads(quantizer.canonical_json())
    assert len(whole) > 1
    assert written == ({"k": 8} if form == "lookup" else whole)
    # as the board does it: what was left out is filled in
    assert registry.make("quantizer", "kmeans", written) == quantizer
