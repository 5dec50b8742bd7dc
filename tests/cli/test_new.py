"""``nqbench new``: what it writes, and the names and folders that it refuses in one line."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from nqbench.cli import invoke


@pytest.mark.parametrize("kind", ["quantizer", "coder", "model"])
def test_a_package_is_written_with_entry_point_module_readme_and_test(kind: str, tmp_path: Path) -> None:
    assert invoke(["new", kind, "round-down", "--output", str(tmp_path)]) == 0
    folder = tmp_path / "nqbench-round-down"
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["nqbench"] == {"round-down": "nqbench_round_down"}
    assert project["project"]["dependencies"] == ["nqbench"]
    module = (folder / "nqbench_round_down" / "__init__.py").read_text()
    assert f'class RoundDown{kind.capitalize()}({kind.capitalize()}, name="round-down"' in module
    assert "nqbench_api_version = 1" in module
    readme = (folder / "README.md").read_text()
    assert f"nqbench check {kind} round-down" in readme
    assert len(readme.splitlines()) <= 12
    assert "$" not in module + readme
    compile((folder / "tests" / "test_conformance.py").read_text(), "test_conformance.py", "exec")


@pytest.mark.parametrize("name", ["RoundDown", "8bit", "round_down", "round--down", "-x", "../escape", "a b", "é", ""])
def test_bad_names_are_refused_in_a_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["new", "coder", "--output", str(tmp_path), "--", name]) == 1
    assert capsys.readouterr().err == (
        f"error: '{name}' cannot be the name of a plugin: use a-z, 0-9 and single hyphens, as in round-down\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_taken_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["new", "coder", "huffman", "--output", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: there is a coder 'huffman' already, in nqbench ")


def test_a_name_whose_package_exists_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["new", "coder", "coders", "--output", str(tmp_path)]) == 1
    assert "there is a Python package nqbench_coders already" in capsys.readouterr().err


def test_an_existing_folder_is_refused_and_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "nqbench-mine").mkdir()
    assert invoke(["new", "coder", "mine", "--output", str(tmp_path)]) == 1
    assert "nqbench-mine exists already" in capsys.readouterr().err
    assert list((tmp_path / "nqbench-mine").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert invoke(["new", "coder", "mine", "--output", str(tmp_path / "file" / "below")]) == 1
    assert "cannot write" in capsys.readouterr().err


def test_an_unknown_kind_is_refused_with_those_there_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["new", "pruner", "mine", "--output", str(tmp_path)]) == 1
    assert "'quantizer', 'coder', 'model'" in capsys.readouterr().err
