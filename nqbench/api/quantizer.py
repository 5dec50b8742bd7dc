"""The contract of a quantizer: source -> symbols, parameters and side information, and back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from nqbench.api.errors import BadInput
from nqbench.api.plugin import Plugin
from nqbench.api.quantized import Quantized
from nqbench.api.source import Source

SensitivityForm = Literal["none", "diagonal", "second-moments"]


@dataclass(frozen=True)
class Knob:
    """The one parameter that trades bytes for quality.

    field: the parameter's name. low, high: its sensible range for this source. scale: how to walk it. integer: whether
    only whole numbers are allowed. more_bytes: `up` if a larger value gives a larger file, else `down`.
    """

    field: str
    low: float
    high: float
    scale: Literal["linear", "log"] = "log"
    integer: bool = False
    more_bytes: Literal["up", "down"] = "up"
    start: float | None = None
    """Where a search begins: the value at which the source costs about two bits per weight. None: the middle of the
    range on its scale."""


def gaussian_step(bits: float) -> float:
    """The step of a uniform grid, in standard deviations of a Gaussian source, whose symbols have about this entropy.

    At high resolution H = h(X) - log2(step), with h(X) = log2(2 pi e) / 2 for unit variance (Gish and Pierce 1968).
    """
    return math.sqrt(2 * math.pi * math.e) / 2**bits


class Quantizer(Plugin):
    """source -> Quantized, and back. Subclass with ``name=``; most plugins define only ``quantize``.

    ``takes``: the sensitivity forms it can use; a suite's trials with any other form are not made. ``"none"`` in it
    means it works without one.
    """

    kind: ClassVar[str] = "quantizer"
    takes: ClassVar[frozenset[SensitivityForm]] = frozenset({"none"})

    def quantize(self, source: Source) -> Quantized:
        """A pure function of the source: the source's tensors stay untouched, everything is on its device."""
        raise NotImplementedError

    def reconstruct(self, quantized: Quantized, parameters: dict[str, Tensor] | None = None) -> Tensor:
        """(n,) float32, differentiable in ``parameters``. The base forms need no override."""
        return quantized.reconstruct(parameters)

    def knob(self, source: Source) -> Knob | None:
        """The parameter that trades bytes for quality, with its range for this source; None if there is none."""
        return None

    def uses_rate(self) -> bool:
        """Whether it reads ``source.rate``; only then does the coder enter the quantization's cache key."""
        return False

    def dimension(self) -> int:
        """Weights a symbol, d. Where they are several, positions cannot be merged into the symbols."""
        return 1

    def needs(self, source: Source, form: type[Any]) -> Any:
        """The source's sensitivity as ``form``, or a clear ``BadInput`` where it has another or none."""
        if not isinstance(source.sensitivity, form):
            raise BadInput(f"quantizer '{self.name}' needs a sensitivity of the form {form.__name__}")
        return source.sensitivity
