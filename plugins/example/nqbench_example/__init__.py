"""A quantizer in fifteen lines, registered from a distribution of its own."""

import torch
from pydantic import Field

from nqbench.api import Knob, Quantized, Quantizer, Source, hookimpl

nqbench_api_version = 1


class RoundToNearest(Quantizer, name="linspace"):
    """A b-bit uniform grid between the extreme weights."""

    bits: int = Field(4, ge=1, le=16)
    """Bits per weight, before entropy coding."""

    def quantize(self, source: Source) -> Quantized:
        low, high = (float(value) for value in source.weights.aminmax())
        grid = torch.linspace(low, high, 2**self.bits, device=source.device)
        return Quantized.nearest(source, codebook=grid)

    def knob(self, source: Source) -> Knob:
        return Knob("bits", 1, 8, scale="linear", integer=True)


@hookimpl
def nqbench_plugins() -> list[type[Quantizer]]:
    return [RoundToNearest]
