"""Second moments of each layer's inputs, as used by methods with error feedback (OBQ, GPTQ; arXiv:2208.11580)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from nqbench.api import Batch, Moments, Network, SensitivityForm
from nqbench.api.batches import joined
from nqbench.api.modules import evaluating
from nqbench.api.toolkit.progress import tell
from nqbench.api.toolkit.samples import first_samples
from nqbench.api.toolkit.uses import Geometry, Use, watching
from nqbench_training.grams import Products, spacing
from nqbench_training.information import Information, information, looked_up
from nqbench_training.passes import Passes
from nqbench_training.sensitivities import Sampled


class SecondMoments(Sampled, name="second-moments", paper="arXiv:2208.11580, section 3"):
    """X X^T / N over the vectors that a weight multiplies (im2col for convolutions), one matrix per group.

    1/2 tr(E X X^T E^T) / N is half the mean squared error of a layer's output when its weights change by E. Inputs are
    recorded at torch's operations (``nqbench.api.toolkit.uses``), so that all layers and functions are covered. For a
    weight that is used several times, or tied to another, uses are summed; for an embedding they are the frequencies of
    its rows; for a tensor that is not used they are 0.
    """

    form: ClassVar[SensitivityForm] = "second-moments"

    columns: int | None = Field(None, ge=1)
    """Second moments of a convolution are averaged over about this many input vectors per row of their matrix, from
    evenly spaced samples, at least 128 of them (16 for large images); None: over all vectors."""
    positions: int | None = Field(None, ge=1)
    """Where a sample brings many vectors to each weight (a window of text), as many samples are enough as have this
    many vectors together, at least 16; convolutions do not count (``columns``). None: all ``samples`` are taken."""
    outputs: int = Field(0, ge=0)
    """Number of samples by which the moments of each tensor are brought to the unit of the loss (K-FAC's output factor,
    arXiv:1503.05671, as its diagonal): they are scaled so that their mean diagonal is the mean Fisher information of
    the tensor's weights, with labels drawn from the network (or the true labels, where none can be drawn), divided by
    the geometric mean over tensors; and outputs get weights by their own information. The frequencies of an embedding's
    rows are then those in all training data, smoothed. 0: no scaling, no weights."""
    outputs_for: Literal["all", "lookups"] = "all"
    """Which networks' moments are brought to the unit of the loss: those of all, or only of networks that look rows up
    (embeddings), where what errors cost differs most."""

    def uses_seed(self) -> bool:
        return self.outputs > 0

    def sense(self, task: Network, names: Sequence[str]) -> Mapping[str, Tensor]:
        found = self.of_inputs(task, names)
        if not self.outputs:
            return found
        counted = looked_up(task, names)
        if self.outputs_for == "lookups" and not counted:
            return found
        return in_units_of_loss(found, information(task, names, self.outputs, counted), counted)

    def of_inputs(self, task: Network, names: Sequence[str]) -> dict[str, Tensor]:
        """name -> packed second moments of the layer inputs, not scaled."""
        sums = {name: Sums(task.parameter(name)) for name in names}
        passes = Passes()
        taken = self.taken(task, names)
        batches: Iterable[tuple[Batch, int]] = first_samples(task, taken)
        samples = 0
        if self.columns is not None:  # the spacing of samples depends on their number
            batches = list(batches)
            samples = sum(size for _, size in batches)

        mask: Tensor | None = None

        def add(use: Use) -> None:
            every = spacing(use.geometry, use.x, self.columns, samples)
            sums[use.name].add(use, use.without_padding(use.x, mask)[::every])
            passes.used(use.name)

        with evaluating(task.module), watching(task.module, names, add):
            done = 0
            for batch, size in batches:
                tell(f"inputs of layers: sample {done + 1} of {taken}")
                mask = task.attention_mask(batch)
                passes.run(task, batch)
                done += size
        return {name: sums[name].moments().packed() for name in names}

    def taken(self, task: Network, names: Sequence[str]) -> int:
        """Number of samples, of which there may be fewer."""
        if self.positions is None:
            return self.samples
        return min(self.samples, max(_FEWEST, self.positions // positions_of(task, names)))

    def calibration(self, task: Network) -> Batch | None:
        """All the samples as one batch; None where they have several shapes."""
        return joined([batch for batch, _ in first_samples(task, self.samples, self.samples)])


def positions_of(task: Network, names: Sequence[str]) -> int:
    """The largest number of vectors that a sample brings to a weight which is no convolution's, at least 1."""
    most = 1

    def see(use: Use) -> None:
        nonlocal most
        if use.geometry.kind == "product":
            most = max(most, use.x.shape[-2])

    with evaluating(task.module), watching(task.module, names, see):
        for batch, _ in first_samples(task, 1, 1):
            task.predict(batch)
    return most


_FEWEST = 16
_LEAST_OUTPUT = 1e-3
"""The least weight of an output, relative to the mean."""


class Sums:
    """Sums of products over all uses of one weight, separately for each way in which it is multiplied."""

    def __init__(self, weight: Tensor) -> None:
        self.shape, self.device = weight.shape, weight.device
        self.parts: dict[Geometry, Products] = {}

    def add(self, use: Use, x: Tensor) -> None:
        """x: of the use, or a part of it."""
        if use.geometry not in self.parts:
            self.parts[use.geometry] = Products(use.geometry, self.shape)
        self.parts[use.geometry].add(x)

    def moments(self) -> Moments:
        """The mean over all uses. Uses that multiply the weight along another axis (an embedding that is also the
        output layer) add to the error of each row a multiple of |row|^2; they are counted by the mean of these
        multiples."""
        if not self.parts:
            columns = self.shape[1:].numel() if self.shape else 1
            return Moments(torch.zeros(1, 1, columns, device=self.device))
        found = sorted(self.parts.values(), key=lambda part: (part.geometry.kind == "lookup", part.geometry.layout))
        first = found[0]
        assert first.total is not None
        total, count = first.total.float(), first.count
        for part in found[1:]:
            assert part.total is not None
            count += part.count
            total = total + part.total if _alike(first, part) else _raised(total, mean_diagonal(part.total))
        return Moments((total / count).float(), first.geometry.layout)


def _alike(one: Products, other: Products) -> bool:
    assert one.total is not None
    assert other.total is not None
    return one.geometry.layout == other.geometry.layout and one.total.shape == other.total.shape


def mean_diagonal(total: Tensor) -> float:
    """total: (G, m, m), or (G, 1, m) for diagonals alone."""
    diagonal = total[:, 0] if total.shape[1] == 1 else total.diagonal(dim1=1, dim2=2)
    return float(diagonal.double().mean())


def _raised(total: Tensor, by: float) -> Tensor:
    """The matrix plus a multiple of the identity."""
    if total.shape[1] == 1:
        return total + by
    return total + by * torch.eye(total.shape[1], dtype=total.dtype, device=total.device)


def in_units_of_loss(
    moments: Mapping[str, Tensor], wanted: Mapping[str, Information], counted: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Scale the second moments of each tensor to a mean diagonal of its information, divided by the geometric mean over
    tensors, and give its outputs weights. Tensors without moments or without information stay as they are.

    moments: packed. counted: frequencies of embeddings' rows, in place of those of a diagonal.
    """
    known = {name: Moments.of(packed) for name, packed in moments.items()}
    for name, shares in (counted or {}).items():
        if known[name].diagonal and known[name].layout == 1 and known[name].gram.numel() == len(shares):
            known[name] = replace(known[name], gram=shares.to(known[name].gram).reshape(known[name].gram.shape))
    means = {name: mean_diagonal(own.gram) for name, own in known.items()}
    seen = {name: wanted[name].mean for name in moments if means[name] > 0 and wanted[name].mean > 0}
    if not seen:
        return dict(moments)
    unit = math.exp(sum(math.log(one) for one in seen.values()) / len(seen))
    found = {}
    for name, own in known.items():
        if name not in seen:
            found[name] = own.packed()
            continue
        scaled = own.gram * (seen[name] / unit / means[name])
        outputs = None if own.diagonal else _weights(own, wanted[name].rows)
        found[name] = replace(own, gram=scaled, outputs=outputs).packed()
    return found


def _weights(moments: Moments, rows: Tensor) -> Tensor:
    """Weights of outputs of mean 1, none of them so small that its output would not count at all; all 1 where the first
    axis is not that of the outputs."""
    if moments.layout or len(rows) % len(moments.gram):
        return torch.ones(len(moments.gram), device=moments.gram.device)
    relative = (rows / rows.mean()).clamp_min(_LEAST_OUTPUT)
    return (relative / relative.mean()).to(moments.gram)
