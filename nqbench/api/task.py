"""What a pruner, a sensitivity or a training works on: a network, its masks, its training data, and the quantizer.

A task never reaches the test split: the pipeline builds it from a model and keeps evaluation to itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from nqbench.api.ahead import ahead
from nqbench.api.errors import BadInput
from nqbench.api.model import Batch, Model, Split, device_of, to_device
from nqbench.api.quantized import Quantized
from nqbench.api.quantizer import Quantizer
from nqbench.api.source import Diagonal, Rate, SecondMoments, SensitivityValue, Source, SourceTensor

if TYPE_CHECKING:
    from nqbench.api.training import Sensitivity

Scope = Literal["global", "layer"]


@dataclass(frozen=True, eq=False)
class Group:
    """Tensors that share one quantizer's result: all of them (scope ``global``) or one (scope ``layer``)."""

    names: tuple[str, ...]
    quantized: Quantized


@dataclass(frozen=True, eq=False)
class QuantizedModel:
    """What a training returns. groups cover every compressible tensor once, in order; raw_state: every other tensor of
    the state, by name (biases, batch-norm weights and statistics), as it shall be deployed."""

    groups: tuple[Group, ...]
    raw_state: Mapping[str, Tensor]


@dataclass(eq=False)
class Task:
    """module: the trained (and pruned) network, this task's own copy: trainings may change it. masks: name -> bool
    tensor, True where kept, for pruned tensors. workdir: a folder for checkpoints of long trainings, kept until the
    stage succeeds; None: keep none."""

    model: Model = field(repr=False)
    module: nn.Module = field(repr=False)
    names: tuple[str, ...]
    masks: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    quantizer: Quantizer | None = None
    scope: Scope = "global"
    sensitivity: Sensitivity | None = None
    sensed: Mapping[str, Tensor] | None = field(default=None, repr=False)
    moments: Mapping[str, Tensor] | None = field(default=None, repr=False)
    rate: Rate | None = field(default=None, repr=False)
    seed: int = 0
    workdir: Path | None = None
    shared: dict[object, dict[object, object]] = field(default_factory=dict, repr=False)

    @property
    def device(self) -> torch.device:
        return device_of(self.module)

    # -- data and loss -------------------------------------------------------------------------------------------
    def batches(self, split: Split = "train", *, batch_size: int = 256, shuffle: int | None = None) -> Iterator[Batch]:
        """Batches on the task's device; see ``Model.batches``. The test split is refused."""
        if split == "test":
            raise BadInput("a task cannot reach the test split")
        batches = self.model.batches(split, batch_size=batch_size, shuffle=shuffle)
        if shuffle is not None and self.device.type != "cpu":
            # training: a GPU would wait as long for a batch to be augmented as it takes for the step. Who reads in
            # stored order often wants the first batch alone
            batches = ahead(batches)
        for batch in batches:
            yield to_device(batch, self.device)

    def predict(
        self, batch: Batch, module: nn.Module | None = None, *, tensors: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Outputs of a batch. tensors: stand in for the parameters (or buffers) of these names, differentiably.

        Under autocast outputs are float32 even so: a loss of bfloat16 numbers would have three digits.
        """
        network = self.module if module is None else module
        outputs: Tensor
        if tensors is None:
            outputs = self.model.predict(network, batch)
        else:
            swapped = {f"network.{name}": tensor for name, tensor in tensors.items()}
            outputs = functional_call(_Predictor(self.model, network), swapped, (batch,))
        return outputs.float() if torch.is_autocast_enabled(self.device.type) else outputs

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        return self.model.losses(outputs, batch)

    def loss(
        self, batch: Batch, module: nn.Module | None = None, *, tensors: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Mean loss of a batch; see ``predict``."""
        return self.losses(self.predict(batch, module, tensors=tensors), batch).mean()

    # -- weights ---------------------------------------------------------------------------------------------------
    def parameter(self, name: str) -> nn.Parameter:
        found = _walk(self.module, name)
        assert isinstance(found, Tensor)
        return cast(nn.Parameter, found)  # TorchScript hands out plain tensors

    def layer(self, name: str) -> nn.Module:
        """The module that owns a parameter."""
        found = _walk(self.module, name.rpartition(".")[0])
        assert isinstance(found, nn.Module)
        return found

    def weights(self, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """The network's current compressible tensors (detached copies)."""
        return {name: self.parameter(name).detach().clone() for name in (self.names if names is None else names)}

    def raw_state(self) -> dict[str, Tensor]:
        """Every tensor of the current state that is not compressible (detached copies)."""
        chosen = set(self.names)
        return {k: v.detach().clone() for k, v in self.module.state_dict().items() if k not in chosen}

    def kept(self, name: str, tensor: Tensor) -> Tensor:
        """(kept,) entries of a tensor of that name's shape, row-major."""
        mask = self.masks.get(name)
        return tensor.reshape(-1) if mask is None else tensor[mask]

    def spread(self, name: str, kept: Tensor) -> Tensor:
        """The inverse of ``kept``: the tensor's shape again, exactly 0 where pruned. Differentiable."""
        mask, shape = self.masks.get(name), self.parameter(name).shape
        if mask is None:
            return kept.reshape(shape)
        return torch.zeros(shape, dtype=kept.dtype, device=kept.device).masked_scatter(mask, kept)

    # -- quantization ------------------------------------------------------------------------------------------------
    def partition(self, names: Sequence[str] | None = None) -> tuple[tuple[str, ...], ...]:
        """The groups of names that the scope makes."""
        chosen = tuple(self.names if names is None else names)
        return (chosen,) if self.scope == "global" else tuple((name,) for name in chosen)

    def sense(self, names: Sequence[str] | None = None) -> Mapping[str, Tensor] | None:
        """The sensitivity of the network as it stands now, for these tensors; see ``Sensitivity.sense``.

        None where the trial has none. On the untouched network the pipeline's cached result is used instead.
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
        """One group's source. weights: by default the network's own; sensed: by default the cached sensitivity."""
        parts, values, start = [], [], 0
        for name in names:
            tensor = (self.parameter(name) if weights is None else weights[name]).detach()
            kept = self.kept(name, tensor)
            groups = int(getattr(self.layer(name), "groups", 1))
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
        views = self.shared.setdefault(names, {})
        first = views.setdefault(Task, flat)
        return views if isinstance(first, Tensor) and torch.equal(first, flat) else {}

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
        """Run the trial's quantizer over each group of ``names`` (default: all compressible tensors)."""
        if self.quantizer is None:
            raise BadInput("this task has no quantizer")
        warm = {group.names: group.quantized for group in previous or ()}
        return tuple(
            Group(part, self._quantize(self.quantizer, part, weights, sensed, warm.get(part)))
            for part in self.partition(names)
        )

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
        """name -> tensor as deployed, pruned places exactly 0. Differentiable in ``parameters``, one set a group."""
        if self.quantizer is None:
            raise BadInput("this task has no quantizer")
        deployed = {}
        for index, group in enumerate(groups):
            own = None if parameters is None else dict(parameters[index])
            flat = self.quantizer.reconstruct(group.quantized, own)
            for name, kept in zip(group.names, torch.split(flat, list(group.quantized.sizes)), strict=True):
                deployed[name] = self.spread(name, kept)
        return deployed

    def assign(self, tensors: Mapping[str, Tensor]) -> None:
        """Write tensors into the network (``w = Delta(theta)``), in place."""
        with torch.no_grad():
            for name, tensor in tensors.items():
                self.parameter(name).copy_(tensor)


def _walk(module: nn.Module, name: str) -> object:
    """A part of a module by its dotted name; unlike get_parameter this works for TorchScript too."""
    found: object = module
    for step in name.split(".") if name else ():
        found = getattr(found, step)
    return found


class _Predictor(nn.Module):
    """``Model.predict`` as a module, so that ``functional_call`` can put other tensors in the network's places."""

    def __init__(self, model: Model, network: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.network = network

    def forward(self, batch: Batch) -> Tensor:
        return self.model.predict(self.network, batch)
