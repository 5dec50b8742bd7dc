"""What the base forms of ``nqbench.api.quantized`` may look like in a file, and what a coder is told of them.

A quantizer may return more than a file can hold, and a damaged file may hold more than a quantizer can return: both
are refused here, by the writer and by the reader, with the same words.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nqbench.api import BadInput, Quantized
from nqbench.api.quantized import DITHERED, GRIDS
from nqbench.container.header import MAX_ALPHABET


def check_form(quantized: Quantized, tensors: int) -> None:
    """Raises BadInput where a group of ``tensors`` tensors could not be read back by its form."""
    alphabet = quantized.alphabet
    if not 1 <= alphabet <= MAX_ALPHABET:
        raise BadInput(f"an alphabet of {alphabet} symbols; 1 to 2^24 are possible")
    codebook = _find(quantized, "codebook")
    if quantized.form == "plugin":
        if isinstance(codebook, Tensor) and codebook.dim() == 2 and not codebook.shape[1]:
            raise BadInput("a codebook of vectors without an element")
        return
    if quantized.form in GRIDS:
        if codebook is not None:
            raise BadInput("a grid has no codebook")
        offset = quantized.side.get("offset")
        if isinstance(offset, Tensor):
            raise BadInput("the offset is no number")
        _finite("offset", offset)
        _per_tensor("step", _find(quantized, "step"), tensors)
        if quantized.form == "dithered-grid":
            _seed(quantized)
        return
    if not isinstance(codebook, Tensor) or codebook.dim() not in (1, 2) or not math.prod(codebook.shape[1:]):
        raise BadInput("the codebook is no array of numbers or vectors")
    if codebook.shape[0] != alphabet:
        raise BadInput(f"a codebook of {codebook.shape[0]} entries for {alphabet} symbols")
    _finite("codebook", codebook)
    scale = _find(quantized, "scale")
    if scale is not None:
        _per_tensor("scale", scale, tensors)
    if quantized.form == "dithered":
        _seed(quantized)
        step = quantized.side.get("dither_step")
        if isinstance(step, Tensor):
            raise BadInput("the dither_step is no number")
        _finite("dither_step", step)


def is_ordered(quantized: Quantized) -> bool:
    """Whether larger symbols stand for larger values: a grid's do, and those of a strictly rising codebook (k,)."""
    # a grid's table may have 2^24 entries for a few bytes of the file: it is not made
    return quantized.form in GRIDS or quantized.ordered


def zero_of(quantized: Quantized) -> int | None:
    """The symbol that deploys as exactly 0, if there is one: the first such; none of vectors and dithered forms."""
    if quantized.form != "grid":
        return None if quantized.form in DITHERED else quantized.zero
    place = -_float32(quantized.side["offset"])
    return int(place) if place.is_integer() and 0 <= place < quantized.alphabet else None


def place_for_zero(quantized: Quantized) -> int | None:
    """The symbol to insert for pruned weights: None if one deploys as 0 already, else the one that keeps the order."""
    if zero_of(quantized) is not None:
        return None
    if quantized.form in GRIDS:
        return min(max(math.ceil(-_float32(quantized.side["offset"])), 0), quantized.alphabet)
    table = quantized.table
    if table is None or not quantized.ordered:
        return quantized.alphabet
    return int((table < 0).sum())


def _seed(quantized: Quantized) -> None:
    seed = quantized.side.get("seed")
    if not isinstance(seed, int) or not 0 <= seed < 1 << 63:
        raise BadInput("the seed is no integer in [0, 2^63)")


def _find(quantized: Quantized, name: str) -> Tensor | int | float | None:
    return quantized.parameters[name] if name in quantized.parameters else quantized.side.get(name)


def _float32(value: Tensor | int | float) -> float:
    return float(torch.tensor(float(value), dtype=torch.float32))


def _finite(name: str, value: Tensor | int | float | None) -> None:
    """Finite as float32, in which all values are computed."""
    if value is None:
        raise BadInput(f"the {name} is missing")
    # torch would warn of an integer that no float64 holds; side integers have 64 bits at most
    whole = value.to(torch.float32) if isinstance(value, Tensor) else torch.tensor(float(value), dtype=torch.float32)
    if not bool(torch.isfinite(whole).all()):
        raise BadInput(f"the {name} is not finite")


def _per_tensor(name: str, value: Tensor | int | float | None, tensors: int) -> None:
    _finite(name, value)
    count = value.numel() if isinstance(value, Tensor) else 1
    if count not in (1, tensors):
        raise BadInput(f"{count} entries of the {name} for {tensors} tensors")
