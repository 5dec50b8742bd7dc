"""``nqbench cache``: good and bad input."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nqbench.api.toolkit.store import Trained, trained
from nqbench.cli import invoke
from nqbench.pipeline.cache import Cache


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path))
    monkeypatch.delenv("NQBENCH_CACHE_LIMIT", raising=False)
    return Cache.default()


def fill(cache: Cache) -> int:
    """Two entries; their bytes."""
    for stage, key in (("file", "aa"), ("quantize", "bb")):
        cache.put(stage, key, {}, lambda path: path.write_bytes(bytes(3000)))
    return sum(size for _, size in cache.info().values())


def test_info_counts_entries_and_bytes_of_an_empty_cache_too(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["cache", "info"]) == 0
    assert "all" in capsys.readouterr().out
    total = fill(cache)
    assert invoke(["cache", "info"]) == 0
    text = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines()[2:-2]}
    assert rows["all"] == ["2", f"{total / 1024:.1f}", "KiB"]
    assert rows["file"][0] == rows["quantize"][0] == "1"
    assert str(cache.root) in text
    assert "limit: 20.0 GiB" in text


def test_clear_drops_one_stage_or_all(cache: Cache) -> None:
    fill(cache)
    assert invoke(["cache", "clear", "--stage", "file"]) == 0
    assert list(cache.info()) == ["quantize"]
    assert invoke(["cache", "clear"]) == 0
    assert cache.info() == {}


def test_prune_takes_its_limit_from_the_option_or_the_environment(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    total = fill(cache)
    assert invoke(["cache", "prune", "--limit", str(total)]) == 0
    assert "dropped 0 entries" in capsys.readouterr().out
    monkeypatch.setenv("NQBENCH_CACHE_LIMIT", str(total - 1))
    assert invoke(["cache", "prune"]) == 0
    assert "dropped 1 entries" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "limit", "words"),
    [
        (["cache", "info"], "lots", "NQBENCH_CACHE_LIMIT: 'lots' is not a size"),
        (["cache", "prune"], "-3", "NQBENCH_CACHE_LIMIT: '-3' is not a size"),
        (["cache", "prune", "--limit", "ten"], "", "'ten' is not a size"),
        (["cache", "clear", "--stage", "quantise"], "", "unknown stage 'quantise'; did you mean 'quantize'?"),
    ],
)
def test_bad_input_is_a_line_and_exit_code_1(
    cache: Cache,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    args: list[str],
    limit: str,
    words: str,
) -> None:
    monkeypatch.setenv("NQBENCH_CACHE_LIMIT", limit)
    assert invoke(args) == 1
    errors = capsys.readouterr().err
    assert words in errors
    assert errors.count("\n") == 1


def test_add_takes_a_trained_network_of_another_store(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path / "elsewhere"
    monkeypatch.setenv("NQBENCH_CACHE", str(elsewhere))
    trained("net", {"lr": 0.1}, lambda _: Trained({"w": torch.tensor([3.0])}))
    (file,) = (elsewhere / "trained").glob("*.safetensors")
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path / "mine"))
    assert invoke(["cache", "add", str(elsewhere / "trained")]) == 0
    assert f"added {tmp_path / 'mine' / 'trained' / file.name}" in capsys.readouterr().out
    known = trained("net", {"lr": 0.1}, lambda _: pytest.fail("trained again"))
    assert known.state["w"].tolist() == [3.0]


@pytest.mark.parametrize("damage", ["renamed", "cut", "another", "missing", "empty"])
def test_add_refuses_what_is_no_trained_network_in_one_line(
    damage: str, cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained("net", {"lr": 0.1}, lambda _: Trained({"w": torch.tensor([3.0])}))
    (file,) = (tmp_path / "trained").glob("*.safetensors")
    given = tmp_path / "given" / (file.name if damage != "renamed" else "net-0123456789abcdef.safetensors")
    given.parent.mkdir()
    if damage == "another":
        save_file({"w": torch.zeros(2)}, given)
    elif damage in ("renamed", "cut"):
        given.write_bytes(file.read_bytes()[: 40 if damage == "cut" else None])
    assert invoke(["cache", "add", str(given.parent if damage == "empty" else given)]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert str(given.parent) in lines[0]
    assert "expected a file of a store" in lines[0] or damage == "empty"
