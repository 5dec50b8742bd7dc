"""Two networks in one forward pass: with the original weights and with the changed ones, on the same samples.

Each batch contains the samples twice. The first half is computed with the weights as they were when the pass began, the
second half with those that the visitor has set. The two halves of a layer's input are therefore its inputs in the
original network and in the network as changed so far.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from nqbench.api import Batch, Network
from nqbench.api.batches import joined, part
from nqbench.api.modules import evaluating
from nqbench.api.toolkit.uses import Use, watching

Visit = Callable[[Use, Tensor, Tensor], None]
"""Called with (use, its input x in the original network, its x now); may change the weight in place."""


def splits(task: Network, samples: Batch) -> bool:
    """Whether the first axis of every layer's input is that of the samples, so that the two halves can be separated. It
    is not in a network with time as the first axis, or in one that multiplies weights with tensors other than
    activations."""
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
    """Equality up to rounding: the rows of a product may be summed in different orders."""
    if not one.is_floating_point():
        return torch.equal(one, other)
    largest = float(one.abs().max()) if one.numel() else 0.0
    return math.isfinite(largest) and torch.allclose(one, other, rtol=1e-4, atol=1e-5 * largest)


def paired_forward(task: Network, samples: Batch, visit: Visit, trained: Mapping[str, Tensor] | None = None) -> None:
    """Visit each use of a weight before it is computed, in the order of the forward pass. The network must be one that
    ``splits``. trained: the original weights; None: the current ones."""
    trained = task.weights() if trained is None else trained

    def reached(use: Use) -> Tensor:
        assert use.run is not None
        before, now = torch.tensor_split(use.x, 2)
        visit(use, before, now)  # first: it may end the pass before a language model's logits take gigabytes
        weight = task.parameter(use.name).data
        held = weight.clone()
        weight.copy_(trained[use.name])
        was = use.run(before)
        weight.copy_(held)
        return torch.cat([was, use.run(now)])

    with evaluating(task.module), watching(task.module, task.names, reached):
        task.predict(joined([samples, samples]))
