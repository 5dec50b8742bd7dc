"""Batches from a user's function: which part is the network's input, which is the label, and messages for other
forms."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from nqbench.api import BadInput, Batch, NqbenchError
from nqbench.api.batches import tensors_of
from nqbench.api.modules import call

LABELS = ("labels", "label", "targets", "target", "y")
"""Names of the labels in a batch that is a dict."""
_last: dict[str, object] = {}
"""The last iterator that each function returned."""


def fresh(function: str, returned: object, split: str) -> Iterator[Batch]:
    """The batches that ``function`` returned for a split. Raises BadInput if the same iterator was returned before, or
    if it gives no batch."""
    if not isinstance(returned, Iterable):
        raise BadInput(f"{function} returns {type(returned).__name__} for the split '{split}', expected batches")
    if isinstance(returned, Iterator):
        if _last.get(function) is returned:
            raise BadInput(
                f"{function} returns one iterator twice, and the second time it is at its end: "
                "give a fresh iterator each call"
            )
        _last[function] = returned
    empty = True
    for batch in returned:
        empty = False
        yield batch
    if empty:
        raise BadInput(
            f"{function} gives no batch for the split '{split}': it must give a fresh iterator each call, for every "
            "split in `splits`"
        )


def called(module: nn.Module, batch: Batch) -> Callable[[], Any]:
    """The network's call for a batch, as ``call`` has it."""
    inputs, _ = parts(batch)
    return partial(call, module, inputs)


def parts(batch: Batch) -> tuple[Any, Any]:
    """(inputs, labels or None) of a batch that is x, (x,), (x, y) or a dict with named labels. Raises BadInput for any
    other."""
    if isinstance(batch, Mapping):
        name = next((name for name in LABELS if name in batch), None)
        return {key: value for key, value in batch.items() if key != name}, None if name is None else batch[name]
    if isinstance(batch, tuple | list) and len(batch) in (1, 2):
        return batch[0], batch[1] if len(batch) == 2 else None
    if isinstance(batch, Tensor):
        return batch, None
    raise BadInput(
        f"a batch is {described(batch)}, expected (inputs, labels): several inputs are a tuple or a dict of their own, "
        "((a, b), labels); or name functions `outputs` and `loss` that take it as it is"
    )


@contextmanager
def told(what: str, batch: Batch, module: nn.Module | None = None) -> Iterator[None]:
    """An error inside the block becomes a BadInput of one line: which function failed, with which batch, and where.
    Only calls of a user's function or network belong in the block, since other errors are not the batch's fault."""
    try:
        yield
    except NqbenchError:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError, AssertionError) as error:
        reason = " ".join(str(error).split())[:240]
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise BadInput(
            f"{what} cannot take a batch of {described(batch)}: {type(error).__name__}: {reason}"
            f"{_dtypes(batch, module)} (line {place.lineno} of {place.filename.rpartition('/')[2]})"
        ) from error


def described(value: object) -> str:
    """Types and shapes, for a message of one line."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {described(inner)}" for key, inner in list(value.items())[:6]) + "}"
    if isinstance(value, tuple | list):
        return "(" + ", ".join(described(inner) for inner in value[:6]) + ("," if len(value) == 1 else "") + ")"
    return type(value).__name__


def _dtypes(batch: Batch, module: nn.Module | None) -> str:
    """A hint if the dtype of the batch differs from that of the network."""
    if module is None:
        return ""
    weight = next((p for p in module.parameters() if p.is_floating_point()), None)
    inputs = batch[0] if isinstance(batch, tuple | list) and batch else batch
    floats = [tensor for tensor in tensors_of(inputs) if tensor.is_floating_point()]
    if weight is None or not floats or floats[0].dtype == weight.dtype:
        return ""
    given, own = (str(dtype).removeprefix("torch.") for dtype in (floats[0].dtype, weight.dtype))
    return f"; the network is {own} and the data are {given}: give data as {own}, or build the network as {given}"


def labels_of(function: str, batch: Batch) -> Tensor:
    """The labels. Raises BadInput, with advice, if there are none."""
    _, labels = parts(batch)
    if not isinstance(labels, Tensor):
        raise BadInput(
            f"{function} gives inputs without labels ({described(batch)}), expected (inputs, labels): "
            "add labels, or name functions `loss` and `score` that need none"
        )
    return labels
