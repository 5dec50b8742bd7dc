"""For every test: one thread a process (two processes with two threads each on two cores run many times slower), and a
cache of the tests' own, so that a developer's is neither used nor filled."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NQBENCH_CACHE", str(Path(__file__).parent.parent / ".pytest_cache" / "nqbench"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with the longest limits of their own first: else one worker is left with them at the end."""

    def limit(item: pytest.Item) -> float:
        mark = item.get_closest_marker("timeout")
        return float(mark.args[0]) if mark and mark.args else 0.0

    items.sort(key=limit, reverse=True)
