"""The probe distribution, installed for these tests alone, with a cache and a log of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from probe_distribution import Log, install, installed

from nqbench.pipeline.decoder import Decoder


@pytest.fixture(scope="session")
def probe_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("probe"))


@pytest.fixture
def probe(probe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    """The probe plugins, an empty cache, and the log of their calls."""
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NQBENCH_PROBE_LOG", str(tmp_path / "calls"))
    with installed(probe_folder):
        yield Log(tmp_path / "calls")


@pytest.fixture
def trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file: as long as it is there, troubled methods of the probe misbehave."""
    path = tmp_path / "trouble"
    path.touch()
    monkeypatch.setenv("NQBENCH_PROBE_TROUBLE", str(path))
    return path


@pytest.fixture(scope="module")
def decoder(probe_folder: Path) -> Iterator[Decoder]:
    """One for all tests of a module that knows the probe distribution."""
    shared = Decoder()
    with installed(probe_folder):
        shared.start()
    yield shared
    shared.close()
