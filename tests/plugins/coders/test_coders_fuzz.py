"""A short run of fuzz/fuzz_coders.py: any bytes give the right symbols or one CorruptFile, in time and memory."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from nqbench.api import Coder, CorruptFile, Encoded, StreamSpec

_path = Path(__file__).parents[3] / "fuzz" / "fuzz_coders.py"
_spec = importlib.util.spec_from_file_location("fuzz_coders", _path)
assert _spec is not None
assert _spec.loader is not None
fuzz_coders = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fuzz_coders)

OWN = [coder for name in fuzz_coders.OWN for coder in fuzz_coders.configurations(name)]


@pytest.mark.parametrize("coder", OWN, ids=str)
def test_damaged_bytes_never_get_past_a_decoder(coder: Coder) -> None:
    assert fuzz_coders.fuzz(coder, 400, seed=1) == []


@pytest.mark.parametrize("coder", OWN, ids=str)
def test_a_bomb_is_refused_at_its_size(coder: Coder) -> None:
    """A payload for a million symbols, read as ten, costs ten symbols' memory and one error."""
    from nqbench.api import Stream

    rng = np.random.default_rng(0)
    encoded = coder.encode(Stream.of((rng.random(1_000_000) < 0.001).astype(np.int32), 2))
    fault = fuzz_coders.check(coder, encoded, StreamSpec(10, 2))
    assert fault == ""
    with pytest.raises(CorruptFile):
        coder.decode(encoded, StreamSpec(10, 2))


@pytest.mark.parametrize("coder", OWN, ids=str)
def test_bytes_for_an_empty_stream_are_refused(coder: Coder) -> None:
    with pytest.raises(CorruptFile):
        coder.decode(Encoded(b"\x01", b"\x02"), StreamSpec(0, 4))
