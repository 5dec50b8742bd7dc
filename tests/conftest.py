"""For every test: one thread a process (two processes with two threads each on two cores run many times slower), and a
cache of the tests' own, so that a developer's is neither used nor filled."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NQBENCH_CACHE", str(Path(__file__).parent.parent / ".pytest_cache" / "nqbench"))
