"""The probe distribution lives with the tests of the engine, the factory of records with those of the records, the
browser with those of the reports."""

import sys
from pathlib import Path

for neighbour in ("engine", "results", "report"):
    sys.path.insert(0, str(Path(__file__).parent.parent / neighbour))

from browser_kit import browser  # noqa: E402, F401 - a fixture
