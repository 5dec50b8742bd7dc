"""Weights are trained once, kept whole, and found again by their recipe."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch

from nqbench.api.toolkit.store import Trained, trained, trained_path


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
