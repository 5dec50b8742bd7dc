"""Moving the factors of input channels from the file into the preceding layer [AWQ, 2306.00978, section 3.2;
SmoothQuant, 2211.10438, section 4; 1906.04721].

A quantizer that equalizes (``awq``) stores a factor e_c for each input channel of a weight, whose value is then q_oc
e_c. If the channel's activation comes from a norm or a layer whose parameters scale it
(``nqbench.api.toolkit.neighbours``), these are multiplied by e_c and the weight becomes q_oc: the network computes the
same, and the factors cost no bytes. If several weights read the same activation, all of them must have the same factors
(with a fixed ``exponent`` of ``awq`` they do, as their inputs are the same). Otherwise the factors stay in the file. If
the preceding layer is quantized itself, its scales per channel or block are multiplied by the factors, provided that
they are stored as floats, and rounded to their dtype. Distortions in the record are then those of the rescaled weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from nqbench.api import Group, QuantizedModel, Task, Training, begin
from nqbench.api.modules import evaluating
from nqbench.api.toolkit.neighbours import Neighbours, neighbours
from nqbench.api.toolkit.samples import first_samples

T = TypeVar("T")
_SCALES = ("scale", "step")


class Fold(Training, name="fold", paper="arXiv:2306.00978, section 3.2; arXiv:2211.10438"):
    """Moves stored factors of input channels into the preceding norm or layer, where one can take them."""

    def train(self, task: Task, start: QuantizedModel | None) -> QuantizedModel:
        start = begin(task, start)
        groups = {g.names[0]: g for g in start.groups if len(g.names) == 1}
        waiting = {name: e for name, g in groups.items() if (e := _factors(g)) is not None}
        if not waiting:
            return start
        raw = dict(start.raw_state)
        for pair in self._neighbours(task, list(waiting)):
            factors = waiting[pair.consumers[0]]
            if any(not torch.equal(waiting[name], factors) for name in pair.consumers):
                continue
            scaled = _scaled(pair.producers, factors, groups, raw)
            if scaled is None:
                continue
            groups |= scaled[0] | {name: _without(scaled[0].get(name, groups[name])) for name in pair.consumers}
            raw |= scaled[1]
        after = tuple(groups.get(g.names[0], g) if len(g.names) == 1 else g for g in start.groups)
        return QuantizedModel(after, raw, start.notes)

    @staticmethod
    def _neighbours(task: Task, names: list[str]) -> list[Neighbours]:
        batch = next(batch for batch, _ in first_samples(task, 2))
        with evaluating(task.module):
            return neighbours(task.module, names, lambda: task.predict(batch))


def _factors(group: Group) -> Tensor | None:
    """(inputs,) factors of a weight's second axis, with the values that a decoder has."""
    structure = group.quantized.structure
    array = structure.arrays.get("equalize") if structure is not None else None
    if structure is None or array is None or array.codes or (array.per.by, array.per.size) != ("channel", 1):
        return None
    found = group.quantized.find("equalize")
    assert isinstance(found, Tensor)
    dtype = structure.stored.get("equalize")
    return found.detach() if dtype is None else found.detach().to(dtype).float()


def _without(group: Group) -> Group:
    """The group without its factors."""
    q = group.quantized
    assert q.structure is not None

    def rest(of: Mapping[str, T]) -> dict[str, T]:
        return {name: value for name, value in of.items() if name != "equalize"}

    structure = replace(q.structure, arrays=rest(q.structure.arrays), stored=rest(q.structure.stored))
    q = replace(q, parameters=rest(q.parameters), side=rest(q.side), held=rest(q.held), structure=structure)
    return Group(group.names, q)


def _scaled(
    producers: tuple[str, ...], factors: Tensor, groups: Mapping[str, Group], raw: Mapping[str, Tensor]
) -> tuple[dict[str, Group], dict[str, Tensor]] | None:
    """The groups and raw tensors with their first axes multiplied by the factors; None if that is impossible for one of
    them."""
    changed: dict[str, Group] = {}
    plain: dict[str, Tensor] = {}
    for name in producers:
        if name in raw and raw[name].shape[:1] == factors.shape:
            value = raw[name]
            plain[name] = value * factors.to(value).reshape(-1, *[1] * (value.dim() - 1))
        elif name in groups and (group := _by_rows(groups[name], factors)) is not None:
            changed[name] = group
        else:
            return None
    return changed, plain


def _by_rows(group: Group, factors: Tensor) -> Group | None:
    """The group with its scales per row multiplied by the factors; None if it has no such scales, or they would not be
    finite."""
    q = group.quantized
    if q.structure is None or q.structure.hadamard or q.structure.shapes[0][:1] != tuple(factors.shape):
        return None
    name = next((name for name in _SCALES if name in q.structure.arrays), "")
    array = q.structure.arrays.get(name)
    if array is None or array.codes or q.structure.arrays.keys() & {"shift"} or name not in q.parameters:
        return None
    if array.per.by != "group" and (array.per.by, array.per.size) != ("channel", 0):
        return None
    scale = q.parameters[name]
    scaled = (scale.reshape(len(factors), -1) * factors[:, None]).reshape(scale.shape)
    as_written = scaled.to(q.structure.stored.get(name, scaled.dtype))
    limits = torch.finfo(as_written.dtype)
    size = as_written.float().abs()
    if not bool(((size <= limits.max) & ((size >= limits.smallest_normal) | (scale == 0))).all()):
        return None
    return Group(group.names, replace(q, parameters={**q.parameters, name: scaled}))
