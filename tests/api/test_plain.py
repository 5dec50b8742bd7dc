"""Tensors of every layout become tensors that files and loops can take, without a value changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nqbench.api import Group, Pruned, Quantized, QuantizedModel
from nqbench.api.plain import apart, plain
from nqbench.container.raw import tensor_bytes
from nqbench.pipeline.artifacts import bits, load_quantized, save_quantized, save_tensors

BASE = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5)
LAYOUTS: dict[str, Callable[[], Tensor]] = {
    "one entry of stride 0": lambda: torch.ones(1).expand(3)[:1],
    "one entry of stride 3": lambda: torch.arange(10.0)[::3][:1],
    "all of stride 0": lambda: torch.full((1,), 2.5).expand(7),
    "a column of one": lambda: BASE[:, 1, 2][1:2, None],
    "transposed": lambda: BASE.permute(2, 0, 1),
    "every other": lambda: BASE.reshape(-1)[1::2],
    "a part": lambda: BASE[1:],
    "no dimension": lambda: BASE[1, 2, 3],
    "empty": lambda: torch.empty(0, 4),
    "empty, transposed": lambda: torch.empty(0, 4).t(),
    "channels last": lambda: torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "bfloat16 of stride 0": lambda: torch.ones(1, dtype=torch.bfloat16).expand(2)[:1],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_becomes_row_major_and_can_be_written(layout: str) -> None:
    tensor = LAYOUTS[layout]()
    got = plain(tensor)
    assert torch.equal(got, tensor)
    assert got.stride() == torch.empty(tensor.shape).stride()
    assert plain(got) is got
    wanted = b"".join(x.clone().numpy().tobytes() for x in tensor.float().flatten())
    if tensor.dtype == torch.float32:
        assert tensor_bytes(tensor) == wanted
    assert tensor_bytes(tensor) == bits(tensor).tobytes()


def test_what_plugins_return_is_row_major_from_the_border_on() -> None:
    strange = torch.ones(1).expand(3)[:1]
    q = Quantized(
        torch.zeros(8, dtype=torch.int32)[::2], 1, (4,), {"step": strange}, {"offset": 0, "table": strange}, "grid",
        held={"step": torch.zeros(1, dtype=torch.bool).expand(2)[:1]},
    )  # fmt: skip
    model = QuantizedModel((Group(("w",), q),), {"b": strange})
    pruned = Pruned({"b": strange}, {"w": torch.ones(4, 2, dtype=torch.bool)[:, 0]}, {"b": strange})
    found = [q.symbols, q.parameters["step"], q.side["table"], q.held["step"], model.raw_state["b"]]
    found += [pruned.state["b"], pruned.masks["w"], (pruned.moments or {})["b"]]
    assert all(isinstance(t, Tensor) and (t.numel() == 0 or t.stride() == (1,)) for t in found)


def test_tensors_that_share_memory_are_kept_each_on_its_own(tmp_path: Path) -> None:
    whole = torch.arange(10.0)
    views = {"whole": whole, "first": whole[:6], "overlapping": whole[4:], "again": whole, "none": whole[:0]}
    assert all(torch.equal(found, views[name]) for name, found in apart(views).items())
    places = {t.untyped_storage().data_ptr() for t in apart(views).values() if t.numel()}
    assert len(places) == 4
    save_tensors(views, tmp_path / "views.safetensors")
    q = Quantized(torch.zeros(4, dtype=torch.int32), 6, (4,), {"codebook": whole[:6]}, {"scale": whole[2:3]})
    save_quantized(QuantizedModel((Group(("w",), q),), {"b": whole}), tmp_path / "model.safetensors")
    back = load_quantized(tmp_path / "model.safetensors")
    assert torch.equal(back.groups[0].quantized.parameters["codebook"], whole[:6])
    assert torch.equal(back.raw_state["b"], whole)
