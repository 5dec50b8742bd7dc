"""The environment is cheap to describe and says when times may be compared."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import nqbench
from nqbench.results import environment as module
from nqbench.results.environment import comparable_times, environment


def test_it_is_json_and_names_what_a_figure_depends_on() -> None:
    found = environment("cuda:0")
    assert json.loads(json.dumps(found)) == found
    assert found["nqbench"] == nqbench.__version__
    assert found["libraries"]["torch"]
    assert found["cores"] >= 1
    assert found["threads"] >= 1
    assert found["device"] == "cuda:0"
    assert len(found["hardware"]) == 12


def test_it_imports_no_torch() -> None:
    code = (
        "import sys; from nqbench.results.environment import environment; environment(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_second_call_costs_nothing() -> None:
    environment()
    start = time.perf_counter()
    environment()
    assert time.perf_counter() - start < 0.005


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"python": "9"}, True),
        ({"hardware": "other"}, False),
        ({"threads": 64}, False),
        ({"device": "cuda:1"}, False),
        ({"hardware": None}, False),
    ],
)
def test_times_compare_only_on_equal_hardware_threads_and_device(change: dict[str, object], expected: bool) -> None:
    ours = environment()
    assert comparable_times(ours, {**ours, **change}) is expected


def test_the_revision_is_that_of_our_own_checkout_or_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "__file__", str(tmp_path / "nqbench" / "results" / "environment.py"))
    assert module.git_revision() is None  # installed into a folder that is no checkout

    def git(*args: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *args], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-qm", "first")
    head = git("rev-parse", "HEAD")
    assert module.git_revision() == head
    (tmp_path / "a").write_text("2")
    assert module.git_revision() == f"{head}-dirty"
