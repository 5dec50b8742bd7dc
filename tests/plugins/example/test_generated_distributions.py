"""What ``nqbench new`` writes installs as it is, is found, and passes the tests that it comes with."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from offline_install import nqbench_beside, pip_install, python_beside

from nqbench.cli import invoke

NAMES = {"quantizer": "made-quantizer", "coder": "made2", "model": "two-spirals"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one generated distribution of each kind, and ``site``, where all three are installed."""
    folder = tmp_path_factory.mktemp("made")
    for kind, name in NAMES.items():
        assert invoke(["new", kind, name, "--output", str(folder)]) == 0
    pip_install(folder / "site", *(folder / f"nqbench-{name}" for name in NAMES.values()))
    return folder


def test_generated_plugins_are_listed_and_nothing_is_broken(made: Path) -> None:
    listed = json.loads(nqbench_beside(made / "site", "list", "--json").stdout)
    of = {(p["kind"], p["name"]): p["distribution"] for p in listed["plugins"]}
    assert {key: of.get(key) for key in NAMES.items()} == {key: f"nqbench-{key[1]}" for key in NAMES.items()}
    assert listed["broken"] == []


def test_generated_packages_pass_their_own_tests(made: Path) -> None:
    tests = [str(made / f"nqbench-{name}" / "tests") for name in NAMES.values()]
    # three files of one name: imported by path, not by name
    options = ["-q", "-p", "no:cacheprovider", "-c", "/dev/null", "--import-mode=importlib"]
    done = python_beside(made / "site", "-m", "pytest", *options, *tests)
    assert done.returncode == 0, done.stdout
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) > 40
    assert "skipped" not in done.stdout
