"""Every suite of the repository: its header says what it asks and how long it takes, and its small profile runs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nqbench_models import cifar, mnist

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


FEW = 500
"""Images of each of the data sets' files that are read: the suites are tried, not what the networks learn."""


@pytest.fixture(scope="module")
def few_images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The data sets cut short, and a cache of such networks' own, which the suites share."""

    def first(read: Any) -> Any:
        def images(which: Any) -> Any:
            found = read(which)
            return tuple(part[:FEW] for part in found) if isinstance(found, tuple) else found[:FEW]

        return images

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NQBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        for module in (mnist, cifar):
            patch.setattr(module, "_read", first(module._read))
        _forget_images()
        yield
    _forget_images()


def _forget_images() -> None:
    mnist.mnist.cache_clear()
    cifar.cifar10.cache_clear()


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


@pytest.mark.usefixtures("few_images", "in_process")
@pytest.mark.parametrize("name", SMALL)
def test_the_small_profile_of_a_suite_runs(name: str, tmp_path: Path) -> None:
    data = os.environ.get("NQBENCH_DATA")
    needs = name not in WITHOUT_DATA and not name.startswith("ablations/")
    if needs and not data:
        pytest.skip("needs MNIST, CIFAR-10 and the given weights in NQBENCH_DATA")
    result = run_suite(SUITES / name, tmp_path / "out", profile="small", jobs=0)
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
