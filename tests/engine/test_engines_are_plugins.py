"""Engines are a kind of plugin: registered, listed, checked, and one of a stranger's runs a suite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from probe_distribution import Log, nqbench, suite

from nqbench.api.engine import Engine, Slots, SlotShape, Work
from nqbench.api.errors import BadInput, NotRegistered
from nqbench.engine import run_suite
from nqbench.engine.choose import chosen
from nqbench.registry import registry
from nqbench.testing import parametrize

pytestmark = pytest.mark.timeout(240)

TWO = """
    name: two
    models: [probe]
    quantizers: [levels: {k: [2, 3]}]
    coders: [plain]
"""


@parametrize(*(entry.cls for entry in registry().all("engine")))
def test_conformance(check: Callable[[], None]) -> None:
    check()


def test_nqbench_comes_with_an_engine_for_this_machine_and_one_for_clusters() -> None:
    known = {name for kind, name in {**registry().found, **registry().absent} if kind == "engine"}
    assert known >= {"local", "dask"}
    listed = nqbench("list", "engine").stdout
    assert "local" in listed
    assert "nqbench" in nqbench("show", "engine", "local").stdout


class Threefold(Engine, name="threefold"):
    """A stranger's engine: three slots of this machine, whatever is asked for."""

    def open(self, work: Work) -> Slots:
        return work.host.open([SlotShape(name) for name in "abc"], work.scratch, away=False)


def test_an_engine_of_a_stranger_runs_a_suite(probe: Log, tmp_path: Path) -> None:
    result = run_suite(suite(tmp_path / "s.yaml", TWO), tmp_path / "out", engine=Threefold())
    assert result.outcome == "ok"
    assert {record.environment["jobs"] for record in result.records} == {3}


@pytest.mark.parametrize(
    ("engine", "error", "text"),
    [
        ("loca", NotRegistered, "did you mean 'local'"),
        ("local:here", BadInput, "takes no place: 'here'"),
    ],
)
def test_a_wrong_engine_is_told_in_a_line(engine: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text) as raised:
        chosen(engine)
    assert "\n" not in str(raised.value)
