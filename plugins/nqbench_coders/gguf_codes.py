"""Lossless compression of the codes of a GGUF file: llama.cpp stores them in fixed numbers of bits, here they are
entropy-coded.

A network loaded from a GGUF file computes with the dequantized values. For each given tensor, this codec finds the
tensor of the file with bitwise equal values, and writes the components of its blocks: codes, which are levels, codes of
scales and minima in super-blocks (k-quants), and the units d and m. The values, and the file's own bytes, can be
restored exactly (``blocks_of``). Tensors that the file does not store in blocks, such as norms, are coded by
``lossless``; so are those in blocks of types that it cannot read, and it says so.

Bitstream
=========
``int`` is that of the file's specification (unsigned LEB128). For each tensor, in order, ``u8``: 0 if it has no blocks,
else 1 + the number of its type: q4_0, q4_1, q5_0, q5_1, q8_0, q2_k, q3_k, q4_k, q5_k, q6_k. Then for each of these that
occurs, in this order, its streams, each ``int`` bytes of its table, ``int`` bytes of its payload, and both, by the
coder in the file's parameters: codes, of the alphabet 2^bits; of a k-quant the codes of scales and, with a minimum,
those of minima; the upper bytes of d, the lower ones; with a minimum, those of m. The coder is told of all tensors of
the type: of codes in their shapes, of the others in the shape (rows, such numbers of a row). A stream's symbols are the
tensors', one after another. The rest is a stream of ``lossless`` for the others.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import numpy as np

from nqbench.api import BadInput, Codec, CorruptFile, Note, Stream, StreamSpec, StreamTensor
from nqbench.api.toolkit.bits import ByteReader
from nqbench.api.toolkit.gguf import Entry, entries_of
from nqbench.api.toolkit.gguf_blocks import TYPES, Blocks, BlockType, Part
from nqbench_coders.inner_stream import Inner, inner_coder, read_stream, write_stream
from nqbench_coders.lossless import Lossless

Shapes = Mapping[str, tuple[int, ...]]


class GGUFCodes(Codec, name="gguf", paper="https://github.com/ggml-org/ggml/blob/master/docs/gguf.md"):
    """The blocks of a GGUF file bit for bit, with their codes entropy-coded."""

    file: str = ""
    """The GGUF file that the network came from, which compressing reads: a path, or ``PACKAGE:FILE`` for one in the
    folder of an installed package. Empty: none; all goes through ``lossless``."""
    coder: Inner = "context"
    """What codes and units go through: ``context`` for the fewest bytes, ``rans`` for speed."""

    exact: ClassVar[bool] = True

    def compress(self, tensors: Mapping[str, np.ndarray], seed: int) -> bytes:
        found = self._found(tensors)
        out = bytes(1 + TYPES.index(found[name].kind) if name in found else 0 for name in tensors)
        for kind in TYPES:
            own = {name: blocks for name, blocks in found.items() if blocks.kind == kind}
            if not own:
                continue
            shapes = {name: tensors[name].shape for name in own}
            arrays = [
                plane
                for name, part in kind.parts.items()
                for plane in _planes(part, np.concatenate([b.numbers[name].reshape(-1) for b in own.values()]))
            ]
            for array, spec in zip(arrays, _specs(kind, shapes), strict=True):
                out += write_stream(inner_coder(self.coder), Stream(array, spec))
        others = {name: array for name, array in tensors.items() if name not in found}
        return out + Lossless(coder=self.coder).compress(others, seed)

    def decompress(self, data: bytes, shapes: Shapes) -> Mapping[str, np.ndarray]:
        blocks, rest, offset = self._read(data, shapes)
        others = {name: shape for name, shape in shapes.items() if name not in blocks}
        try:
            back = dict(Lossless(coder=self.coder).decompress(rest, others))
        except CorruptFile as error:
            raise CorruptFile(error.reason, offset=offset) from None
        return {
            name: blocks[name].values().reshape(shape) if name in blocks else back[name]
            for name, shape in shapes.items()
        }

    def blocks_of(self, data: bytes, shapes: Shapes) -> dict[str, bytes]:
        """The GGUF file's own bytes of every tensor that it has in blocks, by the network's names."""
        return {name: blocks.data() for name, blocks in self._read(data, shapes)[0].items()}

    def _found(self, tensors: Mapping[str, np.ndarray]) -> dict[str, Blocks]:
        """The blocks whose values are a tensor's, to the bit; in the tensors' order."""
        if not self.file:
            return {}
        path = _path(self.file)
        wanted: dict[tuple[int, int], list[str]] = {}
        for name, array in tensors.items():
            if array.dtype == np.float32 and array.ndim and array.size:
                wanted.setdefault((array.size, zlib.crc32(array.tobytes())), []).append(name)
        found: dict[str, Blocks] = {}
        entries = entries_of(path)
        with path.open("rb") as file:
            for entry in entries:
                if entry.kind is None:
                    continue
                file.seek(entry.start)
                blocks = Blocks.of(file.read(entry.size), entry.kind)
                values = blocks.values()
                for name in wanted.get((values.size, zlib.crc32(values.tobytes())), []):
                    # different blocks may have equal values: those of the same name, or else the first
                    known, own = name in found and name != entry.name, tensors[name]
                    if known or own.shape[-1] % entry.kind.weights:
                        continue
                    if np.array_equal(values.view(np.uint32), own.reshape(-1).view(np.uint32)):
                        found[name] = blocks
        _tell_unread(self.file, entries)
        return {name: found[name] for name in tensors if name in found}

    def _read(self, data: bytes, shapes: Shapes) -> tuple[dict[str, Blocks], bytes, int]:
        """The blocks, the bytes behind them, and where these begin."""
        reader = ByteReader(data)
        kinds = reader.take(len(shapes))
        if kinds and max(kinds) > len(TYPES):
            raise CorruptFile("a tensor has no such type", offset=0)
        found: dict[str, Blocks] = {}
        for number, kind in enumerate(TYPES, 1):
            own = {name: shape for (name, shape), k in zip(shapes.items(), kinds, strict=True) if k == number}
            if not own:
                continue
            if any(not shape or shape[-1] % kind.weights or 0 in shape for shape in own.values()):
                raise CorruptFile("blocks of a tensor whose rows are no whole blocks", offset=0)
            planes = iter([read_stream(inner_coder(self.coder), reader, spec) for spec in _specs(kind, own)])
            numbers = {
                name: _joined(part, [next(planes) for _ in _alphabets(part)]) for name, part in kind.parts.items()
            }
            at = 0
            for name, shape in own.items():
                end = at + int(np.prod(shape, dtype=np.int64)) // kind.weights
                found[name] = Blocks(kind, {part: array[at:end] for part, array in numbers.items()})
                at = end
        offset = reader.offset
        return found, reader.take(reader.left), offset


def _path(file: str) -> Path:
    """The file of a path or of ``PACKAGE:FILE``. Raises BadInput if there is no such file."""
    path = Path(file).expanduser()
    package, colon, name = file.partition(":")
    if not path.is_file() and colon and package.isidentifier():
        # only the package's folder is looked up: the package is not imported
        spec = find_spec(package)
        folders = [] if spec is None else list(spec.submodule_search_locations or ())
        path = next((Path(folder) / name for folder in folders if (Path(folder) / name).is_file()), path)
    if not path.is_file():
        raise BadInput(f"codec 'gguf': there is no file {file}")
    return path


def _tell_unread(file: str, entries: Sequence[Entry]) -> None:
    """A note of the tensors whose blocks are coded as float32 because their types cannot be read."""
    unread = [entry.unread for entry in entries if entry.unread]
    if unread:
        types = ", ".join(f"{unread.count(name)} of {name}" for name in sorted(set(unread)))
        known = ", ".join(kind.name for kind in TYPES)
        reason = f"{file} has tensors in blocks that cannot be read ({types}; known: {known})"
        warnings.warn(f"codec 'gguf': {reason}: their values are coded as floats, by 'lossless'", Note, stacklevel=4)


def _alphabets(part: Part) -> list[int]:
    """Of the streams that a part's numbers are written in."""
    return [1 << part.bits] if part.bits <= 8 else [256, 256]


def _planes(part: Part, numbers: np.ndarray) -> list[np.ndarray]:
    """Numbers as the symbols of their streams: as they are, or their upper and their lower bytes."""
    return [numbers] if part.bits <= 8 else [numbers >> 8, numbers & 255]


def _joined(part: Part, planes: Sequence[np.ndarray]) -> np.ndarray:
    """(blocks, count) numbers from the symbols of their streams."""
    whole = planes[0] if len(planes) == 1 else planes[0] << 8 | planes[1]
    return whole.astype(part.dtype).reshape(-1, part.count)


def _specs(kind: BlockType, shapes: Shapes) -> list[StreamSpec]:
    """The specifications of a type's streams, in their order."""
    found = []
    for name, part in kind.parts.items():
        tensors, at = [], 0
        for tensor, shape in shapes.items():
            rows, blocks = int(np.prod(shape[:-1], dtype=np.int64)), shape[-1] // kind.weights
            own = tuple(shape) if name == "codes" else (rows, blocks * part.count)
            tensors.append(StreamTensor(tensor, own, at, at + rows * blocks * part.count))
            at += rows * blocks * part.count
        found += [StreamSpec(at, alphabet, ordered=True, tensors=tuple(tensors)) for alphabet in _alphabets(part)]
    return found
