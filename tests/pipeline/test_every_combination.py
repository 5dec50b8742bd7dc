"""Whatever a suite's plan calls possible is made, from nothing: no stage's result comes from a cache.

A fault takes one thing that does not bear another, rarely three: so each two meet here, and in
``fuzz/fuzz_combinations.py`` all.
"""

from __future__ import annotations

from pathlib import Path

from combinations import all_trials, covering, failures, pairs

from nqbench.pipeline.decoder import Decoder


def test_every_two_things_that_can_meet_become_a_file(decoder: Decoder, tmp_path: Path) -> None:
    possible = all_trials()
    made = covering(possible)
    assert {pair for trial in made for pair in pairs(trial)} == {pair for trial in possible for pair in pairs(trial)}
    assert len(made) > 1000
    failed = list(failures(decoder, made, tmp_path))
    assert not failed, f"{len(failed)} of {len(made)}:\n" + "\n".join(failed)
