"""The contract of a quantizer, and what this one promises beyond it."""

import torch
from nqbench_example import RoundToNearest

from nqbench.api import Source
from nqbench.testing import parametrize


@parametrize(RoundToNearest)
def test_conformance(check):
    check()


def test_no_weight_moves_by_more_than_half_a_step():
    source = Source(torch.tensor([-1.0, -0.4, 0.1, 0.9, 2.0]))
    quantizer = RoundToNearest(bits=2)
    values = quantizer.reconstruct(quantizer.quantize(source))
    assert values.tolist() == [-1.0, 0.0, 0.0, 1.0, 2.0]
