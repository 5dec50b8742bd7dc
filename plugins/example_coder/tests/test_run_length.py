"""The contract of a coder, and what this one promises beyond it."""

import numpy as np
from nqbench_example_coder import RunLength

from nqbench.api import Stream
from nqbench.testing import parametrize


@parametrize(RunLength)
def test_conformance(check):
    check()


def test_a_million_equal_symbols_cost_less_than_thirty_bytes():
    assert len(RunLength().encode(Stream.of(np.full(1_000_000, 3), 4)).payload) < 30
