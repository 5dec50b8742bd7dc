"""A compressed file back in Python."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import nqbench
from nqbench.api import BadInput, CorruptFile
from nqbench.container import read, reader
from nqbench.registry import registry

GOLDEN = Path(__file__).parent / "container" / "golden"
# those that need no plugin of a test's own
FILES = [
    p
    for kind in ("coder-[bhlrxz]*", "form-grid", "form-lookup*", "layers", "state-*")
    for p in GOLDEN.glob(f"{kind}.nqz")
]


@pytest.mark.parametrize("path", sorted(FILES), ids=lambda path: path.stem)
def test_load_gives_what_the_decoder_gives(path: Path) -> None:
    assert len(FILES) >= 15
    tensors = nqbench.load(path)
    decoded = read(path, registry()).tensors
    assert list(tensors) == list(decoded)
    assert all(torch.equal(tensors[name], tensor) for name, tensor in decoded.items())


class Like(nn.Module):
    """A module with the tensors of a file as its state."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        for name, tensor in state.items():
            owner: nn.Module = self
            *path, last = name.split(".")
            for part in path:
                if not hasattr(owner, part):
                    owner.add_module(part, nn.Module())
                owner = getattr(owner, part)
            owner.register_buffer(last, torch.zeros_like(tensor))


def test_load_into_fills_a_module_and_refuses_another() -> None:
    path = GOLDEN / "layers.nqz"
    state = nqbench.load(path)
    module = Like(state)
    assert nqbench.load_into(module, path) is module
    assert all(torch.equal(t, state[n]) for n, t in module.state_dict().items())
    name, first = next(iter(state.items()))
    less = Like({n: t for n, t in state.items() if n != name})
    with pytest.raises(BadInput, match="has '" + name.replace(".", r"\.")):
        nqbench.load_into(less, path)
    more = Like({**state, "further": torch.zeros(2)})
    with pytest.raises(BadInput, match="lacks 'further'"):
        nqbench.load_into(more, path)
    other = Like({**state, name: torch.zeros(first.numel() + 1)})
    with pytest.raises(BadInput, match="another shape"):
        nqbench.load_into(other, path)
    assert not any(t.any() for t in other.state_dict().values()), "the module is as it was"


def test_lazy_layers_take_the_shapes_of_the_file(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4))
    nqbench.save(module, tmp_path / "n.nqz")
    lazy = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d())
    nqbench.load_into(lazy, tmp_path / "n.nqz")
    state = nqbench.load(tmp_path / "n.nqz")
    assert {n: t.shape for n, t in lazy.state_dict().items()} == {n: t.shape for n, t in state.items()}
    assert all(torch.equal(t, state[n]) for n, t in lazy.state_dict().items())
    assert lazy.eval()(torch.zeros(2, 8)).shape == (2, 4)
    wider = nn.Sequential(nn.LazyLinear(4), nn.BatchNorm1d(5))
    with pytest.raises(BadInput, match=r"another shape for '1\.weight'"):
        nqbench.load_into(wider, tmp_path / "n.nqz")


def test_nothing_is_loaded_into_the_device_meta(tmp_path: Path) -> None:
    nqbench.save(nn.Linear(8, 4), tmp_path / "n.nqz")
    with pytest.raises(BadInput, match="'weight' of the module is on the device meta") as caught:
        nqbench.load_into(nn.Linear(8, 4, device="meta"), tmp_path / "n.nqz")
    assert "\n" not in str(caught.value)


def test_what_is_no_file_of_ours_is_said_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "x.nqz").write_bytes(b"something else")
    with pytest.raises(CorruptFile, match=r"x\.nqz"):
        nqbench.load(tmp_path / "x.nqz")
    with pytest.raises(BadInput, match=r"absent\.nqz"):
        nqbench.load(tmp_path / "absent.nqz")


def test_a_limit_says_how_much_a_file_may_stand_for(monkeypatch: pytest.MonkeyPatch) -> None:
    path = GOLDEN / "layers.nqz"
    state = nqbench.load(path)
    monkeypatch.setattr(reader, "default_limit", lambda: 10)  # as on a machine of 100 bytes
    with pytest.raises(CorruptFile, match="more than the limit of 10: raise the limit"):
        nqbench.load(path)
    assert list(nqbench.load(path, limit=1 << 20)) == list(state)
    module = Like(state)
    with pytest.raises(CorruptFile, match="more than the limit of 11"):
        nqbench.load_into(module, path, limit=11)
    nqbench.load_into(module, path, limit=1 << 20)
