"""The header of a ``.nqz`` file as data, and the limits of what it may say. ``nqbench.container`` specifies it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from nqbench.api.granularity import rows_of
from nqbench.container.structures import StructureEntry

MAGIC = b"NQZ"
VERSIONS = (1, 2)
SECTIONS = ("codebook", "scales", "coder_table", "positions", "symbols", "raw_parameters", "raw_buffers")
DTYPES = (
    torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64,
    torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
)  # fmt: skip
CODES = torch.quint8
"""Stands for floats as eight-bit codes (``nqbench.container.raw``)."""
STORED = (*DTYPES, CODES)
SINCE_2 = ("scales",)
"""Sections that a file of version 1 does not list."""
FORMS = ("lookup", "grid", "dithered", "plugin", "dithered-grid")
STREAMS = ("joint", "per-group", "per-tensor")
QUANTIZED, PARAMETER, BUFFER, ALIAS, CODED = range(5)
CONSTANT = 8  # added to PARAMETER or BUFFER: one element stands for all

MAX_HEADER = 1 << 22  # bytes, inflated: deflate can shrink a thousandfold what a reader then has to walk through
MAX_TENSORS = 1 << 16
MAX_NAMES = 1 << 24  # bytes of all tensor names together, once their shared prefixes are expanded
MAX_ARRAYS = 64  # of one group
MAX_ALPHABET = 1 << 24
MAX_RANK = 32
MAX_ELEMENTS = 1 << 48

# Common words of state dicts: the preset dictionary of the header's deflate stream. Part of the format.
DICTIONARY = (
    b'{"}nqbenchlookupsensitivityzerostepcodebookkmeansuniformhuffmanlzwbzip2'
    b"embeddingattentionin_proj_weightout_projencoderdecodernormblocksfeaturesclassifierheadfcdownsample"
    b".num_batches_tracked.running_var.running_mean.bias.weightlinearlayer1.0.bn1.bn2.conv2.conv1.weight"
)


@dataclass(frozen=True)
class PluginRef:
    """Which plugin, with which parameters, from which distribution; all empty where there is none."""

    name: str = ""
    json: str = ""
    distribution: str = ""
    version: str = ""


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of the state. kind: QUANTIZED, PARAMETER, BUFFER (these two perhaps + CONSTANT), ALIAS or CODED.

    dtype: as deployed. stored: as written (raw ones). group, masked: of a quantized one. target: of an alias.
    """

    name: str
    kind: int
    shape: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32
    stored: torch.dtype = torch.float32
    group: int = 0
    masked: bool = False
    target: int = 0

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class ArrayEntry:
    """A named array or number of a group. dtype None: a 63-bit integer if ``number`` is int, else a float64."""

    name: str
    parameter: bool
    dtype: torch.dtype | None = None
    shape: tuple[int, ...] = ()
    integer: bool = False


@dataclass(frozen=True)
class GroupEntry:
    """One quantizer's result. inserted: the symbol that was inserted for pruned weights, or None. structure: what it
    has beside a plain form of version 1."""

    form: str
    alphabet: int
    arrays: tuple[ArrayEntry, ...] = ()
    inserted: int | None = None
    structure: StructureEntry | None = None


@dataclass(frozen=True)
class StreamEntry:
    """Bytes that one coded stream takes in the sections ``coder_table`` and ``symbols``."""

    table: int
    payload: int


@dataclass(frozen=True)
class PositionsEntry:
    """The stream of positions: its table and payload follow one another in the section ``positions``."""

    count: int
    alphabet: int
    table: int
    payload: int


@dataclass(frozen=True)
class Header:
    producer: str
    quantizer: PluginRef
    coder: PluginRef
    codec: PluginRef
    positions: PluginRef
    positions_coder: PluginRef
    tensors: tuple[TensorEntry, ...]
    groups: tuple[GroupEntry, ...]
    stream_mode: str
    streams: tuple[StreamEntry, ...]
    positions_entry: PositionsEntry | None
    sections: tuple[int, ...]
    """Bytes of each of ``SECTIONS``, without its checksum."""

    @property
    def version(self) -> int:
        """The oldest version that can say it."""
        return 2 if any(group.structure is not None for group in self.groups) else 1

    @property
    def plugins(self) -> tuple[PluginRef, ...]:
        return (self.quantizer, self.coder, self.codec, self.positions, self.positions_coder)

    def decoded_bytes(self) -> int:
        """What the decoded state takes in memory, at 4 bytes or more an element; of a sum of codewords, its symbols, if
        they take more."""
        return sum(
            max(t.dtype.itemsize * t.numel, 4 * t.numel, 4 * self._summed(t)) for t in self.tensors if t.kind != ALIAS
        )

    def _summed(self, tensor: TensorEntry) -> int:
        """At most so many symbols of several a vector; 0 where a vector has one, and so at least a weight."""
        group = self.groups[tensor.group] if tensor.kind == QUANTIZED else None
        if group is None or group.structure is None or not group.structure.summed or not tensor.numel:
            return 0
        books = max((a.shape[0] for a in group.arrays if a.name == "codebook" and len(a.shape) == 3), default=1)
        rows, length = rows_of(tensor.shape)
        return books * rows * -(-length // group.structure.dimension)
