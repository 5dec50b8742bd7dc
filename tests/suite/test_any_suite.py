"""Things in places of a suite where they mean nothing: a short version of ``fuzz/fuzz_suites.py``."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "fuzz"))

from fuzz_suites import outcome


@pytest.mark.filterwarnings("ignore")
def test_a_suite_with_anything_anywhere_is_planned_or_refused_in_one_line(tmp_path: Path) -> None:
    ended = [outcome(number, tmp_path) for number in range(250)]
    assert not [text for text in ended if text not in ("planned", "refused")]
    assert {"planned", "refused"} == set(ended)
