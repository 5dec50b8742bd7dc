"""A reading of an ``.nqz`` file, byte by byte, by the specification alone: no code of ``nqbench.container`` is used but
the preset dictionary, so that the page that shows it is a check of the specification too."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nqbench.container.header import DICTIONARY

DTYPES = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool", "codes")
SIZES = (4, 2, 2, 8, 8, 4, 2, 1, 1, 1, 1)
FORMS = ("lookup", "grid", "dithered", "plugin", "dithered-grid")
KINDS = {0: "quantized", 1: "raw parameter", 2: "raw buffer", 3: "alias", 4: "coded by the codec",
         9: "raw parameter, one element for all", 10: "raw buffer, one element for all"}  # fmt: skip
MODES = ("one stream for all groups", "one stream a group", "one stream a quantized tensor")
SECTIONS = ("codebook", "scales", "coder_table", "positions", "symbols", "raw_parameters", "raw_buffers")
WHICH = ("scale", "step", "zero", "shift", "equalize")
PER = ("global", "layer", "channel", "column", "group")


@dataclass(frozen=True)
class Span:
    """start, stop: offsets. what: the field. means: its value in words."""

    start: int
    stop: int
    what: str
    means: str


@dataclass
class Cursor:
    """Reads fields of the specification one after another and notes each."""

    data: bytes
    at: int = 0
    spans: list[Span] = field(default_factory=list)

    def take(self, size: int, what: str, means: Callable[[bytes], str] = lambda _: "") -> bytes:
        part = self.data[self.at : self.at + size]
        if len(part) != size:
            raise ValueError(f"{what} ends beyond the file")
        if size:
            self.spans.append(Span(self.at, self.at + size, what, means(part)))
        self.at += size
        return part

    def int(self, what: str, means: Callable[[int], str] = str) -> int:
        stop = self.at
        while self.data[stop] & 0x80:
            stop += 1
        value = sum((byte & 0x7F) << 7 * i for i, byte in enumerate(self.data[self.at : stop + 1]))
        self.take(stop + 1 - self.at, what, lambda _: means(value))
        return value

    def text(self, what: str) -> str:
        size = self.int(f"{what}: length")
        return self.take(size, what, lambda b: json.dumps(b.decode(), ensure_ascii=False)).decode()

    def byte(self, what: str, means: Callable[[int], str] = str) -> int:
        return self.take(1, what, lambda b: means(b[0]))[0]


@dataclass
class Reading:
    """outer: the file's spans. header: those of the inflated header. plain: the inflated header. facts: what the header
    says, by the names of ``nqbench.container.header.Header``, for who wants to compare."""

    outer: list[Span]
    header: list[Span]
    plain: bytes
    facts: dict[str, Any]


def read(data: bytes) -> Reading:
    """Raises ValueError where the bytes are not what the specification says."""
    file = Cursor(data)
    file.take(3, "magic", lambda b: b.decode())
    version = file.byte("format version")
    size = file.int("size of the header, plain")
    packed = file.take(file.int("size of the header, deflated"), "the header, deflated", lambda _: "see below")
    _checksum(file, data[: file.at])
    inflate = zlib.decompressobj(-15, zdict=DICTIONARY)
    plain = inflate.decompress(packed)
    if len(plain) != size:
        raise ValueError(f"the header inflates to {len(plain)} bytes, not {size}")
    header = Cursor(plain)
    facts = _header(header, version)
    if header.at != len(plain):
        raise ValueError("bytes follow the header's end")
    for name, length in facts["sections"].items():
        if length:
            start = file.at
            _section(file, name, length, facts)
            if file.at != start + length:
                raise ValueError(f"section {name} is of {file.at - start} bytes, not {length}")
            _checksum(file, data[start : file.at])
    if file.at != len(data):
        raise ValueError("bytes follow the last section")
    return Reading(file.spans, header.spans, plain, facts)


def _checksum(file: Cursor, covered: bytes) -> None:
    stored = file.take(4, "CRC-32", lambda b: f"{int.from_bytes(b, 'little'):08x}")
    if int.from_bytes(stored, "little") != zlib.crc32(covered):
        raise ValueError("a checksum does not hold")


def _header(h: Cursor, version: int) -> dict[str, Any]:
    facts: dict[str, Any] = {"producer": h.text("producer"), "plugins": []}
    for kind in ("quantizer", "coder", "codec", "positions", "positions' own coder"):
        name = h.text(kind)
        facts["plugins"].append(name)
        if name:
            h.text(f"{kind}: parameters")
            h.text(f"{kind}: distribution")
            h.text(f"{kind}: its version")
    facts["tensors"] = _tensors(h)
    facts["groups"] = [_group(h, i, version) for i in range(h.int("number of groups"))]
    h.byte("stream mode", lambda v: MODES[v])
    facts["streams"] = [
        (h.int(f"stream {i}: bytes of its table"), h.int(f"stream {i}: bytes of its payload"))
        for i in range(h.int("number of streams"))
    ]
    facts["positions"] = None
    if h.byte("a stream of positions?", lambda v: "yes" if v else "no"):
        h.int("positions: number of symbols")
        h.int("positions: alphabet")
        facts["positions"] = (h.int("positions: bytes of the table"), h.int("positions: bytes of the payload"))
    names = [name for name in SECTIONS if version > 1 or name != "scales"]
    facts["sections"] = {name: h.int(f"bytes of section {name}") for name in names}
    return facts


def _tensors(h: Cursor) -> list[dict[str, Any]]:
    names: list[str] = []
    before = b""
    for i in range(h.int("number of tensors")):
        shared = h.int(f"name {i}: bytes shared with the one before")
        rest = h.int(f"name {i}: bytes of the rest")
        before = before[:shared]
        before += h.take(rest, f"name {i}: the rest", lambda b, head=before: json.dumps((head + b).decode()))
        names.append(before.decode())
    kinds = [h.byte(f"kind of {name}", lambda v: f"{v}: {KINDS[v]}") for name in names]
    found = []
    for name, kind in zip(names, kinds, strict=True):
        if kind == 3:
            found.append({"name": name, "kind": kind, "target": h.int(f"{name}: shares tensor", lambda v: names[v])})
            continue
        types = h.byte(f"{name}: dtypes", lambda v: f"deployed {DTYPES[v >> 4]}, stored {DTYPES[v & 15]}")
        shape = tuple(h.int(f"{name}: size {i}") for i in range(h.int(f"{name}: rank")))
        group = 0
        if kind == 0:
            group = h.int(f"{name}: group", lambda v: f"{v >> 1}, {'pruned' if v & 1 else 'not pruned'}")
        stored = {"stored": types & 15, "deployed": types >> 4, "shape": shape, "group": group >> 1}
        found.append({"name": name, "kind": kind, **stored})
    return found


def _group(h: Cursor, i: int, version: int) -> dict[str, Any]:
    form = h.byte(f"group {i}: form", lambda v: FORMS[v])
    alphabet = h.int(f"group {i}: alphabet")
    h.int(f"group {i}: inserted symbol", lambda v: str(v - 1) if v else "none")
    arrays = []
    for _ in range(h.int(f"group {i}: number of arrays")):
        name = h.text(f"group {i}: array")
        tag = h.byte(f"{name}: type", _array_type)
        rank = 0 if tag >= 32 else h.int(f"{name}: rank")
        arrays.append((name, tag, tuple(h.int(f"{name}: size {a}") for a in range(rank))))
    structured: list[str] = []
    if version > 1 and h.byte(f"group {i}: a structure?", lambda v: "yes" if v else "no"):
        structured = _structure(h)
    return {"form": FORMS[form], "alphabet": alphabet, "arrays": arrays, "structured": structured}


def _array_type(tag: int) -> str:
    if tag >= 32:
        return "an integer" if tag == 32 else "a float64"
    return DTYPES[tag & 15] + (", a parameter" if tag & 16 else "")


def _structure(h: Cursor) -> list[str]:
    """The names of the arrays that lie in the section ``scales``."""
    h.int("structure: dimension")
    h.byte("structure: codewords are summed?", lambda v: "yes" if v else "no")
    h.text("structure: table by rule")
    if h.int("structure: block of the transform"):
        h.int("structure: seed of the transform")
    names = []
    for _ in range(h.int("structure: number of declared arrays")):
        name = WHICH[h.byte("structure: array", lambda v: WHICH[v])]
        names.append(name)
        _granularity(h, name)
        if h.int(f"{name}: codes"):
            names.append(f"{name}_unit")
            _granularity(h, f"{name}'s units")
    return names


def _granularity(h: Cursor, name: str) -> None:
    per = h.byte(f"{name}: granularity", lambda v: PER[v])
    if per in (2, 4):
        h.int(f"{name}: {'axis' if per == 2 else 'weights of a block'}")


def _section(file: Cursor, name: str, length: int, facts: dict[str, Any]) -> None:
    if name == "codebook":
        for group in facts["groups"]:
            for array, tag, shape in group["arrays"]:
                if array not in group["structured"]:
                    _array(file, array, tag, shape)
    elif name == "coder_table":
        for i, (table, _) in enumerate(facts["streams"]):
            file.take(table, f"stream {i}: table of {facts['plugins'][1]}")
    elif name == "symbols":
        for i, (_, payload) in enumerate(facts["streams"]):
            file.take(payload, f"stream {i}: payload of {facts['plugins'][1] or facts['plugins'][2]}")
    elif name == "positions":
        table, payload = facts["positions"]
        file.take(table, "positions: table")
        file.take(payload, "positions: payload")
    elif name in ("raw_parameters", "raw_buffers"):
        for tensor in facts["tensors"]:
            if tensor["kind"] & 7 == (1 if name == "raw_parameters" else 2):
                _raw(file, tensor)
    else:
        file.take(length, "scales")


def _array(file: Cursor, name: str, tag: int, shape: tuple[int, ...]) -> None:
    if tag == 32:
        file.int(name, lambda v: str(v >> 1 if v % 2 == 0 else -(v >> 1) - 1))
    elif tag == 33:
        file.take(8, name, lambda b: f"{struct.unpack('<d', b)[0]:g}")
    else:
        file.take(SIZES[tag & 15] * _product(shape), name, lambda b: _values(b, tag & 15))


def _raw(file: Cursor, tensor: dict[str, Any]) -> None:
    count = 1 if tensor["kind"] & 8 else _product(tensor["shape"])
    stored = tensor["stored"]
    # eight-bit codes of floats: low and step as float16, then a byte an element
    codes = stored == 10 or (stored == 8 and tensor["deployed"] < 4)
    size = (4 if codes and count else 0) + SIZES[stored] * count
    file.take(size, tensor["name"], lambda b: "codes" if codes else _values(b, stored))


def _values(data: bytes, dtype: int) -> str:
    code = {0: "f", 1: "e", 3: "d", 4: "q", 5: "i", 6: "h", 7: "b", 8: "B", 9: "?"}.get(dtype)
    if code is None:
        return f"{len(data) // 2} bfloat16"
    return ", ".join(f"{value:g}" for value in struct.unpack(f"<{len(data) // SIZES[dtype]}{code}", data))


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
