"""What a suite names by a relative path lies beside the suite's file, wherever the command is run."""

from __future__ import annotations

from pathlib import Path

import pytest

from nqbench.api.toolkit.paths import beside, beside_suite, set_beside
from nqbench.suite import load

SUITE = """
models: [lenet300: {data: digits}]
quantizers: [uniform]
coders: [raw]
"""


@pytest.fixture(autouse=True)
def _forget() -> object:
    yield
    set_beside(None)


def test_relative_paths_are_looked_up_beside_the_suites_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(SUITE)
    load(tmp_path / "mine.yaml")
    assert beside() == tmp_path.resolve()
    assert beside_suite("mine.py") == tmp_path.resolve() / "mine.py"
    assert beside_suite("/data/mine.py") == Path("/data/mine.py")
    assert beside_suite("~/mine.py") == Path.home() / "mine.py"


def test_a_shipped_suite_leaves_them_to_the_working_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(SUITE)
    load(tmp_path / "mine.yaml")
    load("compress")
    assert beside() is None
    assert beside_suite("mine.py") == Path("mine.py")
