"""For every test: one thread a process (two processes with two threads each on two cores run many times slower), and a
cache of the tests' own, so that a developer's is neither used nor filled."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from nqbench.pipeline.decoder import Decoder

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NQBENCH_CACHE", str(Path(__file__).parent.parent / ".pytest_cache" / "nqbench"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with the longest limits of their own first: else one worker is left with them at the end."""

    def limit(item: pytest.Item) -> float:
        mark = item.get_closest_marker("timeout")
        return float(mark.args[0]) if mark and mark.args else 0.0

    items.sort(key=limit, reverse=True)


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    """A decoder process for all tests of a module: to start one takes longer than most runs do."""
    from nqbench.pipeline.decoder import Decoder

    shared = Decoder()
    shared.start()
    yield shared
    shared.close()


@pytest.fixture
def in_process(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs without a worker (``jobs=0``) share the module's decoder, so that they start no process at all."""
    from nqbench.engine import inline
    from nqbench.pipeline.workbench import Workbench

    monkeypatch.setattr(inline, "Workbench", partial(Workbench, decoder=decoder))
