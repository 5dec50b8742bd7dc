"""The input of a pruner or a training: a network, its sensitivity, and the quantizer of the trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from nqbench.api.errors import BadInput
from nqbench.api.network import Network
from nqbench.api.quantized import Quantized
from nqbench.api.quantized_model import Granularity, Group
from nqbench.api.quantizer import Quantizer, deployed
from nqbench.api.sensitivity import Sensitivity
from nqbench.api.source import Diagonal, Rate, SecondMoments, SensitivityValue, Source, SourceTensor
from nqbench.api.toolkit.progress import tell


@dataclass(frozen=True, eq=False)
class Shared:
    """What quantizers derived from one group's weights (``Source.view``), kept from trial to trial."""

    weights: Tensor
    views: dict[object, object] = field(default_factory=dict)


def _groups(layer: nn.Module, weight: Tensor) -> int:
    """Of a convolution, also one that a script or a library made; ``groups`` may be anything of another layer."""
    found = getattr(layer, "groups", 1)
    whole = isinstance(found, int) and found > 0 and weight.dim() > 0
    return found if whole and weight.shape[0] % found == 0 else 1


@dataclass(eq=False)
class Task(Network):
    """The input of a pruner or a training: a network, its sensitivity, and how to quantize it.

    Args:
        model, module, names, masks, moments, seed, workdir, stored: see ``Network``.
        quantizer: the quantizer of the trial; None for a pruner.
        granularity: ``global``: one quantizer for all tensors; ``layer``: one for each.
        sensitivity: the plugin that ``sense`` uses; None if the trial has none.
        sensed: name -> tensor, the sensitivity of the network before the training, as ``Sensitivity.sense`` returns it.
        rate: the bits that the coder uses for each symbol.
        shared: by group of names; the pipeline keeps it over the trials on one network.

    Example:
        >>> from nqbench.testing.tiny import TinyQuantizer, tiny_task
        >>> task = tiny_task(quantizer=TinyQuantizer(), granularity="layer")
        >>> groups = task.quantize()
        >>> [group.names for group in groups] == [(name,) for name in task.names]
        True
        >>> {name: tensor.unique().numel() <= 4 for name, tensor in task.reconstruct(groups).items()}
        {'0.weight': True, '4.weight': True, '6.weight': True}
    """

    quantizer: Quantizer | None = None
    granularity: Granularity = "global"
    sensitivity: Sensitivity | None = None
    sensed: Mapping[str, Tensor] | None = field(default=None, repr=False)
    rate: Rate | None = field(default=None, repr=False)
    shared: dict[tuple[str, ...], Shared] = field(default_factory=dict, repr=False)

    def partition(self, names: Sequence[str] | None = None) -> tuple[tuple[str, ...], ...]:
        """The groups of names that the granularity makes."""
        chosen = tuple(self.names if names is None else names)
        return (chosen,) if self.granularity == "global" else tuple((name,) for name in chosen)

    def sense(self, names: Sequence[str] | None = None) -> Mapping[str, Tensor] | None:
        """The sensitivity of the network with its current weights; see ``Sensitivity.sense``.

        Args:
            names: the tensors to estimate it for; None: all compressible ones.

        Returns:
            name -> tensor; None if the trial has no sensitivity.
        """
        if self.sensitivity is None or self.sensitivity.form == "none":
            return None
        return self.sensitivity.sense(self, tuple(self.names if names is None else names))

    def source(
        self,
        names: Sequence[str],
        weights: Mapping[str, Tensor] | None = None,
        *,
        sensed: Mapping[str, Tensor] | None = None,
        previous: Quantized | None = None,
    ) -> Source:
        """The source of one group of tensors.

        Args:
            names: the group's tensors.
            weights: name -> tensor; by default the network's own.
            sensed: name -> sensitivity; by default that of the untouched network.
            previous: the group's last result, for a warm start.

        Returns:
            The kept weights of these tensors, with everything that the quantizer may read.
        """
        parts, values, start = [], [], 0
        for name in names:
            tensor = (self.parameter(name) if weights is None else weights[name]).detach()
            kept = self.kept(name, tensor)
            groups = _groups(self.layer(name), tensor)
            mask = self.masks.get(name)
            parts.append(SourceTensor(name, tuple(tensor.shape), start, start + kept.numel(), mask, groups))
            values.append(kept)
            start += kept.numel()
        flat = torch.cat(values)
        return Source(
            flat,
            tuple(parts),
            sensitivity=self._sensitivity(names, self.sensed if sensed is None else sensed),
            previous=previous,
            rate=self.rate if self.quantizer is not None and self.quantizer.uses_rate() else None,
            seed=self.seed,
            shared=self._shared(tuple(names), flat) if sensed is None else {},
        )

    def _shared(self, names: tuple[str, ...], flat: Tensor) -> dict[object, object]:
        """The views that trials on the same weights share, by group; weights that training moved start with none."""
        first = self.shared.setdefault(names, Shared(flat))
        return first.views if torch.equal(first.weights, flat) else {}

    def _sensitivity(self, names: Sequence[str], sensed: Mapping[str, Tensor] | None) -> SensitivityValue | None:
        if sensed is None or self.sensitivity is None or self.sensitivity.form == "none":
            return None
        if self.sensitivity.form == "second-moments":
            return SecondMoments(tuple(sensed[name] for name in names))
        return Diagonal(torch.cat([self.kept(name, sensed[name]) for name in names]))

    def quantize(
        self,
        weights: Mapping[str, Tensor] | None = None,
        *,
        names: Sequence[str] | None = None,
        sensed: Mapping[str, Tensor] | None = None,
        previous: Sequence[Group] | None = None,
    ) -> tuple[Group, ...]:
        """Quantize each group with the quantizer of the trial.

        Args:
            weights: name -> tensor; by default the network's own.
            names: the tensors to quantize; None: all compressible ones.
            sensed: name -> sensitivity; by default that of the untouched network.
            previous: earlier results, for a warm start of the groups of the same names.

        Returns:
            One group for all (granularity ``global``) or one for each.

        Raises:
            BadInput: the task has no quantizer, or the quantizer refuses a source.
        """
        if self.quantizer is None:
            raise BadInput("this task has no quantizer")
        warm = {group.names: group.quantized for group in previous or ()}
        parts, groups = self.partition(names), []
        for done, part in enumerate(parts):
            if len(parts) > 1:
                tell(f"tensor {done + 1} of {len(parts)}")
            groups.append(Group(part, self._quantize(self.quantizer, part, weights, sensed, warm.get(part))))
        return tuple(groups)

    def _quantize(
        self,
        quantizer: Quantizer,
        names: tuple[str, ...],
        weights: Mapping[str, Tensor] | None,
        sensed: Mapping[str, Tensor] | None,
        previous: Quantized | None,
    ) -> Quantized:
        if not any(self.kept(name, self.parameter(name)).numel() for name in names):
            # a pruner may leave nothing of a layer: no quantizer need know
            symbols = torch.empty(0, dtype=torch.int32, device=self.device)
            codebook = torch.zeros(1, device=self.device)
            return Quantized(symbols, 1, (0,) * len(names), side={"codebook": codebook})
        return quantizer.quantize(self.source(names, weights, sensed=sensed, previous=previous))

    def reconstruct(
        self, groups: Sequence[Group], parameters: Sequence[Mapping[str, Tensor]] | None = None
    ) -> dict[str, Tensor]:
        """Reconstruct the quantized tensors.

        Args:
            groups: results of ``quantize``.
            parameters: one set per group, used in place of the group's own.

        Returns:
            name -> tensor of the parameter's shape, pruned places exactly 0, differentiable in ``parameters``.

        Raises:
            BadInput: the task has no quantizer.
        """
        if self.quantizer is None:
            raise BadInput("this task has no quantizer")
        found = {}
        for index, group in enumerate(groups):
            own = None if parameters is None else dict(parameters[index])
            flat = deployed(self.quantizer, group.quantized, own)
            for name, kept in zip(group.names, torch.split(flat, list(group.quantized.sizes)), strict=True):
                found[name] = self.spread(name, kept)
        return found
