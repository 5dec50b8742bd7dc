"""A trained network as plugins see it: its module, its masks, its data and loss.

Plugins cannot read the test split: only the pipeline evaluates networks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from nqbench.api.batches import Batch, Split, to_device
from nqbench.api.errors import BadInput
from nqbench.api.model import Model
from nqbench.api.modules import device_of


@dataclass(eq=False)
class Network:
    """A trained network with its masks and its training data: what a sensitivity looks at. A ``Task`` is one.

    Args:
        model: gives data and loss.
        module: the trained (and pruned) network, this object's own copy: trainings may change it.
        names: of the compressible tensors, in order.
        masks: name -> bool tensor, True where kept, for pruned tensors.
        moments: name -> second moments of the gradients, where training kept them.
        seed: the seed of the trial.
        workdir: a folder for checkpoints of long trainings, kept until the stage succeeds; None: keep none.
        stored: the networks of the store of trained networks that it came from: each file's name -> SHA-256 of its
            tensors.

    Example:
        >>> from nqbench.testing.tiny import tiny_task
        >>> network = tiny_task()
        >>> batch = next(network.batches(batch_size=8))
        >>> network.predict(batch).shape, network.loss(batch).shape
        (torch.Size([8, 3]), torch.Size([]))
    """

    model: Model = field(repr=False)
    module: nn.Module = field(repr=False)
    names: tuple[str, ...]
    masks: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    _: KW_ONLY
    moments: Mapping[str, Tensor] | None = field(default=None, repr=False)
    seed: int = 0
    workdir: Path | None = None
    stored: Mapping[str, str] = field(default_factory=dict, repr=False)

    def recipe(self) -> dict[str, Any]:
        """What the trained network is, in the recipe of what is made of it and kept (``nqbench.api.toolkit.store``)."""
        found: dict[str, Any] = {"network": self.model.fingerprint()}
        # a fingerprint need not say which are compressible
        if self.names != Model.compressible(self.model, self.module):
            found["tensors"] = list(self.names)
        return found | ({"stored": dict(self.stored)} if self.stored else {})

    @property
    def device(self) -> torch.device:
        return device_of(self.module)

    def batches(self, split: Split = "train", *, batch_size: int = 256, shuffle: int | None = None) -> Iterator[Batch]:
        """Batches on the network's device; see ``Model.batches``.

        Args:
            split: ``train`` or ``validation``.
            batch_size: examples a batch.
            shuffle: a seed for order and augmentation; None: stored order.

        Returns:
            The batches, drawn as they are asked for.

        Raises:
            BadInput: the test split was asked for.
        """
        if split == "test":
            raise BadInput("a task cannot reach the test split")
        if shuffle is not None:
            yield from self.model.batches_on(self.device, split, batch_size=batch_size, shuffle=shuffle)
            return
        for batch in self.model.batches(split, batch_size=batch_size):  # who reads so may want the first alone
            yield to_device(batch, self.device)

    def predict(
        self, batch: Batch, module: nn.Module | None = None, *, tensors: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Outputs of a batch.

        Under autocast outputs are float32 even so: a loss of bfloat16 numbers would have three digits.

        Args:
            batch: on the network's device.
            module: another module in the place of the own one.
            tensors: stand in for the parameters (or buffers) of these names, differentiably.

        Returns:
            (B, ...) outputs.
        """
        network = self.module if module is None else module
        outputs: Tensor
        if tensors is None:
            outputs = self.model.predict(network, batch)
        else:
            # decoded weights are float32, whatever the network computes in
            swapped = {f"network.{name}": t.to(_tensor(network, name).dtype) for name, t in tensors.items()}
            outputs = functional_call(_Predictor(self.model, network), swapped, (batch,))
        return outputs.float() if torch.is_autocast_enabled(self.device.type) else outputs

    def attention_mask(self, batch: Batch) -> Tensor | None:
        """See ``Model.attention_mask``."""
        return self.model.attention_mask(batch)

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        return self.model.losses(outputs, batch)

    def loss(
        self, batch: Batch, module: nn.Module | None = None, *, tensors: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Mean loss of a batch; see ``predict``."""
        return self.losses(self.predict(batch, module, tensors=tensors), batch).mean()

    def parameter(self, name: str) -> nn.Parameter:
        return cast(nn.Parameter, _tensor(self.module, name))  # TorchScript hands out plain tensors

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


def _tensor(module: nn.Module, name: str) -> Tensor:
    found = _walk(module, name)
    assert isinstance(found, Tensor)
    return found


class _Predictor(nn.Module):
    """``Model.predict`` as a module, so that ``functional_call`` can put other tensors in the network's places."""

    def __init__(self, model: Model, network: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.network = network

    def forward(self, batch: Batch) -> Tensor:
        return self.model.predict(self.network, batch)
