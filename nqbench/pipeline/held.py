"""Whether a network computes with the weights that a file of it holds, and with no others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nqbench.api import BadInput, Model, Split, device_of, to_device
from nqbench.api.modules import evaluating


class _Others(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the shape of the first parameter that an operation takes and that is none of a module's state."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        state = module.state_dict(keep_vars=True).values()
        self.own = {tensor.untyped_storage().data_ptr() for tensor in state if isinstance(tensor, Tensor)}
        self.found: tuple[int, ...] | None = None

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        for given in tree_leaves((args, kwargs or {})):
            if self.found is None and isinstance(given, nn.Parameter) and given.numel():
                other = given.untyped_storage().data_ptr() not in self.own
                self.found = tuple(given.shape) if other else None
        return func(*args, **(kwargs or {}))


def check_held(model: Model, module: nn.Module, split: Split) -> None:
    """Raises BadInput where the first batch of a split passes through parameters that are none of the module's: layers
    in a plain list, which no file has, or those of the network that this one is a copy of, reached through a function
    that remembers it. What came of them would not be what comes of a file. module: of nobody else, since it is run.
    """
    try:
        batch = next(iter(model.batches(split, batch_size=2)), None)
        if batch is None:
            return
        with evaluating(module), torch.no_grad(), _Others(module) as seen:
            model.predict(module, to_device(batch, device_of(module)))
    except Exception:  # noqa: BLE001 - a network that cannot be run is told of where it is evaluated
        return
    if seen.found is not None:
        raise BadInput(
            f"model '{model.name}': the network computes with a parameter of shape {seen.found} that is not in its "
            "state, so that no file can hold it: put layers into nn.ModuleList or attributes, not into plain lists or "
            "functions that remember them"
        )
