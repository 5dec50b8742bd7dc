"""A second decoder of ``.nqz`` files, from the docstring of ``nqbench.container`` alone; numpy, standard library.

Its coders and positions are those whose specification takes a line: ``raw``, and the kit's own. It shares no code with
nqbench, and takes files to be sound. bfloat16 comes back as the float32 of the same value.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import struct
import zlib

import numpy as np

DTYPES = ("<f4", "<f2", "bfloat16", "<f8", "<i8", "<i4", "<i2", "<i1", "<u1", "?")
SECTIONS = ("codebook", "coder_table", "positions", "symbols", "raw_parameters", "raw_buffers")


class Cursor:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, size):
        self.at += size
        return self.data[self.at - size : self.at]

    def u8(self):
        return self.take(1)[0]

    def int(self):
        value = 0
        for shift in itertools.count(0, 7):
            byte = self.u8()
            value |= (byte & 127) << shift
            if byte < 128:
                return value

    def signed(self):
        value = self.int()
        return -(value + 1) // 2 if value % 2 else value // 2

    def text(self):
        return self.take(self.int()).decode()

    def sizes(self):
        return tuple(self.int() for _ in range(self.int()))

    def array(self, dtype, shape):
        count = math.prod(shape)
        if DTYPES[dtype] == "bfloat16":
            halves = np.frombuffer(self.take(2 * count), "<u2").astype("<u4") << 16
            return halves.view("<f4").reshape(shape)
        kind = np.dtype(DTYPES[dtype])
        return np.frombuffer(self.take(kind.itemsize * count), kind).reshape(shape)


def dictionary(specification):
    """The preset dictionary, from the page itself."""
    block = re.search(r"nothing between them\)::\n\n(.*?)\n\n", specification, re.DOTALL).group(1)
    return "".join(line.strip() for line in block.splitlines()).encode()


def crc(data):
    return struct.pack("<I", zlib.crc32(data))


def header_of(file, specification):
    assert file.take(4) == b"NQZ\x01"
    plain, packed = file.int(), file.int()
    inflated = zlib.decompressobj(-15, zdict=dictionary(specification)).decompress(file.take(packed))
    assert len(inflated) == plain
    before = file.data[: file.at]
    assert file.take(4) == crc(before)
    h = Cursor(inflated)
    header = {"producer": h.text(), "plugins": []}
    for _ in range(5):
        name = h.text()
        header["plugins"].append((name, h.text(), h.text(), h.text()) if name else ("",) * 4)
    names, last = [], b""
    for _ in range(h.int()):
        last = last[: h.int()] + h.take(h.int())
        names.append(last.decode())
    kinds = [h.u8() for _ in names]
    header["tensors"] = []
    for name, kind in zip(names, kinds, strict=True):
        t = {"name": name, "kind": kind}
        if kind == 3:
            t["target"] = h.int()
        else:
            dtypes = h.u8()
            t |= {"deployed": dtypes >> 4, "stored": dtypes & 15, "shape": h.sizes()}
            if kind == 0:
                group = h.int()
                t |= {"group": group >> 1, "pruned": bool(group & 1)}
        header["tensors"].append(t)
    header["groups"] = []
    for _ in range(h.int()):
        g = {"form": h.u8(), "k": h.int(), "inserted": h.int() - 1, "arrays": []}
        for _ in range(h.int()):
            name, tag = h.text(), h.u8()
            g["arrays"].append((name, tag, h.sizes() if tag < 32 else ()))
        header["groups"].append(g)
    header["mode"] = h.u8()
    header["streams"] = [(h.int(), h.int()) for _ in range(h.int())]
    header["positions"] = (h.int(), h.int(), h.int(), h.int()) if h.u8() else None
    header["sections"] = {}
    for name, size in zip(SECTIONS, [h.int() for _ in SECTIONS], strict=True):
        data = file.take(size)
        assert not size or file.take(4) == crc(data)
        header["sections"][name] = data
    assert h.at == len(inflated)
    assert file.at == len(file.data)
    return header


def raw_coder(payload, alphabet, count):
    """ceil(log2 alphabet) bits a symbol, lowest first."""
    width = math.ceil(math.log2(alphabet))
    bits = int.from_bytes(payload, "little")
    return [bits >> (i * width) & ((1 << width) - 1) for i in range(count)]


def masks_of(header, pruned):
    if header["positions"] is None:
        return None
    count, alphabet, table, payload = header["positions"]
    assert header["plugins"][4][0] == "raw" or header["plugins"][1][0] == "raw"
    symbols = raw_coder(header["sections"]["positions"][table : table + payload], alphabet, count)
    places = sum(math.prod(t["shape"]) for t in pruned)
    name, parameters = header["plugins"][3][:2]
    bits = json.loads(parameters).get("bits", 1 if name == "kit-bitmap" else 4)
    if name.endswith("bitmap"):
        kept = np.array([s >> b & 1 for s in symbols for b in range(bits)], dtype=bool)[:places]
    else:
        kept, at, escape = np.zeros(places, dtype=bool), 0, 2**bits - 1
        for symbol in symbols:
            at += symbol
            if symbol < escape:
                kept[at] = True
                at += 1
    masks, at = {}, 0
    for t in pruned:
        size = math.prod(t["shape"])
        masks[t["name"]] = kept[at : at + size]
        at += size
    return masks


def philox(seed, j):
    """First word of Philox4x32-10 with Python's integers."""
    k = [seed % 2**32, seed // 2**32 % 2**32]
    x = [j % 2**32, j // 2**32, 0, 0]
    for _ in range(10):
        a, b = 0xD2511F53 * x[0], 0xCD9E8D57 * x[2]
        x = [b >> 32 ^ x[1] ^ k[0], b % 2**32, a >> 32 ^ x[3] ^ k[1], a % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return x[0]


def arrays_of(book, group):
    found = {}
    for name, tag, shape in group["arrays"]:
        if tag == 32:
            found[name] = book.signed()
        elif tag == 33:
            found[name] = struct.unpack("<d", book.take(8))[0]
        else:
            found[name] = book.array(tag & 15, shape)
    return found


def kept_values(group, arrays, symbols, sizes):
    """float32 values of a group's kept weights."""
    n, d = sum(sizes), 1
    f32 = np.float32
    if group["form"] in (1, 4):
        values = [f32(s) + f32(arrays["offset"]) for s in symbols]
        scale = arrays["step"]
        if group["form"] == 4:
            own = [j for size in sizes for j in range(size)]
            x = [f32(((philox(arrays["seed"], j) >> 8) + 0.5) / 2**24 - 0.5) for j in own]
            values = [v - u for v, u in zip(values, x, strict=True)]
    else:
        table = np.asarray(arrays["codebook"]).astype("<f4")
        d = table.shape[1] if table.ndim == 2 else 1
        values = [v for s in symbols for v in table[s].reshape(-1)][:n]
        scale = arrays.get("scale")
    if scale is not None:
        scales = np.atleast_1d(np.asarray(scale)).astype("<f4")
        owner = np.repeat(np.arange(len(sizes)), sizes)
        values = [v * scales[owner[i] if scales.size > 1 else 0] for i, v in enumerate(values)]
    if group["form"] == 2:
        x = [philox(arrays["seed"], j) >> 8 for j in range(len(symbols))]
        u = [f32(arrays["dither_step"] * ((v + 0.5) / 2**24 - 0.5)) for v in x]
        values = [v - u[i // d] for i, v in enumerate(values)]
    return np.array(values, dtype="<f4") + f32(0)


def decode(data, specification):
    """name -> array, in the state's order."""
    header = header_of(Cursor(data), specification)
    sections, tensors = header["sections"], header["tensors"]
    members = [[t for t in tensors if t.get("group") == i] for i in range(len(header["groups"]))]
    pruned = [t for group in members for t in group if t["pruned"]]
    masks = masks_of(header, pruned) if pruned else {}
    book = Cursor(sections["codebook"])
    arrays = [arrays_of(book, group) for group in header["groups"]]
    d = [a["codebook"].shape[1] if np.ndim(a.get("codebook")) == 2 else 1 for a in arrays]

    def count(t):
        return math.prod(t["shape"]) if masks is None or not t["pruned"] else int(masks[t["name"]].sum())

    counts = [math.ceil(sum(map(count, of)) / dim) for of, dim in zip(members, d, strict=True)]
    ks = [g["k"] + (g["inserted"] >= 0) for g in header["groups"]]
    if header["mode"] == 0:
        wanted = [(max(ks), sum(counts))]
    elif header["mode"] == 1:
        wanted = list(zip(ks, counts, strict=True))
    else:
        sole = [len(of) == 1 for of in members]
        wanted = [(ks[i], counts[i] if sole[i] else count(t)) for i, of in enumerate(members) for t in of]
    assert header["plugins"][1][0] == "raw"
    payloads, everything = Cursor(sections["symbols"]), []
    for (_, size), (k, n) in zip(header["streams"], wanted, strict=True):
        everything += raw_coder(payloads.take(size), k, n)
    state, source = {}, iter(everything)
    for group, of, found, n in zip(header["groups"], members, arrays, counts, strict=True):
        symbols = list(itertools.islice(source, n))
        own = {t["name"]: masks[t["name"]] for t in of if t["pruned"]} if masks else {}
        if group["inserted"] >= 0:
            at = 0
            for t in of:
                size = math.prod(t["shape"])
                if t["pruned"]:
                    own[t["name"]] = np.array([s != group["inserted"] for s in symbols[at : at + size]], dtype=bool)
                at += size
            symbols = [s - (s > group["inserted"]) for s in symbols if s != group["inserted"]]
        sizes = [int(own[t["name"]].sum()) if t["name"] in own else math.prod(t["shape"]) for t in of]
        values = kept_values(group, found, symbols, sizes)
        for t, part in zip(of, np.split(values, np.cumsum(sizes)[:-1]), strict=True):
            whole = np.zeros(math.prod(t["shape"]), dtype="<f4")
            whole[own.get(t["name"], slice(None))] = part
            state[t["name"]] = whole.reshape(t["shape"])
    raws = {1: Cursor(sections["raw_parameters"]), 2: Cursor(sections["raw_buffers"])}
    for t in tensors:
        if t["kind"] in (1, 2) and (t["stored"] == 10 or (DTYPES[t["stored"]] == "<u1" and t["deployed"] < 4)):
            low, step = raws[t["kind"]].array(1, (2,)).astype("<f4")
            roots = [low + step * np.float32(c) for c in raws[t["kind"]].array(8, t["shape"]).reshape(-1)]
            state[t["name"]] = np.array([u * abs(u) if t["stored"] == 10 else u for u in roots]).reshape(t["shape"])
        elif t["kind"] in (1, 2):
            state[t["name"]] = raws[t["kind"]].array(t["stored"], t["shape"])
        elif t["kind"] in (9, 10):
            state[t["name"]] = np.broadcast_to(raws[t["kind"] - 8].array(t["stored"], ()), t["shape"])
    out = {}
    for t in tensors:
        t = tensors[t["target"]] if t["kind"] == 3 else t | {"alias": False}
        kind = DTYPES[t["deployed"]]
        out[t["name"]] = state[t["name"]].astype("<f4" if kind == "bfloat16" else kind)
    names = [t["name"] for t in tensors]
    return {n: out[tensors[t["target"]]["name"] if t["kind"] == 3 else n] for n, t in zip(names, tensors, strict=True)}
