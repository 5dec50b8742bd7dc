"""Which step is too long by which deadline."""

from __future__ import annotations

import pytest

from nqbench.engine.deadlines import Deadlines
from nqbench.pipeline.chain import PLACES, STAGES, place_of


@pytest.mark.parametrize(
    ("step", "seconds", "said"),
    [
        ("quantize", 59.9, None),
        ("quantize", 60.0, "stopped: the stage 'quantize' took more than 60 s"),
        ("write", 5.0, "stopped: the stage 'write' took more than 5 s"),
        ("read", 5.0, "stopped: the stage 'read' took more than 5 s"),
        ("evaluate_float_validation", 7.0, "stopped: the stage 'evaluate_float_validation' took more than 7 s"),
        ("load", 1e9, None),
        ("start", 1e9, None),
    ],
)
def test_a_step_counts_for_the_stage_that_it_is_part_of(step: str, seconds: float, said: str | None) -> None:
    deadlines = Deadlines({"quantize": 60, "file": 5, "evaluate": 7, "trial": 1})
    assert deadlines.passed(step, seconds) == said


def test_without_deadlines_everything_may_take_for_ever() -> None:
    assert not Deadlines({"trial": 5}).by_stage
    assert Deadlines().trial is None
    assert all(Deadlines({"trial": 5}).passed(name, 1e9) is None for name in STAGES)


def test_every_stage_has_a_place_that_a_suite_may_name() -> None:
    assert {place_of(name) for name in STAGES} <= set(PLACES)
