"""Finds the tensor of outputs in what the forward method of a network returned."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from nqbench.api.errors import BadInput


def as_outputs(returned: object) -> Tensor:
    """Find the tensor of outputs in what the forward method of a network returned.

    Args:
        returned: a tensor; an object or a dict with ``logits``; a dict of one tensor; or a tuple that begins with one.

    Returns:
        That tensor.

    Raises:
        BadInput: it is none of these; the text says what was returned.

    Example:
        >>> import torch
        >>> as_outputs({"logits": torch.ones(1), "hidden": torch.zeros(3)})
        tensor([1.])
    """
    if isinstance(returned, Tensor):
        return returned
    logits = getattr(returned, "logits", None)
    if isinstance(returned, Mapping) and logits is None:
        logits = returned.get("logits")
    if isinstance(logits, Tensor):
        return logits
    if isinstance(returned, Mapping):
        tensors = [value for value in returned.values() if isinstance(value, Tensor)]
        if len(tensors) == 1:
            return tensors[0]
    elif isinstance(returned, tuple | list) and returned and not isinstance(returned[0], str):
        return as_outputs(returned[0])
    raise BadInput(
        f"the network returns {_told(returned)}, expected a tensor, .logits, a dict of one tensor or a tuple that "
        "begins with one: name a function `outputs` (module, batch) that takes the right part"
    )


def _told(returned: object) -> str:
    kind = type(returned).__name__
    if isinstance(returned, Mapping):
        return f"{kind} with {', '.join(map(str, returned)) or 'nothing'}"
    return f"{kind} of {len(returned)}" if isinstance(returned, tuple | list) else kind


def hits(outputs: Tensor, labels: Tensor) -> Tensor:
    """Whether the largest output is that of the label. Outputs with a nan choose no class, so they are wrong.

    Args:
        outputs: (B, C) logits.
        labels: (B,) classes.

    Returns:
        (B,) bool.

    Example:
        >>> import torch
        >>> hits(torch.tensor([[2.0, 1.0], [float("nan"), 1.0]]), torch.tensor([0, 0]))
        tensor([ True, False])
    """
    return (outputs.argmax(-1) == labels) & ~outputs.isnan().any(-1)
