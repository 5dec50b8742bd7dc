"""The Fisher information of a network's weights, by few backward passes: of a tensor, and of each index of its first
axis.

Scores of labels that are drawn from the network have mean 0 and are independent from sample to sample, so that the
squared norm of their sum is, in expectation, the sum of their squared norms: one backward pass serves a batch, whatever
the layers. A language model's labels are the next tokens, drawn independently at each position. Where labels cannot be
drawn, samples' own losses get random signs instead.

What an embedding's row costs is what one look-up costs times how often the row is looked up, which a few samples cannot
tell of rare rows: these frequencies are counted in all training data, and smoothed by Laplace's rule of succession. A
row that is an output's as well (tied weights) costs what it costs there, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nqbench.api import Batch, Network
from nqbench.api.modules import evaluating, hooked
from nqbench.api.toolkit.curvature import drawn_scores
from nqbench.api.toolkit.masters import widened
from nqbench.api.toolkit.persample import gradients
from nqbench.api.toolkit.progress import tell
from nqbench.api.toolkit.samples import first_samples
from nqbench.api.toolkit.uses import Use, watching
from nqbench_training.grams import frequencies
from nqbench_training.passes import Passes

_AT_ONCE = 8
"""Samples of a backward pass: more passes make a better estimate."""
_LARGE = 1 << 20  # outputs of a sample, from which a pass has one sample: a language model's logits and activations
_MOST_COUNTED = 1 << 22  # look-ups that suffice


@dataclass(frozen=True, eq=False)
class Information:
    """Args:
    mean: the mean information of one weight, per sample.
    rows: (shape[0],) float64 on the CPU: of one weight at each index of the first axis; for look-ups, smoothed.
    """

    mean: float
    rows: Tensor


def information(
    task: Network, names: Sequence[str], samples: int, counted: Mapping[str, Tensor] | None = None
) -> dict[str, Information]:
    """name -> information of its weights, means unbiased.

    counted: name -> (rows,) frequencies of an embedding's rows, for those that are looked up.
    """
    generator = torch.Generator().manual_seed(task.seed)
    parameters = [task.parameter(name) for name in names]
    sums = [_Sum(parameter) for parameter in parameters]
    seen = 0
    with torch.enable_grad(), evaluating(task.module), _looked_up(task.module, parameters) as lookups:
        for batch, size in first_samples(task, samples, _at_once(task)):
            tell(f"gradients: sample {seen + 1} of {samples}")
            lookups.clear()
            outputs = task.predict(batch)
            scored, cotangent = _scores(task, outputs, batch, generator)
            found = gradients(scored, [*parameters, *(one.output for one in lookups)], cotangent)
            for index, one in enumerate(sums):
                own = [
                    (lookup.rows, slope)
                    for lookup, slope in zip(lookups, found[len(parameters) :], strict=True)
                    if lookup.parameter is parameters[index]
                ]
                one.add(found[index], own)
            seen += size
    return {
        name: one.information(max(seen, 1), (counted or {}).get(name)) for name, one in zip(names, sums, strict=True)
    }


def _at_once(task: Network) -> int:
    for batch, _ in first_samples(task, 1, 1):
        with torch.no_grad(), evaluating(task.module):
            return 1 if task.predict(batch).numel() > _LARGE else _AT_ONCE
    return _AT_ONCE


def _scores(task: Network, outputs: Tensor, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
    """What is differentiated, and its cotangent."""
    model = task.model
    kind = model.likelihood()
    if kind != "other" and outputs.dim() == 2:
        return outputs, drawn_scores(kind, outputs, generator)
    if model.outputs_are() == "categorical":
        logits = model.logits(outputs, batch)
        if logits.dim() == 2 and logits.shape[1] > 1:
            return logits, drawn_scores("categorical", logits, generator)
    losses = task.losses(outputs, batch)
    signs = torch.randint(0, 2, losses.shape, generator=generator).to(losses) * 2 - 1
    return (losses * signs).sum(), None


# -- look-ups --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class _Lookup:
    """rows: indices. output: what the layer gave, (..., d). parameter: its weight."""

    parameter: Tensor
    rows: Tensor
    output: Tensor


@contextmanager
def _looked_up(module: nn.Module, parameters: Sequence[Tensor]) -> Iterator[list[_Lookup]]:
    """Inside the block, what layers of class ``nn.Embedding`` look up in these parameters."""
    found: list[_Lookup] = []

    def see(layer: nn.Module, given: Any, output: Tensor) -> None:
        weight = layer.weight
        owner = next((p for p in parameters if p is weight), None)
        if owner is not None and output.requires_grad:
            found.append(_Lookup(owner, given[0], output))

    with hooked([e.register_forward_hook(see) for e in module.modules() if isinstance(e, nn.Embedding)]):
        yield found


@dataclass(eq=False)
class _Sum:
    """Squared slopes of one tensor, summed over batches. rows: by the first axis, without look-ups; looked: the sum
    over all look-ups."""

    parameter: Tensor
    total: float = 0.0
    rows: Tensor = field(init=False)
    looked: float = 0.0

    def __post_init__(self) -> None:
        self.rows = torch.zeros(self.parameter.shape[:1].numel(), dtype=torch.float64)

    def add(self, slope: Tensor, lookups: Sequence[tuple[Tensor, Tensor]]) -> None:
        """lookups: of a pass, the indices and the slopes of what was looked up."""
        slope = widened(slope.detach())
        self.total += float(slope.square().sum(dtype=torch.float64))
        for rows, own in lookups:
            flat = widened(own.detach()).reshape(-1, own.shape[-1])
            slope = slope.index_add(0, rows.reshape(-1).long(), -flat.to(slope))
            self.looked += float(flat.square().sum(dtype=torch.float64))
        self.rows += slope.reshape(len(self.rows), -1).square().sum(1, dtype=torch.float64).cpu()

    def information(self, seen: int, counted: Tensor | None) -> Information:
        rows = self.rows
        if counted is not None and self.looked > 0:
            rows = rows + self.looked * counted.double().cpu()
        each = max(self.parameter.numel() // max(len(rows), 1), 1)
        return Information(self.total / max(self.parameter.numel(), 1) / seen, rows / each / seen)


def looked_up(task: Network, names: Sequence[str]) -> dict[str, Tensor]:
    """name -> (rows,) float64 on the CPU: how often each row of an embedding is looked up in the training data, as a
    share of all look-ups, one added to each count; for those of the tensors that are looked up.

    Passes end after the last look-up, which in most networks is their beginning.
    """
    counts: dict[str, Tensor] = {}
    mask: Tensor | None = None
    passes = Passes()

    def add(use: Use) -> None:
        if use.geometry.kind != "lookup":
            return
        rows = task.parameter(use.name).shape[0]
        more = frequencies(use.without_padding(use.x, mask), rows).reshape(-1).cpu()
        counts[use.name] = counts[use.name] + more if use.name in counts else more
        passes.used(use.name)

    with evaluating(task.module), watching(task.module, names, add):
        for batch, _ in first_samples(task, 1, 1):  # most networks have none
            passes.run(task, batch)
        counts.clear()
        for batch in task.batches("train") if passes.expected else ():
            tell("look-ups in the training data")
            mask = task.attention_mask(batch)
            passes.run(task, batch)
            if max(float(found.sum()) for found in counts.values()) > _MOST_COUNTED:
                break
    return {name: (found + 1) / (found.sum() + len(found)) for name, found in counts.items()}
