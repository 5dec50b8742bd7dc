"""Two networks in one forward pass: each weight as it was, and as it has become, on the same samples.

Samples go through twice, side by side in one batch. The first half meets every weight as it was when the pass began,
the second half as the visitor left it; what the two halves bring to a weight are its inputs in the network as it was
and in the network as it has become so far.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from nqbench.api import Batch, Network
from nqbench.api.batches import part
from nqbench.api.modules import evaluating
from nqbench.api.toolkit.uses import Use, watching
from nqbench_training.second_moments import joined

Visit = Callable[[Use, Tensor, Tensor], None]
"""(use, its x in the network as it was, its x now): may change the weight in place."""


def splits(task: Network, samples: Batch) -> bool:
    """Whether samples come first in whatever the weights are multiplied with, so that two halves can be told apart:
    not in a network that puts time before samples, or that multiplies weights with things of its own."""
    few = part(samples, 2)
    whole = True

    def look(use: Use) -> None:
        nonlocal whole
        half, odd = divmod(len(use.x), 2)
        whole = whole and use.run is not None and not odd and _alike(use.x[:half], use.x[half:])

    with evaluating(task.module), watching(task.module, task.names, look):
        task.predict(joined([few, few]))
    return whole


def _alike(one: Tensor, other: Tensor) -> bool:
    """Up to rounding: a product's rows may be summed in different orders."""
    if not one.is_floating_point():
        return torch.equal(one, other)
    return torch.allclose(one, other, rtol=1e-4, atol=1e-5 * float(one.abs().max()) if one.numel() else 0.0)


def paired_forward(task: Network, samples: Batch, visit: Visit, trained: Mapping[str, Tensor] | None = None) -> None:
    """Visit each use of a weight, before it is made, in the order of the forward pass. The network must be one that
    ``splits``. trained: the weights as they were; None: as they are now."""
    trained = task.weights() if trained is None else trained

    def reached(use: Use) -> Tensor:
        assert use.run is not None
        before, now = torch.tensor_split(use.x, 2)
        weight = task.parameter(use.name).data
        held = weight.clone()
        weight.copy_(trained[use.name])
        was = use.run(before)
        weight.copy_(held)
        visit(use, before, now)
        return torch.cat([was, use.run(now)])

    with evaluating(task.module), watching(task.module, task.names, reached):
        task.predict(joined([samples, samples]))
