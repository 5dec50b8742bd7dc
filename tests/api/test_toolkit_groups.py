"""Groups survive being written and read."""

from __future__ import annotations

from pathlib import Path

import torch

from nqbench.api import Group, Quantized
from nqbench.api.toolkit.groups import load_groups, save_groups


def test_groups_come_back_with_all_that_they_were(tmp_path: Path) -> None:
    q = Quantized(
        torch.tensor([1, 0, 1], dtype=torch.int32),
        2,
        (3, 2),
        {"codebook": torch.tensor([[1.0, 2.0], [3.0, 4.0]])},
        {"seed": 12345678901234567, "dither_step": 0.1, "table": torch.tensor([5.0])},
        "dithered",
        {"codebook": torch.tensor([[True, False], [False, False]])},
        {"iterations": 3.0},
    )
    save_groups(tmp_path / "g", [Group(("a", "b"), q), Group(("c",), q)], {"x": torch.ones(2)}, {"iteration": 4})
    groups, tensors, notes = load_groups(tmp_path / "g", torch.device("cpu"))
    assert [g.names for g in groups] == [("a", "b"), ("c",)]
    got = groups[1].quantized
    assert torch.equal(got.reconstruct(), q.reconstruct())
    assert (got.alphabet, got.sizes, got.form, got.statistics) == (2, (3, 2), "dithered", {"iterations": 3.0})
    assert got.side["seed"] == 12345678901234567
    assert got.side["dither_step"] == 0.1
    assert torch.equal(got.side["table"], torch.tensor([5.0]))
    assert torch.equal(got.held["codebook"], q.held["codebook"])
    assert torch.equal(tensors["x"], torch.ones(2))
    assert notes == {"iteration": 4}
