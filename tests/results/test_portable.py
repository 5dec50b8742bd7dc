"""No record says where on whose machine it was made."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from nqbench.results.portable import Portable


@pytest.fixture
def portable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Portable:
    (tmp_path / "suites").mkdir()
    (tmp_path / "work").mkdir()
    (tmp_path / "lib").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    return Portable(tmp_path / "suites")


def test_paths_are_cut_to_where_they_are_found_again(portable: Portable, tmp_path: Path) -> None:
    for text, expected in (
        (f"no file {tmp_path}/suites/mine.pt; give one", "no file mine.pt; give one"),
        (f'File "{tmp_path}/lib/pack/mod.py", line 3', 'File "pack/mod.py", line 3'),
        (f"--output={tmp_path}/work/out", "--output=out"),
        (f"models.0.module.folder={tmp_path}/suites/", "models.0.module.folder=."),
        ("/home/alice/secret/data.bin: is missing", ".../data.bin: is missing"),
        (f"{tmp_path}/suitesque/x", ".../x"),
        ("3 bits/weight at 1/2, a/b and /", "3 bits/weight at 1/2, a/b and /"),
        ("see https://example.org/a/b", "see https://example.org/a/b"),
    ):
        assert portable.text(text) == expected


def test_parameters_lead_from_the_suite_to_the_same_place(portable: Portable, tmp_path: Path) -> None:
    found = portable.parameters({"folder": f"{tmp_path}/nets", "files": (f"{tmp_path}/suites/a.pt",), "k": 3})
    assert found == {"folder": "../nets", "files": ["a.pt"], "k": 3}
    assert (tmp_path / "suites" / found["folder"]).resolve() == tmp_path / "nets"


def test_no_import_path_is_the_root() -> None:
    assert Portable(Path.cwd()).text("/usr/share/x") == ".../x"
    assert os.sep not in Portable(Path.cwd()).text(str(Path(sys.executable).resolve())).removeprefix(".../")
