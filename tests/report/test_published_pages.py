"""The leaderboards in ``reports/reference`` are what ``nqbench report`` makes of the records beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

from nqbench.report import load
from nqbench.report.text import markdown

REFERENCE = Path(__file__).parents[2] / "reports" / "reference"
QUICK = (
    "ablation-ecsq", "alexnet", "beyond/resnet32", "cited/lenet300", "cited/lenet5", "coders",
    "frontier-resnet32", "lc", "lenet-biases", "lite0", "lossless", "lossless-gguf", "resnet32-fine", "resnet32-gpu",
    "speed",
)  # fmt: skip
"""Those whose intervals take less than a second."""


@pytest.mark.parametrize("name", QUICK)
def test_a_published_leaderboard_is_made_of_the_records_beside_it(name: str) -> None:
    """With the goal and the published rows that it was made with: records.json carries them."""
    assert markdown(load(REFERENCE / name / "records.json")) == (REFERENCE / name / "leaderboard.md").read_text()
