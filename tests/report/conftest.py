"""The factory of records lives with the tests of the records."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "results"))
