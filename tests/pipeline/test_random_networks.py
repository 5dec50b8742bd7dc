"""Small random networks of every kind of layer, through plan, run and decompress: each ends well, or in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from random_suites import outcome

from nqbench.pipeline.decoder import Decoder

FEW = 8
"""Networks a test: this short version tries some thirty, ``fuzz/fuzz_networks.py`` as many as one likes."""


@pytest.mark.parametrize("start", range(0, 4 * FEW, FEW))
@pytest.mark.filterwarnings("ignore")
def test_a_random_network_is_compressed_or_refused_in_one_line(decoder: Decoder, tmp_path: Path, start: int) -> None:
    ended = [outcome(number, decoder, tmp_path) for number in range(start, start + FEW)]
    bad = [text for text in ended if text != "ok" and not text.startswith("refused: ")]
    assert not bad, "\n\n".join(bad)
    assert "ok" in ended
