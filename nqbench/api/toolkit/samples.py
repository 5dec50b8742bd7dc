"""The training samples that sensitivities and other estimates are made of."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from nqbench.api.batches import Batch, count, part
from nqbench.api.errors import BadInput, Note
from nqbench.api.network import Network

BATCH = 50
"""Samples a pass, where nothing else decides."""
_TELLING = 32  # labels: fewer may be in order by chance


def first_samples(task: Network, samples: int, batch_size: int = BATCH) -> Iterator[tuple[Batch, int]]:
    """(batch, its size) over the first ``samples`` training samples, or all if there are fewer. If their classes are in
    order, so that they stand for some classes only, a note says so."""
    left, labels = samples, []
    for batch in task.batches("train", batch_size=min(batch_size, samples)):
        size = count(batch)
        if size > left:
            batch, size = part(batch, left), left
        labels.append(_classes(task, batch, size))
        yield batch, size
        left -= size
        if left == 0:
            break
    known = [own for own in labels if own is not None]
    if known and len(known) == len(labels):
        _tell_if_in_order(task, torch.cat(known))


def _classes(task: Network, batch: Batch, size: int) -> Tensor | None:
    """(B,) labels of classes; None where a model has none, or only by its own loss."""
    if task.model.outputs_are() != "categorical":
        return None
    try:
        labels = task.model.labels(batch)
    except (BadInput, LookupError, TypeError, ValueError, RuntimeError):
        return None
    single = isinstance(labels, Tensor) and labels.shape == (size,) and not labels.is_floating_point()
    return labels.detach().cpu() if single else None


def _tell_if_in_order(task: Network, labels: Tensor) -> None:
    steps = labels.long().diff()
    if len(labels) < _TELLING or not (bool((steps >= 0).all()) or bool((steps <= 0).all())):
        return
    first, last = int(labels[0]), int(labels[-1])
    found = f"all of class {first}" if first == last else f"in the order of their classes, {first} to {last}"
    warnings.warn(
        f"model '{task.model.name}': the first {len(labels)} training samples are {found}, and sensitivities are "
        "estimated from these: let the training split be shuffled, also where no seed is given",
        Note,
        stacklevel=3,
    )
