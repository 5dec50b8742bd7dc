"""What a suite names by a relative path lies beside the suite's file, wherever the command is run."""

from __future__ import annotations

from pathlib import Path

import pytest

from nqbench.api.toolkit.paths import in_suite_folder, set_suite_folder, suite_folder
from nqbench.suite import load

SUITE = """
models: [lenet300: {data: digits}]
quantizers: [uniform]
coders: [raw]
"""


@pytest.fixture(autouse=True)
def _forget() -> object:
    yield
    set_suite_folder(None)


def test_relative_paths_are_looked_up_beside_the_suites_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(SUITE)
    load(tmp_path / "mine.yaml")
    assert suite_folder() == tmp_path.resolve()
    assert in_suite_folder("mine.py") == tmp_path.resolve() / "mine.py"
    assert in_suite_folder("/data/mine.py") == Path("/data/mine.py")
    assert in_suite_folder("~/mine.py") == Path.home() / "mine.py"


def test_a_shipped_suite_leaves_them_to_the_working_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(SUITE)
    load(tmp_path / "mine.yaml")
    load("compress")
    assert suite_folder() is None
    assert in_suite_folder("mine.py") == Path("mine.py")


def test_the_text_of_a_changed_suite_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    """It goes into submissions, which refuse such a path."""
    own = tmp_path / "mine.yaml"
    own.write_text("models: [lenet300: {data: digits}]\nquantizers: [uniform: {step: 0.1}]\ncoders: [raw]\n")
    for suite, name in (("quickstart", "quickstart"), ("ablations/knobs", "ablations/knobs"), (own, "mine.yaml")):
        first = load(suite, sets=["seeds=[3]"]).text.partition("\n")[0]
        assert first == f"# {name} with --set seeds=[3]"
