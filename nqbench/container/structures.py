"""What a group of format version 2 has beside a plain form (``nqbench.api.structure``), as header and as result.

``StructureEntry`` is its declaration in the header; the arrays that it declares lie in the section ``scales``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from nqbench.api import Array, BadInput, Placed, Quantized, StreamSpec, StreamTensor, Structure
from nqbench.api.granularity import rows_of
from nqbench.api.hadamard import check_block
from nqbench.api.structure import NARROW, check_arrays

FLOATS = (torch.float32, *NARROW)
MOST_BOOKS = 64


@dataclass(frozen=True)
class StructureEntry:
    """Of a group. arrays: in the order in which they were declared."""

    dimension: int = 1
    summed: bool = False
    table: str = ""
    hadamard: int = 0
    seed: int = 0
    tile: int = 0
    arrays: tuple[tuple[str, Array], ...] = ()


def entry_of(structure: Structure) -> StructureEntry:
    s = structure
    return StructureEntry(s.dimension, s.summed, s.table, s.hadamard, s.seed, s.tile, tuple(s.arrays.items()))


def structure_of(
    entry: StructureEntry, shapes: Sequence[tuple[int, ...]], stored: Mapping[str, torch.dtype] | None = None
) -> Structure:
    """The structure of tensors of these shapes, as if nothing were pruned."""
    e = entry
    tensors = tuple(Placed(tuple(shape)) for shape in shapes)
    return Structure(
        tensors, dict(e.arrays), dict(stored or {}), e.dimension, e.summed, e.table, e.hadamard, e.seed, e.tile
    )


def placed(quantized: Quantized, shapes: Sequence[tuple[int, ...]], masks: Sequence[np.ndarray | None]) -> Quantized:
    """With a structure of just these tensors, if it has one."""
    if quantized.structure is None:
        return quantized
    tensors = tuple(
        Placed(tuple(shape), None if mask is None else torch.from_numpy(mask))
        for shape, mask in zip(shapes, masks, strict=True)
    )
    return replace(quantized, structure=replace(quantized.structure, tensors=tensors))


def code_dtype(codes: int) -> torch.dtype:
    """In which codes of an array are kept."""
    return torch.uint8 if codes <= 256 else torch.int32


def check_declared(structure: Structure) -> None:
    """Raises BadInput for a declaration that no decoder could follow, whatever the arrays hold."""
    check_arrays(structure)
    if structure.hadamard:
        check_block(structure.hadamard)
    if structure.tile:
        check_block(structure.tile)
        if not structure.hadamard:
            raise BadInput("tiles of rows without a transform along the rows")
    if not 0 <= structure.seed < 1 << 63:
        raise BadInput("the seed is not an integer in [0, 2^63)")


def complaint(structure: Structure, arrays: Mapping[str, tuple[torch.dtype | None, tuple[int, ...]]]) -> str:
    """What is wrong with a declaration or with its arrays' types and sizes; empty if nothing is."""
    try:
        check_declared(structure)
        for name in structure.array_names():
            dtype, shape = arrays.get(name, (None, ()))
            codes = structure.arrays[name].codes if name in structure.arrays else 0
            wanted = (code_dtype(codes),) if codes else FLOATS
            if dtype not in wanted:
                return f"the array '{name}' is missing, or of another type than {wanted[0]}"
            if shape != (structure.entries(name),):
                return f"the array '{name}' has the shape {shape}, these tensors have {structure.entries(name)} entries"
    except BadInput as error:
        return str(error)
    return ""


# -- an array as coded streams ---------------------------------------------------------------------------------------
def array_spec(structure: Structure, name: str, names: Sequence[str]) -> StreamSpec:
    """What a coder is told of an array's codes, or of one byte of its floats: a symbol an entry, a tensor's in rows
    where they are by block."""
    array = structure.arrays.get(name)
    codes = array.codes if array is not None else 0
    count = structure.entries(name)
    per = array.per if array is not None else structure.arrays[name.removesuffix("_unit")].unit
    tensors, at = [], 0
    if per.by != "global":
        for tensor, shape in zip(names, structure.shapes, strict=True):
            entries = per.entries(shape)
            own = (rows_of(shape)[0], entries // rows_of(shape)[0]) if per.by == "group" and entries else (entries,)
            tensors.append(StreamTensor(tensor, own, at, at + entries))
            at += entries
    return StreamSpec(count, codes or 256, ordered=True, tensors=tuple(tensors))


def as_symbols(entries: Tensor, codes: int) -> list[np.ndarray]:
    """The streams of an array: its codes, or the bytes of its floats, the most significant ones first."""
    flat = entries.detach().cpu().contiguous().reshape(-1)
    if codes:
        return [flat.to(torch.int32).numpy()]
    planes = flat.view(torch.uint8).numpy().reshape(-1, flat.element_size())
    return [np.ascontiguousarray(planes[:, byte], dtype=np.int32) for byte in reversed(range(planes.shape[1]))]


def from_symbols(streams: Sequence[np.ndarray], dtype: torch.dtype) -> Tensor:
    """The inverse of ``as_symbols``: (E,) of this dtype."""
    if dtype in (torch.uint8, torch.int32):
        return torch.from_numpy(streams[0].astype(np.uint8 if dtype == torch.uint8 else np.int32))
    planes = np.stack([stream.astype(np.uint8) for stream in reversed(streams)], axis=1)
    return torch.from_numpy(np.ascontiguousarray(planes)).view(dtype).reshape(-1)
