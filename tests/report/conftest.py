"""The factory of records lives with the tests of the records, the browser of pages here."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "results"))
sys.path.insert(0, str(Path(__file__).parent))

from browser_kit import browser  # noqa: F401 - a fixture
