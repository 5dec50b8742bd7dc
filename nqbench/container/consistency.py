"""What one field of a header says of another: the fields of a header that passes agree with each other.

Writer and reader both ask, so that nothing is written that could not be read.
"""

from __future__ import annotations

from nqbench.api import CorruptFile
from nqbench.container.header import ALIAS, BUFFER, CODED, CONSTANT, PARAMETER, QUANTIZED, SECTIONS, Header, TensorEntry
from nqbench.container.raw import is_codes, is_raw, raw_bytes
from nqbench.container.structures import complaint, structure_of


def check(header: Header) -> None:
    """Raises CorruptFile(section ``header``)."""
    for find in (_tensors, _groups, _plugins, _streams, _sections):
        complaint = find(header)
        if complaint:
            raise CorruptFile(complaint, section="header")


def _tensors(header: Header) -> str:
    for tensor in header.tensors:
        if tensor.kind == ALIAS and header.tensors[tensor.target].kind == ALIAS:
            return f"tensor '{tensor.name}' is an alias of an alias"
        if tensor.kind in (QUANTIZED, CODED) and not tensor.dtype.is_floating_point:
            return f"tensor '{tensor.name}' is quantized and deployed as {tensor.dtype}, which is no float"
        both = tensor.dtype.is_floating_point and tensor.stored.is_floating_point
        if is_raw(tensor) and tensor.stored != tensor.dtype and not both and not _is_codes(tensor):
            return f"tensor '{tensor.name}' is stored as {tensor.stored} and deployed as {tensor.dtype}"
        if tensor.kind & CONSTANT and not tensor.numel:
            return f"tensor '{tensor.name}' has no element, and one stored"
        if tensor.kind & CONSTANT and _is_codes(tensor):
            return f"tensor '{tensor.name}' is a constant, and stored as codes of a range"
        if tensor.kind == QUANTIZED and tensor.group >= len(header.groups):
            return f"tensor '{tensor.name}' is of group {tensor.group}, there are {len(header.groups)}"
    return ""


def _groups(header: Header) -> str:
    shapes: list[list[tuple[int, ...]]] = [[] for _ in header.groups]
    for tensor in header.tensors:
        if tensor.kind == QUANTIZED:
            shapes[tensor.group].append(tensor.shape)
    merging = {tensor.group for tensor in header.tensors if tensor.masked and header.positions_entry is None}
    for index, group in enumerate(header.groups):
        if not shapes[index]:
            return f"group {index} has no tensor"
        names = [array.name for array in group.arrays]
        if len(set(names)) != len(names):
            return f"group {index} has two arrays of one name"
        if group.inserted is not None and index not in merging:
            return f"group {index} has a symbol inserted for pruned weights, and none merged"
        if group.structure is not None:
            arrays = {array.name: (array.dtype, array.shape) for array in group.arrays}
            found = complaint(structure_of(group.structure, shapes[index]), arrays)
            if found:
                return f"group {index}: {found}"
    return ""


def _plugins(header: Header) -> str:
    coded = any(tensor.kind == CODED for tensor in header.tensors)
    masked = any(tensor.masked for tensor in header.tensors)
    groups = bool(header.groups)
    entry = header.positions_entry is not None
    needed = (("quantizer", header.quantizer, groups, groups), ("coder", header.coder, groups, groups),
              ("codec", header.codec, coded, not groups), ("positions", header.positions, masked, masked),
              ("positions' own coder", header.positions_coder, False, entry))  # fmt: skip
    for kind, plugin, must, may in needed:
        if must and not plugin.name:
            return f"the {kind} has no name"
        if plugin.name and not may:
            return f"the {kind} '{plugin.name}' has nothing to do"
    if entry and not masked:
        return "positions of no tensor"
    if groups and coded:
        return "tensors of a codec beside quantized ones"
    return ""


def _streams(header: Header) -> str:
    quantized = sum(tensor.kind == QUANTIZED for tensor in header.tensors)
    groups = len(header.groups)
    expected = {"joint": min(groups, 1), "per-group": groups, "per-tensor": quantized}[header.stream_mode]
    if header.codec.name:
        expected = 1
        if any(stream.table for stream in header.streams):
            return "a codec has no table"
    found = len(header.streams)
    return "" if found == expected else f"{found} streams, {expected} expected"


def _sections(header: Header) -> str:
    by_name = dict(zip(SECTIONS, header.sections, strict=True))
    tables, payloads = sum(s.table for s in header.streams), sum(s.payload for s in header.streams)
    if tables != by_name["coder_table"] or payloads != by_name["symbols"]:
        return "the streams do not add up to their sections"
    entry = header.positions_entry
    if (entry.table + entry.payload if entry else 0) != by_name["positions"]:
        return "the positions do not add up to their section"
    for base, name in ((PARAMETER, "raw_parameters"), (BUFFER, "raw_buffers")):
        size = sum(raw_bytes(t) for t in header.tensors if is_raw(t) and t.kind & ~CONSTANT == base)
        if size != by_name[name]:
            return f"section '{name}' has {by_name[name]} bytes, its tensors have {size}"
    if not header.groups and by_name["codebook"]:
        return "a codebook of no group"
    if by_name["scales"] and not any(g.structure and g.structure.arrays for g in header.groups):
        return "scales of no group"
    return ""


def _is_codes(tensor: TensorEntry) -> bool:
    return is_raw(tensor) and is_codes(tensor.stored, tensor.dtype)
