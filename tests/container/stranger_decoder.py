"""A second decoder of ``.nqz`` files, from the docstring of ``nqbench.container`` alone; numpy, standard library.

Its coders and positions are those whose specification takes a line: ``raw``, and the kit's own. It shares no code with
nqbench, and takes files to be sound. bfloat16 comes back as the float32 of the same value. ``TIMES`` counts how often
the scales were coded.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import struct
import zlib

import numpy as np

ARRAYS = ("scale", "step", "zero", "shift", "equalize")
DTYPES = ("<f4", "<f2", "bfloat16", "<f8", "<i8", "<i4", "<i2", "<i1", "<u1", "?")
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
SECTIONS = ("codebook", "scales", "coder_table", "positions", "symbols", "raw_parameters", "raw_buffers")
TIMES = {"codes": 0, "planes": 0}


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
    assert file.take(3) == b"NQZ"
    version = file.u8()
    assert version in (1, 2)
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
        g["structure"] = structure_of(h) if version == 2 and h.u8() else None
        header["groups"].append(g)
    header["mode"] = h.u8()
    header["streams"] = [(h.int(), h.int()) for _ in range(h.int())]
    header["positions"] = (h.int(), h.int(), h.int(), h.int()) if h.u8() else None
    header["sections"] = {}
    present = [name for name in SECTIONS if version == 2 or name != "scales"]
    header["sections"]["scales"] = b""
    for name, size in zip(present, [h.int() for _ in present], strict=True):
        data = file.take(size)
        assert not size or file.take(4) == crc(data)
        header["sections"][name] = data
    assert h.at == len(inflated)
    assert file.at == len(file.data)
    return header


def structure_of(h):
    """What follows a group's arrays in version 2."""
    s = {"d": h.int(), "summed": h.u8(), "table": h.text(), "transform": h.int(), "arrays": {}}
    s["seed"] = h.int() if s["transform"] else 0
    for _ in range(h.int()):
        name, per, codes = ARRAYS[h.u8()], granularity_of(h), h.int()
        s["arrays"][name] = {"per": per, "codes": codes, "unit": granularity_of(h) if codes else None}
    return s


def granularity_of(h):
    by = h.u8()
    return by, h.int() if by in (2, 4) else 0


def rows_of(shape):
    rows = shape[0] if len(shape) > 1 else 1
    return rows, math.prod(shape) // rows if rows else 0


def entry_of(per, shape, place):
    """Number of a place's entry in its tensor."""
    by, size = per
    length = rows_of(shape)[1]
    if by < 2:
        return 0
    if by == 2:
        return place // math.prod(shape[size + 1 :]) % shape[size]
    row, column = divmod(place, length)
    return column if by == 3 else row * math.ceil(length / size) + column // size


def entries_of(per, shapes):
    """(first entry of each tensor, entries of all)."""
    if per[0] == 0:
        return [0] * len(shapes), 1
    firsts, at = [], 0
    for shape in shapes:
        firsts.append(at)
        places = math.prod(shape)
        if places and per[0] == 2:
            at += shape[per[1]]
        elif places:
            at += entry_of(per, shape, places - 1) + 1
    return firsts, at


def scale_of(scales, kind, count, codes, coder):
    """(count,) an array of the section ``scales``."""
    kind = kind & 15
    if not scales.u8():
        return scales.array(kind, (count,))
    streams = []
    TIMES["codes" if codes else "planes"] += 1
    for _ in range(1 if codes else 4 if kind == 0 else 2):
        table, payload = scales.int(), scales.int()
        streams.append(decoded(coder, scales.take(table), scales.take(payload), codes or 256, count))
    if codes:
        return np.array(streams[0])
    data = b"".join(bytes(entry[::-1]) for entry in zip(*streams, strict=True))
    return Cursor(data).array(kind, (count,))


def decoded(coder, table, payload, alphabet, count):
    """The symbols of a stream of ``raw``, or of the kit's ``kit-present``."""
    if coder == "raw":
        assert not table
        return raw_coder(payload, alphabet, count)
    assert coder == "kit-present"
    present = [s for s in range(alphabet) if table[s // 8] >> s % 8 & 1]
    return [present[i] for i in raw_coder(payload, len(present), count)] if present else []


def raw_coder(payload, alphabet, count):
    """ceil(log2 alphabet) bits per symbol, lowest first."""
    width = math.ceil(math.log2(alphabet))
    bits = int.from_bytes(payload, "little")
    return [bits >> (i * width) & ((1 << width) - 1) for i in range(count)]


def masks_of(header, pruned):
    if header["positions"] is None:
        return None
    count, alphabet, table, payload = header["positions"]
    coder, data = header["plugins"][4][0] or header["plugins"][1][0], header["sections"]["positions"]
    symbols = decoded(coder, data[:table], data[table : table + payload], alphabet, count)
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


def arrays_of(book, scales, group, coder):
    found = {}
    declared = group["structure"]["arrays"] if group["structure"] else {}
    for name, tag, shape in group["arrays"]:
        whole = name.removesuffix("_unit")
        if whole in declared and (name == whole or declared[whole]["codes"]):
            found[name] = scale_of(scales, tag, shape[0], declared[whole]["codes"] if name == whole else 0, coder)
        elif tag == 32:
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


def table_of(rule, k, d):
    """(k, d), from the docstring of nqbench.api.tables, by brute force; nf4's numbers are the page's."""
    if rule == "nf4":
        return np.array(NF4, dtype="<f4")[:, None]
    if rule == "int":
        return np.array([[s - k // 2] for s in range(k)], dtype="<f4")
    if rule == "laplace":
        half = (k + 1) // 2
        upper = [3 / 2**0.5 * math.log(half / (half - i)) for i in range(half)]
        return np.array([-v for v in upper[:0:-1]] + upper, dtype="<f4")[:, None]
    if rule in ("fp4", "e4m3", "e5m2"):
        mantissa, bias, last, most = {"fp4": (1, 1, 3, 1), "e4m3": (3, 7, 15, 6), "e5m2": (2, 15, 30, 3)}[rule]
        found = set()
        for e, m in itertools.product(range(last + 1), range(2**mantissa)):
            if e < last or m <= most:
                value = (2**mantissa * (e > 0) + m) * 2.0 ** (max(e, 1) - bias - mantissa)
                found |= {value, -value + 0.0}
        return np.array(sorted(found), dtype="<f4")[:, None]
    radius = 2
    while True:
        steps = [x / 2 for x in range(-2 * radius, 2 * radius + 1)] if rule == "e8" else range(-radius, radius + 1)
        if rule == "e8":
            points = [p for half in (0, 0.5) for p in itertools.product([x for x in steps if x % 1 == half], repeat=d)]
        else:
            points = list(itertools.product(steps, repeat=d))
        if rule != "zd":
            points = [p for p in points if sum(p) % 2 == 0]
        points = sorted((sum(x * x for x in p), p) for p in points)
        if len(points) > k and points[k - 1][0] < (radius + 0.5) ** 2:
            return np.array([p for _, p in points[:k]], dtype="<f4")
        radius += 1


def structured_values(group, arrays, symbols, sizes, members, kept):
    """float32 values of the kept weights of a group with a structure."""
    s, d, f32 = group["structure"], group["structure"]["d"], np.float32
    shapes = [t["shape"] for t in members]
    grid = group["form"] in (1, 4)
    book = np.asarray(arrays["codebook"]).astype("<f4") if "codebook" in arrays else None
    books = book.shape[0] if book is not None and book.ndim == 3 else 1
    if s["table"]:
        book = table_of(s["table"], group["k"], d)
    table = None if grid else book.reshape(books, group["k"], d)
    source, out, j = iter(symbols), [], 0
    for t, (shape, size, mask) in enumerate(zip(shapes, sizes, kept, strict=True)):
        rows, length = rows_of(shape)
        places = np.flatnonzero(mask)
        values, vectors = [], []
        lengths = [int(np.sum(places // length == r)) if length else 0 for r in range(rows)]
        for left in lengths:
            for vector in range(math.ceil(left / d)):
                if grid:
                    new = [f32(next(source)) + f32(arrays["offset"])]
                else:
                    new = list(table[vector % books if not s["summed"] else 0, next(source)])
                    for m in range(1, books if s["summed"] else 1):
                        new = [a + b for a, b in zip(new, table[m, next(source)], strict=True)]
                new = new[: left - vector * d]
                values += new
                vectors += [j] * len(new)
                j += 1
        if group["form"] == 4:
            x = [f32(((philox(arrays["seed"], i) >> 8) + 0.5) / 2**24 - 0.5) for i in range(size)]
            values = [v - u for v, u in zip(values, x, strict=True)]

        def array(name, places=places, shape=shape, t=t):
            declared = s["arrays"][name]
            per, first = declared["per"], entries_of(declared["per"], shapes)[0][t]
            entry = [entry_of(per, shape, int(p)) for p in places]
            if not declared["codes"]:
                return [f32(arrays[name][first + e]) for e in entry]
            unit, unit_first = declared["unit"], entries_of(declared["unit"], shapes)[0][t]
            return [
                f32(arrays[name + "_unit"][unit_first + entry_of(unit, shape, int(p))]) * f32(arrays[name][first + e])
                for e, p in zip(entry, places, strict=True)
            ]

        if "zero" in s["arrays"]:
            values = [v - z for v, z in zip(values, array("zero"), strict=True)]
        for name in ("scale", "step"):
            if name in s["arrays"]:
                values = [v * z for v, z in zip(values, array(name), strict=True)]
        if "shift" in s["arrays"]:
            values = [v + z for v, z in zip(values, array("shift"), strict=True)]
        if group["form"] == 2:
            x = [philox(arrays["seed"], i) >> 8 for i in vectors]
            values = [
                v - f32(arrays["dither_step"] * ((u + 0.5) / 2**24 - 0.5)) for v, u in zip(values, x, strict=True)
            ]
        block, tile = s["transform"] % 65536, s["transform"] // 65536
        if tile and len(set(lengths)) == 1:
            n = lengths[0]
            columns = [staged([values[r * n + c] for r in range(rows)], [rows], tile) for c in range(n)]
            values = [columns[c][r] for r in range(rows) for c in range(n)]
        if block:
            values = [v if philox(s["seed"], i) >> 31 else -v for i, v in enumerate(staged(values, lengths, block))]
        if "equalize" in s["arrays"]:
            values = [v * z for v, z in zip(values, array("equalize"), strict=True)]
        out += values
    return np.array(out, dtype="<f4") + f32(0)


def staged(values, lengths, block):
    out, at = [], 0
    for left in lengths:
        size = block
        while left:
            while size > left:
                size //= 2
            x, stride = list(values[at : at + size]), 1
            while stride < size:
                for i in range(size):
                    if not i & stride:
                        x[i], x[i + stride] = x[i] + x[i + stride], x[i] - x[i + stride]
                stride *= 2
            out += [v * np.float32(size**-0.5) for v in x]
            at, left = at + size, left - size
    return out


def decode(data, specification):
    """name -> array, in the state's order."""
    header = header_of(Cursor(data), specification)
    sections, tensors = header["sections"], header["tensors"]
    members = [[t for t in tensors if t.get("group") == i] for i in range(len(header["groups"]))]
    pruned = [t for group in members for t in group if t["pruned"]]
    masks = masks_of(header, pruned) if pruned else {}
    book, scales = Cursor(sections["codebook"]), Cursor(sections["scales"])
    coder = header["plugins"][1][0]
    arrays = [arrays_of(book, scales, group, coder) for group in header["groups"]]
    d = [a["codebook"].shape[1] if np.ndim(a.get("codebook")) == 2 else 1 for a in arrays]
    structures = [group["structure"] for group in header["groups"]]

    def count(t):
        return math.prod(t["shape"]) if masks is None or not t["pruned"] else int(masks[t["name"]].sum())

    def symbols_of(t, s, found):
        """Symbols of a tensor of a group with a structure."""
        rows, length = rows_of(t["shape"])
        all_kept = masks is None or not t["pruned"]
        kept = [length] * rows if all_kept else masks[t["name"]].reshape(rows, length).sum(1).tolist()
        books = found["codebook"].shape[0] if s["summed"] else 1
        return books * sum(math.ceil(k / s["d"]) for k in kept)

    counts = [
        sum(symbols_of(t, s, a) for t in of) if s else math.ceil(sum(map(count, of)) / dim)
        for of, dim, s, a in zip(members, d, structures, arrays, strict=True)
    ]
    ks = [g["k"] + (g["inserted"] >= 0) for g in header["groups"]]
    if header["mode"] == 0:
        wanted = [(max(ks), sum(counts))]
    elif header["mode"] == 1:
        wanted = list(zip(ks, counts, strict=True))
    else:
        sole = [len(of) == 1 for of in members]
        wanted = [
            (ks[i], counts[i] if sole[i] else symbols_of(t, structures[i], arrays[i]) if structures[i] else count(t))
            for i, of in enumerate(members)
            for t in of
        ]
    payloads, tables, everything = Cursor(sections["symbols"]), Cursor(sections["coder_table"]), []
    for (table, size), (k, n) in zip(header["streams"], wanted, strict=True):
        everything += decoded(coder, tables.take(table), payloads.take(size), k, n)
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
        if group["structure"]:
            all_masks = [own.get(t["name"], np.ones(math.prod(t["shape"]), dtype=bool)) for t in of]
            values = structured_values(group, found, symbols, sizes, of, all_masks)
        else:
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
