"""``nqbench.save``: a file of tensors alone, without any data."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import nqbench
from nqbench.api import BadInput


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("quantizer", "parameters", "error"),
    [
        ("uniform", None, 0.1),
        ("rtn", {"bits": 8, "granularity": "channel"}, 0.02),
        ("nf4", {"group": 16}, 0.6),
        ("kmeans", {"k": 16}, 1.5),
    ],
)
def test_every_tensor_comes_back_as_near_as_its_grid(
    tmp_path: Path, quantizer: str, parameters: dict[str, object] | None, error: float
) -> None:
    state = {
        "conv.weight": drawn(8, 4, 3, 3),
        "norm.weight": drawn(8, seed=1),
        "norm.running_var": drawn(8, seed=2).abs(),
        "norm.num_batches_tracked": torch.tensor(7),
        "half.weight": drawn(5, 6, seed=3).half(),
        "empty": torch.zeros(0, 3),
    }
    path = tmp_path / "x.nqz"
    size = nqbench.save(state, path, quantizer=quantizer, parameters=parameters)
    assert size == path.stat().st_size
    back = nqbench.load(path)
    assert list(back) == list(state)
    for name, tensor in state.items():
        assert back[name].dtype == tensor.dtype
        assert back[name].shape == tensor.shape
    for name in ("conv.weight", "half.weight"):
        spread = float(state[name].float().std())
        assert float((back[name].float() - state[name].float()).abs().max()) <= error * spread + 1e-3
    assert torch.equal(back["norm.weight"], state["norm.weight"].half().float())
    assert torch.equal(back["norm.running_var"], state["norm.running_var"])
    assert int(back["norm.num_batches_tracked"]) == 7


def test_the_example_in_the_docstring_runs() -> None:
    assert doctest.testmod(nqbench.files) == (0, 7)


def test_tied_tensors_are_stored_once_and_a_module_serves_as_its_state(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(50, 16)
            self.head = nn.Linear(16, 50, bias=False)
            self.head.weight = self.embed.weight

    tied, apart = Tied(), Tied()
    apart.head.weight = nn.Parameter(drawn(50, 16, seed=9))
    small, large = (nqbench.save(module, tmp_path / "x.nqz") for module in (tied, apart))
    assert small < 0.6 * large
    nqbench.save(tied, tmp_path / "x.nqz")
    back = nqbench.load(tmp_path / "x.nqz")
    assert torch.equal(back["head.weight"], back["embed.weight"])
    nqbench.load_into(Tied(), tmp_path / "x.nqz")


def test_a_view_that_lies_another_way_is_stored_for_itself(tmp_path: Path) -> None:
    kept = drawn(4, 4)
    state = {"kept": kept, "again": kept, "transposed": kept.T, "bits": kept.view(torch.int32)}
    nqbench.save(state, tmp_path / "x.nqz", tensors=["kept"], step=0.01, unquantized="float32")
    back = nqbench.load(tmp_path / "x.nqz")
    assert torch.equal(back["again"], back["kept"])
    assert torch.equal(back["transposed"], kept.T)
    assert torch.equal(back["bits"], state["bits"])


def test_buffers_of_a_module_keep_every_bit_whatever_their_shape(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(8, 8))
    module.register_buffer("table", drawn(8, 8, seed=5))
    nqbench.save(module, tmp_path / "x.nqz")
    back = nqbench.load(tmp_path / "x.nqz")
    assert torch.equal(back["table"], module.get_buffer("table"))
    assert not torch.equal(back["0.weight"], module[0].weight)
    nqbench.save(module, tmp_path / "x.nqz", tensors=["table"])
    assert not torch.equal(nqbench.load(tmp_path / "x.nqz")["table"], module.get_buffer("table"))


def test_what_cannot_be_done_is_one_line(tmp_path: Path) -> None:
    state = {"a": drawn(3, 3)}
    for options, told in (
        ({"quantizer": "gptq"}, "needs data"),
        ({"quantizer": "unifrom"}, "unifrom"),
        ({"coder": "nothing"}, "nothing"),
        ({"tensors": ["b"]}, "no tensor 'b'"),
        ({"unquantized": "float8"}, "unquantized is 'float8', expected one of float32, float16"),
    ):
        with pytest.raises(nqbench.api.NqbenchError, match=told):
            nqbench.save(state, tmp_path / "x.nqz", **options)  # type: ignore[arg-type]
    for odd in ([1], {"a": [1.0]}, None):
        with pytest.raises(BadInput, match=f"state is {type(odd).__name__}, expected a torch.nn.Module"):
            nqbench.save(odd, tmp_path / "x.nqz")  # type: ignore[arg-type]
    for value, told in (
        (torch.zeros(3, 3, dtype=torch.float8_e4m3fn), "'a' is float8_e4m3fn, which no file holds"),
        (torch.eye(3).to_sparse(), "'a' is sparse_coo, expected a plain dense tensor"),
        (torch.zeros(3, 3, device="meta"), "'a' is on the device meta"),
        (torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]), "'a' is nested"),
    ):
        with pytest.raises(BadInput, match=told):
            nqbench.save({"a": value}, tmp_path / "x.nqz")
    with pytest.raises(BadInput, match="a mapping from names to tensors"):
        nqbench.save({1: torch.zeros(2)}, tmp_path / "x.nqz")  # type: ignore[dict-item]
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match=r"n\.nqz: cannot be written"):
        nqbench.save(state, tmp_path / "file" / "n.nqz")
    with pytest.raises(BadInput, match="'a' holds nan or inf"):
        nqbench.save({"a": torch.full((2, 2), torch.nan)}, tmp_path / "x.nqz")
    assert not (tmp_path / "x.nqz").exists()
