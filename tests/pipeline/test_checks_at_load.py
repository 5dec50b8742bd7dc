"""A network that cannot be compressed is refused when it is loaded, in a line: tensor, place, value."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from own_networks import BUILDERS, CLASSES, INPUTS, own_trial, run, with_own
from torch import Tensor, nn

from nqbench.api import BadInput
from nqbench.api.errors import Note
from nqbench.container import read
from nqbench.files import save
from nqbench.pipeline.cache import Cache
from nqbench.pipeline.decoder import Decoder
from nqbench.pipeline.workbench import Workbench
from nqbench.registry import registry


def _net(change: Callable[[nn.Sequential], object]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        net = nn.Sequential(nn.Linear(INPUTS, 5), nn.BatchNorm1d(5), nn.Linear(5, CLASSES))
        with torch.no_grad():
            change(net)
        return net

    return build


def _put(name: str, place: tuple[int, ...], value: float) -> Callable[[nn.Sequential], object]:
    return lambda net: net.state_dict()[name].__setitem__(place, value)


def _buffer(value: Tensor) -> Callable[[nn.Sequential], object]:
    return lambda net: net.register_buffer("extra", value)


class _Remembers(nn.Linear):
    def get_extra_state(self) -> object:
        return {"a": 1}

    def set_extra_state(self, state: object) -> None:
        """Nothing is kept."""


def _shared(view: Callable[[Tensor], Tensor]) -> Callable[[nn.Sequential], object]:
    """A further layer whose weight is a view of another layer's."""

    def change(net: nn.Sequential) -> None:
        first, second = nn.Linear(CLASSES, CLASSES), nn.Linear(CLASSES, CLASSES)
        second.weight = nn.Parameter(view(first.weight.data))
        net.extend([first, second])

    return change


REFUSED = {
    "transposed": (
        _shared(lambda w: w.T),
        r"'3.weight' and '4.weight' share memory, as transposed or partial views do",
    ),
    "partial": (_shared(lambda w: w.view(-1)[3:].view(2, 3)), r"'3.weight' and '4.weight' share memory"),
    "nested": (
        _buffer(torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])),
        r"'extra' is nested, expected a plain dense tensor",
    ),
    "0.weight, nan": (_put("0.weight", (2, 1), math.nan), r"'0.weight' has nan at \[2, 1\]: quantized tensors"),
    "2.weight, -inf": (_put("2.weight", (0, 4), -math.inf), r"'2.weight' has -inf at \[0, 4\]"),
    "2.weight, -1e30": (
        _put("2.weight", (0, 4), -1e30),
        r"'2.weight' has -1e\+30 at \[0, 4\].*no larger than 1.2e\+18",
    ),
    "0.bias, inf": (_put("0.bias", (3,), math.inf), r"'0.bias' has inf at \[3\].*nonfinite: store"),
    "1.weight, nan": (_put("1.weight", (0,), math.nan), r"'1.weight' has nan at \[0\]"),
    "1.running_var, nan": (_put("1.running_var", (1,), math.nan), r"'1.running_var' has nan at \[1\]"),
    "complex": (_buffer(torch.zeros(2, dtype=torch.complex64)), r"'extra' is complex64, which no file holds"),
    "sparse": (_buffer(torch.eye(2).to_sparse()), r"'extra' is sparse_coo, expected a plain dense tensor"),
    "meta": (_buffer(torch.zeros(2, device="meta")), r"'extra' is on the device meta"),
    "lazy": (lambda net: net.append(nn.LazyLinear(3)), r"'3.weight' has no shape yet"),
    "extra state": (lambda net: net.append(_Remembers(3, 3)), r"'3._extra_state' is a dict, not a tensor"),
}
BUILDERS |= {name: _net(change) for name, (change, _) in REFUSED.items()}
BUILDERS["bias of 1e30"] = _net(_put("0.bias", (3,), 1e30))
BUILDERS["mask of -inf"] = _net(_buffer(torch.full((3, 3), -math.inf).triu(1)))


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_compressed_is_refused_with_its_place(decoder: Decoder, tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match=REFUSED[name][1]) as refused:
        run(decoder, own_trial(name), tmp_path)
    assert "\n" not in str(refused.value)
    assert "model 'own'" in str(refused.value)


def test_parameters_of_one_memory_are_one_and_parts_of_one_are_several(decoder: Decoder, tmp_path: Path) -> None:
    """An older way of tying, ``b.weight = nn.Parameter(a.weight.data)``; and all weights in one block of memory."""

    def tied(net: nn.Sequential) -> None:
        _shared(lambda w: w)(net)

    def in_a_block(net: nn.Sequential) -> None:
        block = torch.cat([p.detach().reshape(-1) for p in net.parameters()])
        for module in net:
            for name, p in list(module.named_parameters()):
                part, block = block[: p.numel()], block[p.numel() :]
                setattr(module, name, nn.Parameter(part.view(p.shape)))

    BUILDERS["tied by memory"], BUILDERS["in a block"] = _net(tied), _net(in_a_block)
    trained = {"training": (("straight-through", {"epochs": 2, "batch_size": 8, "lr": 0.1}),)}
    for fields in ({}, trained):
        figures = run(decoder, own_trial("tied by memory", **fields), tmp_path)
        (path,) = tmp_path.glob("*.nqz")
        back = read(path, registry()).tensors
        assert torch.equal(back["3.weight"], back["4.weight"])
        # what was evaluated is what a network of that kind has once the file is in it
        whole = BUILDERS["tied by memory"]()
        whole.load_state_dict(back)
        assert figures["file_bytes"] == path.stat().st_size
        assert torch.equal(whole[3].weight, back["3.weight"])  # type: ignore[index]
        path.unlink()
    run(decoder, own_trial("in a block"), tmp_path)


def test_codewords_that_the_network_s_own_dtype_cannot_hold_are_told(decoder: Decoder, tmp_path: Path) -> None:
    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(INPUTS, CLASSES)
            with torch.no_grad():
                self.layer.weight.copy_(torch.linspace(-6e4, 6.55e4, INPUTS * CLASSES).reshape(CLASSES, INPUTS))
            self.layer.half()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.layer(x.half()).float()
            return out

    BUILDERS["large half"] = Large
    trial = own_trial("large half", quantizer=("lattice", {"d": 2, "step": 14000.0}))
    with pytest.raises(BadInput, match=r"'layer.weight' has a codeword of \d+, which is infinite in float16, its own"):
        run(decoder, trial, tmp_path)
    with pytest.raises(BadInput, match=r"'layer.weight' has a codeword of .* infinite in float16"):
        save(Large(), tmp_path / "x.nqz", quantizer="lattice", parameters={"d": 2, "step": 14000.0})


def test_weights_that_some_quantizers_take_for_zeros_are_told(decoder: Decoder, tmp_path: Path) -> None:
    def tiny(net: nn.Sequential) -> None:
        net[0].weight.mul_(1e-24)  # type: ignore[union-attr, operator]
        net[2].weight.zero_()  # type: ignore[union-attr, operator]

    BUILDERS["tiny"] = _net(tiny)
    said = r"'0.weight' \(\d.*e-25\): no weight is larger, and some quantizers take such weights for zeros"
    with pytest.warns(Note, match=said):
        run(decoder, own_trial("tiny"), tmp_path)
    with pytest.warns(Note, match=said):
        save(BUILDERS["tiny"](), tmp_path / "x.nqz")


@pytest.mark.parametrize("name", ["0.bias, inf", "1.running_var, nan", "mask of -inf"])
@pytest.mark.parametrize("unquantized", ["float32", "float16", "uint8-all"])
def test_nan_and_inf_that_are_only_stored_stay_what_they_are_where_that_is_asked_for(
    decoder: Decoder, tmp_path: Path, name: str, unquantized: str
) -> None:
    run(decoder, own_trial(name, nonfinite="store", unquantized=unquantized), tmp_path)
    (path,) = tmp_path.iterdir()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        own = BUILDERS[name]().state_dict()
    for key, tensor in read(path, registry()).tensors.items():
        odd = ~torch.isfinite(own[key])
        assert torch.equal(tensor[odd].nan_to_num(7.0), own[key][odd].nan_to_num(7.0))
        assert bool(torch.isfinite(tensor[~odd]).all())


def test_what_was_stored_on_request_is_refused_without_it_whatever_is_cached(decoder: Decoder, tmp_path: Path) -> None:
    def bench() -> Workbench:
        return Workbench(with_own(), Cache(tmp_path / "cache"), torch.device("cpu"), decoder=decoder)

    asked, plain = (own_trial("0.bias, inf", nonfinite=word) for word in ("store", "refuse"))
    bench().run(asked, tmp_path)
    for _ in range(2):
        with pytest.raises(BadInput, match=r"'0\.bias' has inf"):
            bench().stage(plain, "prune")
        with pytest.raises(BadInput, match=r"'0\.bias' has inf"):
            bench().run(plain, tmp_path)
    assert bench().run(asked, tmp_path)["cached"]


def test_a_large_number_that_is_only_stored_is_stored(decoder: Decoder, tmp_path: Path) -> None:
    run(decoder, own_trial("bias of 1e30", unquantized="float16"), tmp_path)
    (path,) = tmp_path.iterdir()
    assert float(read(path, registry()).tensors["0.bias"][3]) == float(torch.tensor(1e30))


def test_what_is_to_be_stored_is_no_excuse_for_what_is_quantized(decoder: Decoder, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"'0\.weight' has nan"):
        run(decoder, own_trial("0.weight, nan", nonfinite="store"), tmp_path)
