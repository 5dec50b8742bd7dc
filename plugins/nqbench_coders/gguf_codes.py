"""Lossless compression of the codes of a GGUF file: llama.cpp stores them in fixed numbers of bits, here they are
entropy-coded.

A network loaded from a GGUF file computes with the dequantized values. For each given tensor, this codec finds the
tensor of the file with bitwise equal values, and writes the components of its blocks: codes, which are levels, and
their units d and m. The values, and the file's own bytes, can be restored exactly (``blocks_of``). Tensors that the
file does not store in blocks, such as norms, are coded by ``lossless``.

Bitstream
=========
``int`` is that of the file's specification (unsigned LEB128). For each tensor, in order, ``u8``: 0 if it has no blocks,
else 1 + the number of its type (q4_0, q4_1, q5_0, q5_1, q8_0). Then for each of these types that occurs, in this order,
three or, with a minimum, five streams, each ``int`` bytes of its table, ``int`` bytes of its payload, and both, by the
coder in the file's parameters: codes, of the alphabet 2^bits; the upper bytes of d, the lower ones; those of m. The
coder is told of all tensors of the type, of codes in their shapes, of the others in the shape (rows, blocks of a row).
A stream's symbols are the tensors', one after another. The rest is a stream of ``lossless`` for the others.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import numpy as np

from nqbench.api import BadInput, Codec, CorruptFile, Stream, StreamSpec, StreamTensor
from nqbench.api.toolkit.bits import ByteReader
from nqbench.api.toolkit.gguf import BLOCK, TYPES, Blocks, BlockType, entries_of
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
            arrays = [np.concatenate([b.codes for b in own.values()])]
            for units in (b"dm" if kind.minimum else b"d").decode():
                whole = np.concatenate([getattr(b, units) for b in own.values()]).astype(np.int32)
                arrays += [whole >> 8, whole & 255]
            for array, spec in zip(arrays, _specs(kind, shapes), strict=True):
                out += write_stream(inner_coder(self.coder), Stream(array.astype(np.int32, copy=False), spec))
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
            if array.dtype == np.float32 and array.ndim and array.shape[-1] % BLOCK == 0 and array.size:
                wanted.setdefault((array.size, zlib.crc32(array.tobytes())), []).append(name)
        found: dict[str, Blocks] = {}
        with path.open("rb") as file:
            for entry in entries_of(path):
                if entry.kind is None:
                    continue
                file.seek(entry.start)
                blocks = Blocks.of(file.read(entry.size), entry.kind)
                values = blocks.values()
                for name in wanted.get((values.size, zlib.crc32(values.tobytes())), []):
                    if np.array_equal(values.view(np.uint32), tensors[name].reshape(-1).view(np.uint32)):
                        found.setdefault(name, blocks)
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
            if any(not shape or shape[-1] % BLOCK or 0 in shape for shape in own.values()):
                raise CorruptFile("blocks of a tensor whose rows are no whole blocks", offset=0)
            codes, *planes = [read_stream(inner_coder(self.coder), reader, spec) for spec in _specs(kind, own)]
            units = [(high << 8 | low).astype(np.uint16) for high, low in zip(planes[::2], planes[1::2], strict=True)]
            at = 0
            for name, shape in own.items():
                size = int(np.prod(shape, dtype=np.int64))
                part = slice(at // BLOCK, (at + size) // BLOCK)
                m = units[1][part] if kind.minimum else np.zeros(0, dtype=np.uint16)
                found[name] = Blocks(kind, codes[at : at + size], units[0][part], m)
                at += size
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


def _specs(kind: BlockType, shapes: Shapes) -> list[StreamSpec]:
    """The specifications of a type's streams, in their order."""
    codes, units, at = [], [], 0
    for name, shape in shapes.items():
        size = int(np.prod(shape, dtype=np.int64))
        codes.append(StreamTensor(name, tuple(shape), at, at + size))
        rows = (size // shape[-1], shape[-1] // BLOCK)
        units.append(StreamTensor(name, rows, at // BLOCK, (at + size) // BLOCK))
        at += size
    planes = 4 if kind.minimum else 2
    unit = StreamSpec(at // BLOCK, 256, ordered=True, tensors=tuple(units))
    return [StreamSpec(at, 1 << kind.bits, ordered=True, tensors=tuple(codes)), *[unit] * planes]
