"""Whatever a suite's plan calls possible is made, from nothing: no stage's result comes from a cache."""

from __future__ import annotations

from pathlib import Path

import pytest
from combinations import ONE, SEVERAL, failures, trials

from nqbench.pipeline.decoder import Decoder


@pytest.mark.parametrize("network", [ONE, SEVERAL])
def test_every_combination_that_is_possible_becomes_a_file(decoder: Decoder, tmp_path: Path, network: str) -> None:
    made = list(trials(network, whole=False))
    assert len(made) > 300
    failed = list(failures(decoder, made, tmp_path))
    assert not failed, f"{len(failed)} of {len(made)}:\n" + "\n".join(failed)
