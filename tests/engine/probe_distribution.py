"""The probe distribution as an installer would leave it, and how tests use it in this process and in others."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nqbench.registry import registry

MODULE = Path(__file__).parent / "probe" / "nqbench_probe.py"


def install(folder: Path) -> Path:
    """The probe distribution on a folder for the import path."""
    info = folder / "nqbench_probe-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nqbench-probe\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[nqbench]\nprobe = nqbench_probe\n")
    shutil.copy(MODULE, folder / "nqbench_probe.py")
    return folder


def search_path(*folders: Path) -> str:
    """PYTHONPATH with these folders first."""
    return os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])])


@contextmanager
def installed(folder: Path) -> Iterator[None]:
    """The distribution in this process and in those it starts."""
    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", search_path(folder))
    patch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    registry.cache_clear()
    outer = sys.modules.pop("nqbench_probe", None)
    try:
        yield
    finally:
        patch.undo()
        sys.modules.pop("nqbench_probe", None)
        if outer is not None:
            sys.modules["nqbench_probe"] = outer
        registry.cache_clear()


class Log:
    """Counts what the probe's plugins noted."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def counts(self) -> Counter[str]:
        """word -> how often, since the last call."""
        lines = self.path.read_text().split("\n") if self.path.exists() else []
        self.path.unlink(missing_ok=True)
        return Counter(line.split()[0] for line in lines if line)

    def words(self) -> list[str]:
        """Every word so far, in order."""
        lines = self.path.read_text().split("\n") if self.path.exists() else []
        return [line.split()[0] for line in lines if line]


def suite(path: Path, text: str) -> Path:
    path.write_text(textwrap.dedent(text))
    return path


def command(*args: object) -> list[str]:
    return [sys.executable, "-c", "from nqbench.cli import main; main()", *map(str, args)]


def nqbench(*args: object, **options: object) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(command(*args), capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload,no-any-return]
