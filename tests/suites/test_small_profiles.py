"""Every suite of the repository: its header says what it asks and how long it takes, and its small profile runs."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from nqbench.engine import run_suite
from nqbench.pipeline.files import file_of
from nqbench.suite import load

SUITES = Path(__file__).parent.parent.parent / "suites"
ALL = sorted(str(p.relative_to(SUITES)) for p in SUITES.rglob("*.yaml") if p.name != "published.yaml")
SMALL = [name for name in ALL if "\n  small:\n" in (SUITES / name).read_text(encoding="utf-8")]
WITHOUT_DATA = {
    "quickstart.yaml",
    "beyond.yaml",
    "coders.yaml",
    "speed.yaml",
    "alexnet.yaml",
    "cited.yaml",
    "ablations/ecsq.yaml",
}
"""Small profiles that need neither MNIST nor CIFAR-10; the rest of the ablations run on the bundled digits."""


def test_the_repository_has_suites_and_small_profiles() -> None:
    assert {"lenet.yaml", "resnet32.yaml", "alexnet.yaml", "lc.yaml"} <= set(SMALL)
    assert len([name for name in SMALL if name.startswith("ablations/")]) >= 5


@pytest.mark.parametrize("name", ALL)
def test_a_suite_says_what_it_asks_and_how_long_it_takes(name: str) -> None:
    text = (SUITES / name).read_text(encoding="utf-8")
    assert text.startswith("# Question: "), "a newcomer reads the header first"
    assert re.search(r"^# Takes: .+", text, re.MULTILINE)
    suite = load(SUITES / name)
    assert suite.question
    assert suite.takes


@pytest.mark.timeout(1500)  # lenet, lc and resnet32 train or evaluate on whole data sets: a minute each, alone
@pytest.mark.parametrize("name", SMALL)
def test_the_small_profile_of_a_suite_runs(name: str, tmp_path: Path) -> None:
    data = os.environ.get("NQBENCH_DATA")
    needs = name not in WITHOUT_DATA and not name.startswith("ablations/")
    if needs and not data:
        pytest.skip("needs MNIST, CIFAR-10 and the given weights in NQBENCH_DATA")
    result = run_suite(SUITES / name, tmp_path / "out", profile="small")
    assert result.outcome == "ok", [r.error for r in result.records if r.status != "ok"]
    assert result.records
    for record in result.records:
        assert record.parts is not None
        assert sum(size for _, size in record.parts) == record.file_bytes
        assert file_of(record.key, tmp_path / "out" / "files").stat().st_size == record.file_bytes
    published = load(SUITES / name, profile="small").published
    page = (tmp_path / "out" / "leaderboard.md").read_text(encoding="utf-8")
    for row in published[:1]:
        assert row.method in page, "the published rows stand beside the measured ones"
