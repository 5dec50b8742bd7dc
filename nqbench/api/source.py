"""The input of a quantizer: the weights, the tensors that they come from, and how important they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from nqbench.api.errors import BadInput
from nqbench.api.moments import Moments
from nqbench.api.quantized import Quantized

T = TypeVar("T")

LARGEST_WEIGHT = 2.0**60
"""The largest magnitude of a weight that can be quantized: its square, times any sensible sensitivity, still fits
float32. Larger weights occur only if a training has diverged."""

SMALLEST_WEIGHT = 2.0**-60
"""Where no weight of a tensor is larger, quantizers that square weights in float32 may take all of them for 0."""

Rate = Callable[[np.ndarray], np.ndarray]
"""From the number of occurrences of each symbol, (k,), to the bits that the coder would use for each, (k,) float64."""


@dataclass(frozen=True, eq=False)
class SourceTensor:
    """The part of a source that comes from one tensor.

    Args:
        name: the tensor's name in the network's state.
        shape: the shape of the whole tensor.
        start: the kept weights are ``source.weights[start:stop]`` in row-major order.
        stop: their end.
        mask: bool of ``shape``, True where a weight is kept; None: nothing is pruned.
        groups: the number of groups of a convolution.

    Example:
        >>> SourceTensor("conv.weight", (8, 3, 3, 3), start=0, stop=216).size
        216
    """

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int
    mask: Tensor | None = None
    groups: int = 1

    @property
    def size(self) -> int:
        """Number of kept weights."""
        return self.stop - self.start


@dataclass(frozen=True, eq=False)
class Diagonal:
    """One sensitivity h_i per kept weight: delta L ~ 1/2 sum h_i (w_i - q_i)^2 [1612.01543].

    Values that are not positive, or not finite, are raised to a small fraction of the mean (Hutchinson's estimates do
    go negative), so a quantizer may divide by their sums.

    Args:
        values: (n,) float; kept as float32, positive.

    Example:
        >>> Diagonal(torch.tensor([2.0, -1.0])).values.tolist()[0]
        2.0
    """

    values: Tensor
    FLOOR = 1e-6

    def __post_init__(self) -> None:
        h = self.values.detach().to(torch.float32).reshape(-1)
        good = torch.isfinite(h) & (h > 0)
        mean = float(h[good].double().mean()) if bool(good.any()) else 1.0
        floor = torch.tensor(mean * self.FLOOR, dtype=torch.float32, device=h.device)
        # a floor that underflows would let zeros through again
        floor = torch.clamp(floor, min=torch.finfo(torch.float32).tiny)
        object.__setattr__(self, "values", torch.where(good, torch.maximum(h, floor), floor).contiguous())


@dataclass(frozen=True, eq=False)
class SecondMoments:
    """X X^T of each layer's inputs, a matrix per tensor of the source, divided by the number of columns of X.

    Args:
        matrices: for each tensor (groups, m, m) float32, m the inputs of one output of its layer: ``shape[1:]``
            flattened (im2col for convolutions); or any other of the forms that ``Moments`` packs.

    Example:
        >>> SecondMoments((torch.eye(3)[None],)).matrices[0].shape
        torch.Size([1, 3, 3])
    """

    matrices: tuple[Tensor, ...]

    def of_tensors(self, tensors: Sequence[SourceTensor]) -> list[Moments]:
        """Those of each tensor. Raises BadInput where they do not fit it or are not finite; nothing is asked of those
        of a tensor of which no weight is kept."""
        return [
            Moments.of_tensor(matrix, tensor.name, tensor.shape) if tensor.size else Moments.of(matrix)
            for tensor, matrix in zip(tensors, self.matrices, strict=True)
        ]


SensitivityValue = Diagonal | SecondMoments


@dataclass(frozen=True, eq=False)
class Source:
    """The real numbers to quantize: the kept weights of one or more tensors. Pruned weights are never in it.

    Args:
        weights: (n,) float32, contiguous, finite, n >= 1, on the trial's device; what converts is converted.
        tensors: the parts, in order; left empty, one nameless tensor.
        sensitivity: what is known of the curvature, in a form that the quantizer declared.
        previous: the previous result, for a warm start (learning-compression).
        rate: the bits that the coder uses for each symbol; only if the quantizer declares ``uses_rate``.
        seed: the trial's seed, for plugins that declare ``uses_seed``.
        shared: values that quantizers computed from these weights and share between trials; see ``view``.

    Raises:
        BadInput: there are no weights, a weight is not finite, or parts or sensitivities do not fit the weights.

    Example:
        >>> source = Source.of([("fc.weight", torch.tensor([[0.5, -1.0]])), ("out.weight", torch.ones(3))])
        >>> source.n, source.sizes, source.weights.tolist()
        (5, (2, 3), [0.5, -1.0, 1.0, 1.0, 1.0])
    """

    weights: Tensor
    tensors: tuple[SourceTensor, ...] = ()
    sensitivity: SensitivityValue | None = None
    previous: Quantized | None = None
    rate: Rate | None = None
    seed: int = 0
    shared: dict[object, object] = field(default_factory=dict, repr=False)
    """Views that quantizers derive and want to share between trials on one source; see ``view``."""

    def __post_init__(self) -> None:
        if not isinstance(self.weights, Tensor) or self.weights.is_complex():
            raise BadInput("weights must be a real torch tensor")
        weights = self.weights.detach().reshape(-1).to(torch.float32).contiguous()
        if weights.numel() == 0:
            raise BadInput("there are no weights to quantize: the source is empty")
        low, high = (float(end) for end in weights.aminmax())  # nan where one of them is
        if not (low >= -LARGEST_WEIGHT and high <= LARGEST_WEIGHT):
            bad = int(torch.nonzero(~(weights.abs() <= LARGEST_WEIGHT))[0, 0])
            most = f"weights must be finite, and at most {LARGEST_WEIGHT:.2g} in size"
            owner = next((t for t in self.tensors if t.start <= bad < t.stop and t.name), None)
            place = f"weight {bad}" if owner is None else f"weight {bad - owner.start} of '{owner.name}'"
            raise BadInput(f"{place} is {float(weights[bad]):g}: {most}")
        object.__setattr__(self, "weights", weights)
        if not self.tensors:
            whole = SourceTensor("", (weights.numel(),), 0, weights.numel())
            object.__setattr__(self, "tensors", (whole,))
        if self.tensors[-1].stop != weights.numel():
            raise BadInput(f"the tensors cover {self.tensors[-1].stop} weights, the source has {weights.numel()}")
        if isinstance(self.sensitivity, Diagonal) and self.sensitivity.values.numel() != weights.numel():
            raise BadInput(f"{self.sensitivity.values.numel()} sensitivities for {weights.numel()} weights")

    @property
    def n(self) -> int:
        """Number of weights."""
        return self.weights.numel()

    @property
    def device(self) -> torch.device:
        return self.weights.device

    @property
    def sizes(self) -> tuple[int, ...]:
        """Kept weights per tensor; they sum to n."""
        return tuple(t.size for t in self.tensors)

    @property
    def h(self) -> Tensor | None:
        """(n,) float32 sensitivities, or None where there is no diagonal one."""
        return self.sensitivity.values if isinstance(self.sensitivity, Diagonal) else None

    def generator(self) -> torch.Generator:
        """A new CPU generator seeded with the trial's seed: the same draws on every device and in every call."""
        return torch.Generator().manual_seed(self.seed)

    def view(self, key: object, compute: Callable[[Source], T]) -> T:
        """A value computed from the weights, once for all trials on the same weights.

        Args:
            key: hashable; identifies the value, with everything but the source that it depends on.
            compute: called with the source if the value is not known yet.

        Returns:
            The result of ``compute``. It is shared: do not change it.
        """
        if key not in self.shared:
            self.shared[key] = compute(self)
        return self.shared[key]  # type: ignore[return-value]

    def with_(self, **changes: object) -> Source:
        """A copy of the source with some fields changed.

        Args:
            changes: fields of ``Source``. A change of weights, tensors or sensitivity starts with no views; else they
                are kept.

        Returns:
            A new source.
        """
        if {"weights", "sensitivity", "tensors"} & changes.keys():
            changes.setdefault("shared", {})
        return replace(self, **changes)  # type: ignore[arg-type]

    @staticmethod
    def of(tensors: Sequence[tuple[str, Tensor]], **fields: object) -> Source:
        """A source of whole tensors, nothing pruned, concatenated in order.

        Args:
            tensors: (name, tensor of any shape).
            fields: further fields of ``Source``.

        Returns:
            The source.

        Raises:
            BadInput: as for ``Source``.
        """
        parts, start = [], 0
        for name, tensor in tensors:
            parts.append(SourceTensor(name, tuple(tensor.shape), start, start + tensor.numel()))
            start += tensor.numel()
        flat = torch.cat([t.detach().reshape(-1).to(torch.float32) for _, t in tensors])
        return Source(flat, tuple(parts), **fields)  # type: ignore[arg-type]
