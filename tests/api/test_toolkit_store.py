"""Weights are trained once, kept whole, and found again by their recipe."""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nqbench.api.errors import BadInput
from nqbench.api.toolkit.store import (
    Trained,
    adopt,
    content_of,
    load_trained,
    networks_read,
    save_trained,
    trained,
    trained_path,
    unchanged,
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path))
    return tmp_path


def make(value: float) -> Trained:
    return Trained({"w": torch.tensor([value])}, {"w": torch.tensor([2 * value])}, {"seconds": 3})


def test_the_second_call_reads_what_the_first_one_trained(cache: Path) -> None:
    first = trained("net", {"lr": 0.1}, lambda _: make(1.0))
    second = trained("net", {"lr": 0.1}, lambda _: pytest.fail("trained again"))
    assert torch.equal(first.state["w"], second.state["w"])
    assert second.moments["w"].tolist() == [2.0]
    assert second.notes == {"seconds": 3}
    assert trained("net", {"lr": 0.2}, lambda _: make(5.0)).state["w"].tolist() == [5.0]
    assert len(list((cache / "trained").glob("*.safetensors"))) == 2


def test_an_interrupted_training_leaves_its_checkpoints_and_no_weights(cache: Path) -> None:
    def stop(workdir: Path) -> Trained:
        (workdir / "epoch").write_text("3")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained("net", {}, stop)
    assert not trained_path("net", {}).exists()
    seen = []
    trained("net", {}, lambda workdir: (seen.append((workdir / "epoch").read_text()), make(1.0))[1])
    assert seen == ["3"]
    assert [p.suffix for p in (cache / "trained").iterdir() if p.suffix != ".lock"] == [".safetensors"]


def test_what_a_killed_process_wrote_half_goes_with_the_next_training(cache: Path) -> None:
    path = trained_path("net [1]", {"a": 1})
    path.parent.mkdir(parents=True, exist_ok=True)
    left = path.with_name(f".{path.name}.4711.tmp")
    other = path.with_name(f".other-{path.name}.4711.tmp")
    for each in (left, other):
        each.write_bytes(b"x" * 1000)
    trained("net [1]", {"a": 1}, lambda workdir: Trained({"w": torch.ones(2)}))
    assert not left.exists()
    assert other.exists()


def test_two_workers_do_not_train_the_same_network() -> None:
    calls = []

    def slow(_: Path) -> Trained:
        calls.append(1)
        time.sleep(0.3)
        return make(1.0)

    threads = [threading.Thread(target=trained, args=("net", {}, slow)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


DAMAGES = {
    "flipped": lambda data: data[:-3] + bytes([data[-3] ^ 0x10]) + data[-2:],
    "cut": lambda data: data[:-2],
    "half": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "header": lambda data: data[:9] + bytes([data[9] ^ 0x20]) + data[10:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_dropped_with_one_warning_that_names_it_and_made_again(damage: str) -> None:
    trained("net", {}, lambda _: make(1.0))
    path = trained_path("net", {})
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(BadInput, match=path.name) as caught:
        load_trained(path)
    assert "\n" not in str(caught.value)
    with pytest.warns(UserWarning, match=f"{path.name}.*trained again") as told:
        again = trained("net", {}, lambda _: make(1.0))
    assert len(told) == 1
    assert again.state["w"].tolist() == [1.0]
    assert trained("net", {}, lambda _: pytest.fail("trained again")).state["w"].tolist() == [1.0]


def test_every_bit_of_a_file_s_tensors_is_covered_by_its_hash() -> None:
    trained("net", {}, lambda _: Trained({"w": torch.randn(40), "n": torch.arange(3)}, {"w": torch.rand(40)}))
    path = trained_path("net", {})
    whole = path.read_bytes()
    begin = 8 + int.from_bytes(whole[:8], "little")
    for at in range(begin, len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        with pytest.raises(BadInput, match="damaged"):
            load_trained(path)


def test_a_file_of_before_files_said_their_hash_is_taken_and_sealed() -> None:
    trained("net", {"lr": 1}, lambda _: make(1.0))
    path = trained_path("net", {"lr": 1})
    save_file({"state/w": torch.tensor([5.0])}, path, metadata={"recipe": '{"lr": 1}', "notes": "{}"})
    assert content_of(path) is None
    found = trained("net", {"lr": 1}, lambda _: pytest.fail("trained again"))
    assert found.state["w"].tolist() == [5.0]
    assert content_of(path) == found.sha256 == load_trained(path).sha256


def test_which_networks_were_read_is_noted_with_their_content_and_noticed_when_another_takes_the_place() -> None:
    with networks_read() as outer:
        trained("one", {}, lambda _: make(1.0))
        with networks_read() as inner:
            found = trained("net", {}, lambda _: make(2.0))
    path = trained_path("net", {})
    assert inner == {path.name: found.sha256}
    assert outer.keys() == {trained_path("one", {}).name, path.name}
    assert unchanged(outer)
    save_trained(path, make(3.0), {})
    assert not unchanged(outer)
    path.unlink()
    assert not unchanged(inner)


@pytest.mark.parametrize("listed", [True, False])
def test_what_is_taken_from_elsewhere_is_checked_against_the_list_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: bool
) -> None:
    trained("net", {}, lambda _: make(1.0))
    path = trained_path("net", {})
    digest = hashlib.sha256(path.read_bytes() if listed else b"another").hexdigest()
    path.with_name("SHA256SUMS").write_text(f"{digest}  {path.name}\n")
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path / "other"))
    if listed:
        assert load_trained(adopt(path)).state["w"].tolist() == [1.0]
    else:
        with pytest.raises(BadInput, match="SHA256SUMS"):
            adopt(path)
        assert not trained_path("net", {}).exists()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_not_taken_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    trained("net", {}, lambda _: make(1.0))
    path = trained_path("net", {})
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path / "other"))
    with pytest.raises(BadInput, match=path.name) as caught:
        adopt(path)
    assert "\n" not in str(caught.value)


def test_a_store_that_cannot_be_written_is_told_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(BadInput, match=r"cannot be written \(Not a directory\); .* NQBENCH_CACHE"):
        trained("net", {}, lambda _: pytest.fail("trained"))


def test_a_network_that_finds_no_room_is_told_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr("nqbench.api.toolkit.store.save_trained", full)
    with pytest.raises(BadInput, match=r"trained: cannot be written \(No space left.*make room"):
        trained("net", {}, lambda _: make(1.0))
