"""Checks whether a network can be compressed, as soon as it is loaded. Errors are one line."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nqbench.api import BadInput
from nqbench.api.errors import Note
from nqbench.api.modules import unmaterialized
from nqbench.api.source import LARGEST_WEIGHT, SMALLEST_WEIGHT
from nqbench.container.header import DTYPES

Nonfinite = Literal["refuse", "store"]


def check_state(model: str, module: nn.Module) -> None:
    """Raises BadInput for the first entry of the state that cannot be stored in a file, and for a parameter that the
    state does not have."""
    state = module.state_dict(keep_vars=True)
    for name, value in state.items():
        reason = objection(value)
        if reason:
            raise BadInput(f"model '{model}': '{name}' {reason}")
    _check_there(model, module, state.values())
    _check_apart(model, module)


def _check_there(model: str, module: nn.Module, state: Iterable[Tensor]) -> None:
    """Raises BadInput for the first parameter of whose memory no entry of the state is: what is written into a copy
    does not reach the network."""
    known = {tensor.untyped_storage().data_ptr() for tensor in state}
    for name, tensor in module.named_parameters():
        if tensor.numel() and tensor.untyped_storage().data_ptr() not in known:
            raise BadInput(
                f"model '{model}': state_dict() gives copies, or leaves out '{name}' (a hook, or a method of the "
                "network's own): let it give the parameters themselves"
            )


def _check_apart(model: str, module: nn.Module) -> None:
    """Raises BadInput for the first two parameters that share some of their numbers, and are not the same: what one
    becomes, the other becomes, and a file would hold two."""
    known: dict[int, list[tuple[str, Tensor]]] = {}
    for name, tensor in module.named_parameters():
        if tensor.numel():
            for other, earlier in known.setdefault(tensor.untyped_storage().data_ptr(), []):
                if _overlap(earlier, tensor):
                    raise BadInput(
                        f"model '{model}': '{other}' and '{name}' share memory, as transposed or partial views do: "
                        "let one parameter be used in both places, or give each its own (clone)"
                    )
            known[tensor.untyped_storage().data_ptr()].append((name, tensor))


def _extent(tensor: Tensor) -> tuple[int, int]:
    """The first byte of its storage that it has, and the one after the last."""
    last = sum((int(size) - 1) * int(step) for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    start = int(tensor.storage_offset())
    return start * tensor.itemsize, (start + last + 1) * tensor.itemsize


def _overlap(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one storage have a number in common, unless all of them, in the same places."""
    places = [(t.storage_offset(), t.shape, t.stride(), t.dtype) for t in (one, other)]
    (first, end), (second, last) = (_extent(t) for t in (one, other))
    if places[0] == places[1] or end <= second or last <= first:
        return False
    if one.dtype != other.dtype:
        return True
    seen = torch.zeros(one.untyped_storage().nbytes() // one.itemsize, dtype=torch.bool)
    seen.as_strided(one.shape, one.stride(), one.storage_offset()).fill_(True)
    return bool(seen.as_strided(other.shape, other.stride(), other.storage_offset()).any())


def objection(value: Any) -> str:
    """Why no file can hold this entry of a state, as the end of a sentence; empty where one can."""
    if not isinstance(value, Tensor):
        return f"is a {type(value).__name__}, not a tensor: remove it from the state, only tensors can be compressed"
    if reason := unmaterialized(value):
        return reason
    if value.layout != torch.strided or value.is_quantized or value.is_nested:
        kind = "quantized" if value.is_quantized else str(value.layout).removeprefix("torch.")
        kind = "nested" if value.is_nested else kind
        return f"is {kind}, expected a plain dense tensor: convert it first"
    if value.dtype not in DTYPES:
        kind = str(value.dtype).removeprefix("torch.")
        parts = "keep its real and imaginary parts in two tensors" if value.is_complex() else "convert it first"
        return f"is {kind}, which no file holds: {parts}, or register the buffer with persistent=False"
    return ""


@dataclass(frozen=True)
class Odd:
    """The first number of a tensor that is nan, infinite, or too large to be quantized."""

    name: str
    place: tuple[int, ...]
    value: float
    quantized: bool


def odd_numbers(state: Mapping[str, Tensor], names: Sequence[str]) -> tuple[Odd, ...]:
    """The first bad number of each tensor. names: of the tensors that are quantized."""
    found = []
    for name, tensor in state.items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        largest = LARGEST_WEIGHT if name in names else torch.finfo(tensor.dtype).max
        # nan is neither smaller nor larger than anything
        low, high = (float(end) for end in tensor.detach().aminmax())
        if not (low >= -largest and high <= largest):
            place = tuple(torch.nonzero(~(tensor.detach().abs() <= largest))[0].tolist())
            found.append(Odd(name, place, float(tensor.detach()[place]), name in names))
    return tuple(found)


def note_tiny(state: Mapping[str, Tensor], names: Sequence[str]) -> None:
    """A note for the quantized tensors that have numbers, and none of a size that every quantizer can tell from 0."""
    found = []
    for name in names:
        largest = float(state[name].detach().abs().max()) if state[name].numel() else 0.0
        found += [f"'{name}' ({largest:.2g})"] if 0 < largest < SMALLEST_WEIGHT else []
    if found:
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        warnings.warn(
            f"{found[0]}{more}: no weight is larger, and some quantizers take such weights for zeros: scale them where "
            "the network needs them",
            Note,
            stacklevel=2,
        )


def check_numbers(model: str, odd: Sequence[Odd], nonfinite: Nonfinite) -> None:
    """Raises BadInput for the first number that cannot be quantized, and for nan and inf in tensors that are not
    quantized, unless ``nonfinite`` says to store them."""
    for one in odd:
        found = f"model '{model}': '{one.name}' has {one.value:g} at {list(one.place)}"
        if one.quantized:
            raise BadInput(
                f"{found}: quantized tensors must be finite, no larger than {LARGEST_WEIGHT:.2g}; mend it, "
                "or leave the tensor out of the model's compressible ones"
            )
        if nonfinite == "refuse":
            raise BadInput(
                f"{found}, and is stored without quantization: if that is intended, write 'nonfinite: store' to keep it"
            )
