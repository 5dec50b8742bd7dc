"""For every test: one thread a process (two processes with two threads each on two cores run many times slower), and a
cache of the tests' own, so that a developer's is neither used nor filled."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from nqbench.pipeline.decoder import Decoder

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NQBENCH_CACHE", str(Path(__file__).parent.parent / ".pytest_cache" / "nqbench"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files first whose tests have the longest limits of their own, then those of many tests: else one worker is left
    with them at the end."""

    def limit(item: pytest.Item) -> float:
        mark = item.get_closest_marker("timeout")
        return float(mark.args[0]) if mark and mark.args else 0.0

    weight: dict[Path, tuple[float, int]] = {}
    for item in items:
        longest, count = weight.get(item.path, (0.0, 0))
        weight[item.path] = max(longest, limit(item)), count + 1
    items.sort(key=lambda item: weight[item.path], reverse=True)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With ``-n``, a file's tests go to one worker: what they share is made once."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    """A decoder process for all tests of a module: to start one takes longer than most runs do."""
    from nqbench.pipeline.decoder import Decoder

    with closing(Decoder()) as shared:
        shared.start()
        yield shared


@pytest.fixture
def in_process(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs without a worker (``jobs=0``) share the module's decoder, so that they start no process at all."""
    from nqbench.engine import inline
    from nqbench.pipeline.workbench import Workbench

    monkeypatch.setattr(inline, "Workbench", partial(Workbench, decoder=decoder))
