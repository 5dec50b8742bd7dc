"""What is sealed comes back as it was written, or not at all."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nqbench.api.errors import BadInput
from nqbench.api.toolkit.sealed import seal, seal_text, unseal, unseal_text


def test_tensors_of_every_layout_come_back(tmp_path: Path) -> None:
    shared = torch.arange(6.0)
    tensors = {
        "tied": shared,
        "again": shared,
        "view": shared.view(2, 3).T,
        "wide": torch.tensor(3.0).expand(4),
        "none": torch.empty(0, 2),
        "half": torch.ones(2, dtype=torch.bfloat16),
    }
    seal(tmp_path / "f", tensors, {"epoch": "3"})
    found, about = unseal(tmp_path / "f")
    assert list(found) == sorted(tensors)
    assert about["epoch"] == "3"
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_a_flipped_bit_anywhere_is_noticed(tmp_path: Path) -> None:
    """Of the tensors, of their names, of what is said of them."""
    path = tmp_path / "f"
    seal(path, {"w": torch.arange(8.0), "b": torch.zeros(1)}, {"epoch": "3", "steps": "70"})
    sound, draw = path.read_bytes(), random.Random(1)
    whole = unseal(path)
    for _ in range(400):
        data = bytearray(sound)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        if (told := _refused(path)) is not None:
            assert "\n" not in told
            assert str(path) in told
            continue
        found, about = unseal(path)
        assert about == whole[1]
        assert all(torch.equal(found[name], tensor) for name, tensor in whole[0].items())


def _refused(path: Path) -> str | None:
    try:
        unseal(path)
    except BadInput as error:
        return str(error)
    return None


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_file_that_was_cut_off_is_told_by_its_name(tmp_path: Path, share: float) -> None:
    path = tmp_path / "f"
    seal(path, {"w": torch.arange(8.0)}, {})
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(BadInput, match=str(path)):
        unseal(path)


def test_a_file_without_a_seal_counts_only_where_it_is_said_to(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "f")
    with pytest.raises(BadInput, match="no checksum"):
        unseal(tmp_path / "f")
    assert unseal(tmp_path / "f", open_too=True)[0]["w"].tolist() == [1, 1]
    with pytest.raises(FileNotFoundError):
        unseal(tmp_path / "other")


def test_text_comes_back_under_its_own_name_alone(tmp_path: Path) -> None:
    seal_text(tmp_path / "one", "größer\nals")
    assert unseal_text(tmp_path / "one") == "größer\nals"
    data = (tmp_path / "one").read_bytes()
    (tmp_path / "two").write_bytes(data)
    for number, damage in enumerate((b"", data[:-1], data.replace(b"als", b"alt"), b"\xff" + data)):
        (tmp_path / str(number)).write_bytes(damage)
    assert [unseal_text(tmp_path / name) for name in ("two", "0", "1", "2", "3", "none")] == [None] * 6
