"""Whole runs over damaged caches, stores and files: a short version of ``fuzz/fuzz_stores.py``."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "fuzz"))

from fuzz_stores import fuzz


@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(600)
def test_no_damage_makes_a_wrong_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path))  # which the fuzz sets to others
    told: list[str] = []
    ended = fuzz(tmp_path, 36, 5, told=told.append, workers=False)
    assert not {"WRONG", "CRASH"} & set(ended), "\n".join(told)
    assert ended["sound"] >= 3
