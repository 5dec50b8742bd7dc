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

    Args:
        field: the parameter's name.
        low: lower end of its sensible range for this source.
        high: upper end.
        scale: whether to search it on a linear or a logarithmic scale.
        integer: whether only whole numbers are allowed.
        more_bytes: ``up`` if a larger value gives a larger file, else ``down``.
        start: where a search begins: the value at which the source costs about two bits per weight; None: the middle
            of the range on its scale.

    Example:
        >>> Knob("k", 2, 4096, "log", integer=True).more_bytes
        'up'
    """

    field: str
    low: float
    high: float
    scale: Literal["linear", "log"] = "log"
    integer: bool = False
    more_bytes: Literal["up", "down"] = "up"
    start: float | None = None


def gaussian_step(bits: float) -> float:
    """The step of a uniform grid whose symbols have about this entropy, for a Gaussian source.

    At high resolution H = h(X) - log2(step), with h(X) = log2(2 pi e) / 2 for unit variance (Gish and Pierce 1968).

    Args:
        bits: the entropy H, in bits per weight.

    Returns:
        The step, in standard deviations of the source.

    Example:
        >>> round(gaussian_step(2.0), 3)
        1.033
    """
    return math.sqrt(2 * math.pi * math.e) / 2**bits


class Quantizer(Plugin):
    """Quantizes the weights of a source, and reconstructs them. Most plugins define only ``quantize``.

    ``takes``: the forms of sensitivity that it can use; trials with another form are left out of a suite. ``"none"``
    among them means that it works without a sensitivity.

    Example:
        >>> import torch
        >>> class Sign(Quantizer, name="sign"):
        ...     def quantize(self, source):
        ...         a = source.weights.abs().mean()
        ...         return Quantized.nearest(source, torch.stack([-a, a]))
        >>> Sign().quantize(Source(torch.tensor([0.5, -1.5]))).reconstruct().tolist()
        [1.0, -1.0]
    """

    kind: ClassVar[str] = "quantizer"
    takes: ClassVar[frozenset[SensitivityForm]] = frozenset({"none"})

    def quantize(self, source: Source) -> Quantized:
        """Quantize the weights of a source. A pure function of the source.

        Args:
            source: its tensors must not be changed.

        Returns:
            Symbols and parameters, all on the source's device.

        Raises:
            BadInput: the parameters do not fit this source; the text says what to change.
        """
        raise NotImplementedError

    def reconstruct(self, quantized: Quantized, parameters: dict[str, Tensor] | None = None) -> Tensor:
        """Reconstruct the weights. Only quantizers of form ``plugin`` need to override this.

        Args:
            quantized: a result of this quantizer.
            parameters: used in place of the result's own parameters.

        Returns:
            (n,) float32, differentiable in ``parameters``.
        """
        return quantized.reconstruct(parameters)

    def knob(self, source: Source) -> Knob | None:
        """The parameter that trades bytes for quality, with its range for this source; None if there is none."""
        return None

    def uses_rate(self) -> bool:
        """Whether it reads ``source.rate``. Only then does the quantization depend on the coder."""
        return False

    def dimension(self) -> int:
        """Weights per symbol, d. If d > 1, positions cannot be merged into the symbols."""
        return 1

    def needs(self, source: Source, form: type[Any]) -> Any:
        """The source's sensitivity, of the form that the quantizer needs.

        Args:
            source: the source that ``quantize`` was given.
            form: ``Diagonal`` or ``SecondMoments``.

        Returns:
            The sensitivity.

        Raises:
            BadInput: the source has another one, or none.
        """
        if not isinstance(source.sensitivity, form):
            raise BadInput(f"quantizer '{self.name}' needs a sensitivity of the form {form.__name__}")
        return source.sensitivity


def deployed(quantizer: Quantizer, quantized: Quantized, parameters: dict[str, Tensor] | None = None) -> Tensor:
    """The weights of a result, as a file of it is read: by its base form, or by the quantizer whose own form it has.

    A training may put a result of a base form in the place of the quantizer's.

    Args:
        quantizer: the trial's.
        quantized: its result, or a training's.
        parameters: take the place of its own.

    Returns:
        (n,) float32, differentiable in ``parameters``.

    Example:
        >>> import torch
        >>> q = Quantized(torch.tensor([1], dtype=torch.int32), 2, (1,), {"codebook": torch.tensor([-1.0, 0.5])})
        >>> class Own(Quantizer, name="own-form"):
        ...     pass
        >>> deployed(Own(), q).tolist()
        [0.5]
    """
    if quantized.form == "plugin":
        return quantizer.reconstruct(quantized, parameters)
    return quantized.reconstruct(parameters)
