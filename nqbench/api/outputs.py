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


def _shaped(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def check_top1(outputs: Tensor, labels: Tensor) -> None:
    """Refuse what top-1 accuracy does not judge: what cross-entropy takes, it need not take (probabilities of classes,
    a class for each pixel).

    Args:
        outputs: of a network for one batch.
        labels: of the same batch.

    Raises:
        BadInput: not (B, C) logits with (B,) class numbers; the text says what they are.
    """
    if labels.dim() != 1 or labels.is_floating_point():
        raise BadInput(
            f"labels are {_shaped(labels)} for outputs of {_shaped(outputs)}, expected one class number for each "
            "example: give those, or a `score` that judges them"
        )
    hits(outputs, labels)


def rows_of_classes(outputs: Tensor) -> Tensor:
    """A row for each distribution of outputs whose classes are on the last axis: (N, T, C) -> (N T, C)."""
    return outputs.flatten(0, -2) if outputs.dim() > 2 else outputs


def hits(outputs: Tensor, labels: Tensor) -> Tensor:
    """Whether the largest output is that of the label. Outputs with a nan choose no class, so they are wrong.

    Args:
        outputs: (B, C) logits.
        labels: (B,) classes.

    Returns:
        (B,) bool.

    Raises:
        BadInput: there is not one row of outputs for each label, or a row is no choice.

    Example:
        >>> import torch
        >>> hits(torch.tensor([[2.0, 1.0], [float("nan"), 1.0]]), torch.tensor([0, 0]))
        tensor([ True, False])
    """
    # of (B,) outputs the first choice is one number, which would be compared with every label
    if outputs.dim() < 2 or outputs.shape[:-1] != labels.shape or outputs.shape[-1] < 2:
        raise BadInput(
            f"labels are {_shaped(labels)} for outputs of {_shaped(outputs)}, expected one class number and the "
            "outputs of two classes or more for each example: give those, or a `score` that judges them"
        )
    return (outputs.argmax(-1) == labels) & ~outputs.isnan().any(-1)
