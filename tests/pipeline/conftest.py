"""The probe distribution of the engine's tests, and a bench that runs trials in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "engine"))

from probe_distribution import Log, install, installed

from nqbench.pipeline.cache import Cache
from nqbench.pipeline.context import Measure
from nqbench.pipeline.decoder import Decoder
from nqbench.pipeline.workbench import Workbench
from nqbench.registry import registry


@pytest.fixture(scope="session")
def probe_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("probe"))


@pytest.fixture(scope="module")
def decoder(probe_folder: Path) -> Iterator[Decoder]:
    """One decoder process for all tests of a module: starting one takes seconds."""
    with closing(Decoder()) as shared, installed(probe_folder):
        shared.start()
        yield shared


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Log:
    monkeypatch.setenv("NQBENCH_PROBE_LOG", str(tmp_path / "calls"))
    return Log(tmp_path / "calls")


@pytest.fixture
def bench(tmp_path: Path, decoder: Decoder) -> Iterator[Callable[..., Workbench]]:
    """Makes a bench, as a worker has one; two with the same cache stand for two workers."""
    made: list[Workbench] = []

    def make(cache: Path | None = tmp_path / "cache", measure: Measure | None = None, **fields: Any) -> Workbench:
        device = torch.device("cpu")
        made.append(Workbench(registry(), Cache(cache), device, measure=measure, decoder=decoder, **fields))
        return made[-1]

    yield make
    for one in made:
        one.close()
