"""What the base forms of ``nqbench.api.quantized`` may look like in a file, and what a coder is told of them.

A quantizer may return more than a file can hold, and a damaged file may hold more than a quantizer can return: both
are refused here, by the writer and by the reader, with the same words.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nqbench.api import BadInput, Quantized, Structure
from nqbench.api.formula import has_zero
from nqbench.api.quantized import DITHERED, GRIDS
from nqbench.api.structure import ARRAYS, NARROW, UNIT
from nqbench.api.tables import check_rule
from nqbench.container.header import MAX_ALPHABET
from nqbench.container.structures import MOST_BOOKS, check_declared


def check_form(quantized: Quantized, tensors: int) -> None:
    """Raises BadInput where a group of ``tensors`` tensors could not be read back by its form."""
    alphabet = quantized.alphabet
    if not 1 <= alphabet <= MAX_ALPHABET:
        raise BadInput(f"an alphabet of {alphabet} symbols; 1 to 2^24 are possible")
    codebook = _find(quantized, "codebook")
    if quantized.structure is not None:
        check_structured(quantized, quantized.structure, tensors)
        return
    if quantized.form == "plugin":
        if isinstance(codebook, Tensor) and codebook.dim() == 2 and not codebook.shape[1]:
            raise BadInput("a codebook of vectors without an element")
        return
    if quantized.form in GRIDS:
        if codebook is not None:
            raise BadInput("a grid has no codebook")
        offset = quantized.side.get("offset")
        if isinstance(offset, Tensor):
            raise BadInput("the offset is not a number")
        _finite("offset", offset)
        _per_tensor("step", _find(quantized, "step"), tensors)
        if quantized.form == "dithered-grid":
            _seed(quantized)
        return
    if not isinstance(codebook, Tensor) or codebook.dim() not in (1, 2) or not math.prod(codebook.shape[1:]):
        raise BadInput("the codebook is not an array of numbers or vectors")
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
            raise BadInput("the dither_step is not a number")
        _finite("dither_step", step)


def is_ordered(quantized: Quantized) -> bool:
    """Whether larger symbols stand for larger values: a grid's do, and those of a strictly rising codebook (k,)."""
    # a grid's table may have 2^24 entries for a few bytes of the file: it is not made
    return quantized.form in GRIDS or quantized.ordered


def zero_of(quantized: Quantized) -> int | None:
    """The symbol that deploys as exactly 0, if there is one: the first such; none of vectors and dithered forms."""
    if quantized.structure is not None and not has_zero(quantized, quantized.structure):
        return None
    if quantized.form != "grid":
        return None if quantized.form in DITHERED else quantized.zero
    place = -_float32(quantized.side["offset"])
    return int(place) if place.is_integer() and 0 <= place < quantized.alphabet else None


def one_symbol_a_weight(quantized: Quantized) -> bool:
    """Whether pruned weights could have symbols of their own."""
    return quantized.dimension == 1 and quantized.books == 1


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


def check_structured(quantized: Quantized, structure: Structure, tensors: int) -> None:
    """The same of a result with a structure."""
    check_declared(structure)
    if len(structure.tensors) != tensors:
        raise BadInput(f"a structure of {len(structure.tensors)} tensors for {tensors}")
    present = {name for name in (*quantized.parameters, *quantized.side) if name.removesuffix(UNIT) in ARRAYS}
    undeclared = sorted(present - set(structure.array_names()))
    if undeclared and quantized.form != "plugin":
        raise BadInput(f"the array '{undeclared[0]}' is not declared in the structure")
    for name in structure.array_names():
        _entries(quantized, structure, name)
    for name, dtype in structure.stored.items():
        if name not in quantized.parameters or dtype not in NARROW:
            raise BadInput(f"'{name}' is no parameter that could be stored as {dtype}")
        if not bool(torch.isfinite(quantized.parameters[name].to(dtype)).all()):
            raise BadInput(f"'{name}' is not finite as {dtype}")
    if quantized.form == "plugin":
        return
    grid = quantized.form in GRIDS
    if ("scale" if grid else "step") in structure.arrays:
        raise BadInput("the scale of a grid is 'step', that of a table 'scale'")
    if grid:
        _grid(quantized, structure)
    else:
        _codebooks(quantized, structure)
    if quantized.form in DITHERED:
        _seed(quantized)
    if quantized.form == "dithered":
        step = quantized.side.get("dither_step")
        if isinstance(step, Tensor):
            raise BadInput("the dither_step is not a number")
        _finite("dither_step", step)
        if quantized.books > 1:
            raise BadInput("a dither cannot be combined with several codebooks")


def _grid(quantized: Quantized, structure: Structure) -> None:
    offset = quantized.side.get("offset")
    if structure.dimension != 1 or structure.summed or structure.table or _find(quantized, "codebook") is not None:
        raise BadInput("a grid has no codebook, and one symbol per weight")
    if isinstance(offset, Tensor):
        raise BadInput("the offset is not a number")
    _finite("offset", offset)


def _codebooks(quantized: Quantized, structure: Structure) -> None:
    codebook, d = _find(quantized, "codebook"), structure.dimension
    if structure.table:
        if codebook is not None or structure.summed:
            raise BadInput("a codebook cannot be combined with a table that is given by a rule")
        check_rule(structure.table, quantized.alphabet, d)
        return
    if not isinstance(codebook, Tensor) or codebook.dim() not in (1, 2, 3):
        raise BadInput("the codebook is not an array of numbers or vectors")
    if (codebook.shape[-1] if codebook.dim() > 1 else 1) != d:
        raise BadInput(f"a codebook of the shape {tuple(codebook.shape)} for vectors of {d}")
    if (codebook.shape[0] if codebook.dim() == 1 else codebook.shape[-2]) != quantized.alphabet:
        raise BadInput(f"a codebook of the shape {tuple(codebook.shape)} for {quantized.alphabet} symbols")
    if (codebook.dim() == 3) != (quantized.books > 1) or quantized.books > MOST_BOOKS:
        raise BadInput(f"{quantized.books} codebooks; 2 to {MOST_BOOKS} are possible where there are several")
    if structure.summed and quantized.books == 1:
        raise BadInput("a sum needs at least two codebooks, and there is one")
    if quantized.books * quantized.alphabet > MAX_ALPHABET:
        raise BadInput("the codebooks have more than 2^24 entries")
    _finite("codebook", codebook)


def _entries(quantized: Quantized, structure: Structure, name: str) -> None:
    """Of an array, or of its units: as many as the tensors have, finite, codes within their range."""
    value = _find(quantized, name)
    if not isinstance(value, Tensor):
        raise BadInput(f"the array '{name}' is missing, or is not a tensor")
    if value.numel() != structure.entries(name):
        raise BadInput(f"{value.numel()} entries of '{name}', these tensors have {structure.entries(name)}")
    codes = structure.arrays[name].codes if name in structure.arrays else 0
    if not codes:
        if not value.dtype.is_floating_point:
            raise BadInput(f"the array '{name}' is {value.dtype}, no float")
        _finite(name, value)
    elif value.dtype.is_floating_point or name in quantized.parameters:
        raise BadInput(f"the array '{name}' is of codes, and no integers of the side information")
    elif value.numel() and not 0 <= int(value.min()) <= int(value.max()) < codes:
        raise BadInput(f"a code of '{name}' lies outside [0, {codes})")


def _seed(quantized: Quantized) -> None:
    seed = quantized.side.get("seed")
    if not isinstance(seed, int) or not 0 <= seed < 1 << 63:
        raise BadInput("the seed is not an integer in [0, 2^63)")


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
