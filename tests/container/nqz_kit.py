"""What the container's tests and its fuzzer share: plugins that need no mathematics, and files made from recipes.

A ``Recipe`` says what is in a file; ``build`` makes its contents and, on its own, the state that must come back out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from nqbench.api import (
    Array,
    Codec,
    Coder,
    CorruptFile,
    Encoded,
    Group,
    Per,
    Placed,
    Positions,
    Quantized,
    Quantizer,
    Stream,
    StreamSpec,
    Structure,
    check_decoded,
)
from nqbench.api.philox import dither
from nqbench.api.tables import table_of
from nqbench.api.toolkit.bits import bit_width, pack_bits, unpack_bits
from nqbench.container import Contents
from nqbench.registry import Registered, Registry, registry


class KitQuantizer(Quantizer, name="kit-quantizer"):
    """Stands in headers; its form ``plugin`` is value = symbol * slope + shift."""

    levels: int = 4

    def reconstruct(self, quantized: Quantized, parameters: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
        if quantized.form != "plugin":
            return quantized.reconstruct(parameters)
        slope = (parameters or quantized.parameters)["slope"]
        return quantized.symbols.float() * slope + float(quantized.side["shift"])


class KitPresent(Coder, name="kit-present"):
    """Table: a bit for each symbol of the alphabet, lowest bit first, whether it occurs. Payload: the number of each
    symbol among those that do, as ``raw`` has it."""

    def encode(self, stream: Stream) -> Encoded:
        present, number = np.unique(stream.symbols, return_inverse=True)
        table = np.packbits(np.isin(np.arange(stream.spec.alphabet), present), bitorder="little").tobytes()
        return Encoded(table, pack_bits(number.astype(np.int32), bit_width(max(1, present.size))))

    def decode(self, encoded: Encoded, spec: StreamSpec) -> np.ndarray:
        bits = np.unpackbits(np.frombuffer(encoded.table, np.uint8), bitorder="little")
        present = np.flatnonzero(bits).astype(np.int32)
        if bits.size // 8 != -(-spec.alphabet // 8) or (spec.count and not present.size):
            raise CorruptFile("another table than the alphabet's", section="coder_table", offset=0)
        number = unpack_bits(encoded.payload, bit_width(max(1, present.size)), spec.count)
        if spec.count and number.max() >= present.size:
            raise CorruptFile("a symbol beyond those that occur", section="symbols", offset=0)
        return check_decoded(present[number], spec)


class KitMerged(Positions, name="kit-merged"):
    """Zero is one more symbol."""

    merges = True


class KitBitmap(Positions, name="kit-bitmap"):
    """A bit a place."""

    def to_stream(self, masks: Sequence[np.ndarray]) -> Stream:
        return Stream.of(np.concatenate([m.reshape(-1) for m in masks]).astype(np.int32), 2)

    def from_stream(self, symbols: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
        sizes = [int(np.prod(shape, dtype=np.int64)) for shape in shapes]
        if sum(sizes) != symbols.size:
            raise CorruptFile("other bits than places")
        parts = np.split(symbols.astype(bool), np.cumsum(sizes)[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]

    def alphabet(self) -> int | None:
        return 2


class KitGaps(Positions, name="kit-gaps"):
    """Distance to the next kept weight, less one; 15 passes over 15 pruned ones. By a coder of its own."""

    coder: str | None = "raw"

    def to_stream(self, masks: Sequence[np.ndarray]) -> Stream:
        kept = np.flatnonzero(np.concatenate([m.reshape(-1) for m in masks]))
        symbols: list[int] = []
        for gap in np.diff(kept, prepend=-1) - 1:
            symbols += [15] * int(gap // 15) + [int(gap % 15)]
        return Stream.of(symbols, 16)

    def from_stream(self, symbols: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
        sizes = [int(np.prod(shape, dtype=np.int64)) for shape in shapes]
        steps = symbols.astype(np.int64) + (symbols != 15)
        kept = (np.cumsum(steps) - 1)[symbols != 15]
        whole = np.zeros(sum(sizes), dtype=bool)
        if kept.size and kept[-1] >= whole.size:
            raise CorruptFile("a gap leads out of the tensors")
        whole[kept] = True
        parts = np.split(whole, np.cumsum(sizes)[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


class KitCodec(Codec, name="kit-codec"):
    """float16, names and shapes in front."""

    def compress(self, tensors: Mapping[str, np.ndarray], seed: int) -> bytes:
        out = bytearray()
        for name, array in tensors.items():
            out += f"{name}:{','.join(map(str, array.shape))};".encode() + array.astype("<f2").tobytes()
        return bytes(out)

    def decompress(self, data: bytes, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
        arrays = {}
        while data:
            head, _, data = data.partition(b";")
            name, _, sizes = head.decode().partition(":")
            shape = tuple(int(size) for size in sizes.split(",") if size)
            size = 2 * int(np.prod(shape, dtype=np.int64))
            if size < 0 or size > len(data):
                raise CorruptFile("the tensors run out")
            arrays[name] = np.frombuffer(data[:size], "<f2").reshape(shape).astype(np.float32)
            data = data[size:]
        return arrays


KIT = (KitQuantizer, KitPresent, KitMerged, KitBitmap, KitGaps, KitCodec)


def kit_registry() -> Registry:
    """Every installed plugin, and the kit's."""
    real = registry()
    return replace(real, found=real.found | {(c.kind, c.name): Registered(c, "nqz-kit", "0.0") for c in KIT})


@dataclass(frozen=True)
class T:
    """A tensor. group: of a quantized one. mask: fraction of places that are kept, or None. alias: an index."""

    shape: tuple[int, ...] = (3, 4)
    group: int | None = 0
    dtype: torch.dtype = torch.float32
    mask: float | None = None
    alias: int | None = None
    trainable: bool = True
    constant: bool = False
    name: str = ""


@dataclass(frozen=True)
class S:
    """A group's structure. arrays: name -> (by, size), or (by, size, codes, by of the units, their size). stored: of
    the scales and the codebook. books: codebooks."""

    arrays: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    stored: torch.dtype = torch.float32
    books: int = 1
    summed: bool = False
    table: str = ""
    hadamard: int = 0
    tile: int = 0


@dataclass(frozen=True)
class G:
    """A group. d: weights per symbol, 1 with a codebook (k,); scale: none, one, each (one a tensor), number."""

    form: str = "lookup"
    alphabet: int = 4
    d: int = 1
    scale: str = "none"
    codebook: torch.dtype = torch.float32
    zero: bool = False
    ordered: bool = True
    movable: bool = True
    structure: S | None = None


@dataclass(frozen=True)
class Recipe:
    tensors: tuple[T, ...] = (T(),)
    groups: tuple[G, ...] = (G(),)
    coder: str = "raw"
    positions: str = "kit-merged"
    positions_coder: str | None = None
    streams: str = "auto"
    unquantized: str = "float32"
    codec: bool = False
    seed: int = 0


def build(recipe: Recipe) -> tuple[Contents, dict[str, torch.Tensor]]:
    """The file's contents, and the state that it must decode to, worked out from the symbols in numpy."""
    rng = np.random.default_rng(recipe.seed)
    reg = kit_registry()
    names = [t.name or f"layer{i // 2}.{('weight', 'bias')[i % 2]}" for i, t in enumerate(recipe.tensors)]
    expected: dict[str, torch.Tensor] = {}
    masks, groups = {}, []
    for name, t in zip(names, recipe.tensors, strict=True):
        if t.mask is not None and t.group is not None and t.alias is None:
            masks[name] = torch.from_numpy(np.asarray(rng.random(t.shape) < t.mask))
    for index, g in enumerate(recipe.groups):
        chosen = [i for i, t in enumerate(recipe.tensors) if t.group == index and t.alias is None and not recipe.codec]
        if not chosen:
            continue
        members = {names[i]: recipe.tensors[i] for i in chosen}
        make = _quantize if g.structure is None else structured
        quantized, kept = make(rng, g, members, masks)
        groups.append(Group(tuple(members), quantized))
        for name, values in kept.items():
            whole = np.zeros(members[name].shape, dtype=np.float32)
            whole[masks[name].numpy() if name in masks else np.ones(whole.shape, dtype=bool)] = values
            expected[name] = torch.from_numpy(whole).to(members[name].dtype)
    raw = {}
    for i, t in enumerate(recipe.tensors):
        if t.alias is None and t.group is None:
            raw[names[i]] = _raw(rng, t)
            stored = raw[names[i]]
            every = recipe.unquantized.endswith("-all") and stored.dtype in (torch.float32, torch.float64)
            if every or (recipe.unquantized != "float32" and t.trainable and stored.dtype == torch.float32):
                coded = recipe.unquantized[:5] == "uint8" and t.trainable and not t.constant and stored.numel() > 4
                stored = in_eight_bits(stored) if coded else stored.half()
            expected[names[i]] = stored.to(t.dtype)
    coded = [n for n, t in zip(names, recipe.tensors, strict=True) if recipe.codec and t.group is not None]
    shapes = {n: t.shape for n, t in zip(names, recipe.tensors, strict=True)}
    data, codec = b"", None
    if recipe.codec:
        codec = KitCodec()
        arrays = {n: rng.normal(size=shapes[n]).astype(np.float32) for n in coded}
        data = codec.compress(arrays, 0)
        expected |= {n: torch.from_numpy(np.array(a.astype(np.float16), dtype=np.float32)) for n, a in arrays.items()}
    aliases = {names[i]: names[t.alias] for i, t in enumerate(recipe.tensors) if t.alias is not None}
    coder = reg.make("coder", recipe.coder)
    assert isinstance(coder, Coder)
    fields = {} if recipe.positions_coder is None else {"coder": recipe.positions_coder}
    contents = Contents(
        order=tuple(names),
        shapes=shapes,
        dtypes={n: t.dtype for n, t in zip(names, recipe.tensors, strict=True)},
        raw=raw,
        parameters=frozenset(n for n, t in zip(names, recipe.tensors, strict=True) if t.trainable),
        groups=tuple(groups),
        masks=masks,
        aliases=aliases,
        quantizer=None if recipe.codec else KitQuantizer(),
        coder=None if recipe.codec else coder,
        positions=reg.make("positions", recipe.positions, fields),  # type: ignore[arg-type]
        codec=codec,
        codec_data=data,
        coded=tuple(coded),
        streams=recipe.streams,
        unquantized=recipe.unquantized,
    )
    return contents, {n: expected[aliases.get(n, n)] for n in names}


def _quantize(
    rng: np.random.Generator, g: G, members: Mapping[str, T], masks: Mapping[str, torch.Tensor]
) -> tuple[Quantized, dict[str, np.ndarray]]:
    """A group's symbols, and each tensor's kept values by the formula value = scale * table[symbol] - u."""
    sizes = [int(masks[n].sum()) if n in masks else int(np.prod(t.shape, dtype=np.int64)) for n, t in members.items()]
    n = sum(sizes)
    m = -(-n // g.d)
    symbols = rng.integers(0, g.alphabet, m).astype(np.int32)
    table = rng.normal(size=(g.alphabet, g.d)).astype(np.float32)
    if g.zero:
        table[rng.integers(0, g.alphabet)] = 0
    if g.d == 1 and g.ordered:
        table = np.sort(table, axis=0)
    stored = torch.from_numpy(table if g.d > 1 else table[:, 0].copy()).to(g.codebook)
    parameters: dict[str, torch.Tensor] = {}
    side: dict[str, torch.Tensor | int | float] = {}
    where = parameters if g.movable else side
    scale = None
    grid = g.form in ("grid", "dithered-grid")
    if g.scale != "none" or grid:
        count = len(members) if g.scale == "each" else 1
        scale = torch.from_numpy(rng.uniform(-2, 2, count).astype(np.float32))
        kept: torch.Tensor | float = float(scale[0]) if g.scale == "number" else scale
        (side if g.scale == "number" else where)["step" if grid else "scale"] = kept  # type: ignore[index]
    if g.form == "plugin":
        parameters["slope"] = torch.tensor([0.5])
        side["shift"] = -1.25
        values = symbols.astype(np.float32) * np.float32(0.5) + np.float32(-1.25)
    elif grid:
        offset = -int(rng.integers(0, g.alphabet)) if g.zero else -g.alphabet / 2 + 0.25
        side["offset"] = offset
        values = symbols.astype(np.float32) + np.float32(offset)
        if g.form == "dithered-grid":
            side["seed"] = int(rng.integers(0, 1 << 63))
            values = values - np.concatenate([dither(side["seed"], 1.0, size).numpy() for size in sizes])
    else:
        where["codebook"] = stored
        values = stored.float().reshape(g.alphabet, g.d).numpy()[symbols].reshape(-1)[:n]
    if scale is not None and g.form != "plugin":
        factor = scale.numpy()
        values = values * np.repeat(factor if factor.size > 1 else np.repeat(factor, len(sizes)), sizes)
    if g.form == "dithered":
        side["seed"], side["dither_step"] = int(rng.integers(0, 1 << 63)), float(rng.uniform(0, 1))
        values = values - dither(side["seed"], side["dither_step"], m).numpy().repeat(g.d)[:n]
    values = values + np.float32(0)
    quantized = Quantized(torch.from_numpy(symbols), g.alphabet, tuple(sizes), parameters, side, g.form)  # type: ignore[arg-type]
    return quantized, dict(zip(members, np.split(values, np.cumsum(sizes)[:-1]), strict=True))


def structured(
    rng: np.random.Generator, g: G, members: Mapping[str, T], masks: Mapping[str, torch.Tensor]
) -> tuple[Quantized, dict[str, np.ndarray]]:
    """The same of a result with a structure, weight by weight, by the formula of ``nqbench.api.structure``."""
    s, d = g.structure, g.d
    assert s is not None
    shapes = [t.shape for t in members.values()]
    kept = [masks[n].numpy() if n in masks else np.ones(t.shape, dtype=bool) for n, t in members.items()]
    narrow = {} if s.stored == torch.float32 else {"codebook": s.stored}
    f32 = np.float32
    parameters: dict[str, torch.Tensor] = {}
    side: dict[str, torch.Tensor | int | float] = {}
    arrays, entries = {}, {}
    for name, (by, size, *coded) in s.arrays:
        per = [_entry_of(by, size, shape) for shape in shapes]
        counts = [int(p.max()) + 1 if p.size else 0 for p in per]
        offsets = [0] * len(per) if by == "global" else np.cumsum([0, *counts[:-1]]).tolist()
        total = max([1, *counts]) if by == "global" else sum(counts)
        if coded:
            codes, unit_by, unit_size = coded
            arrays[name] = Array(Per(by, size), codes, Per(unit_by, unit_size))
            code = rng.integers(0, codes, total)
            side[name] = torch.from_numpy(code).to(torch.uint8 if codes <= 256 else torch.int32)
            units = [_entry_of(unit_by, unit_size, shape) for shape in shapes]
            unit_counts = [int(p.max()) + 1 if p.size else 0 for p in units]
            unit_at = [0] * len(units) if unit_by == "global" else np.cumsum([0, *unit_counts[:-1]]).tolist()
            unit_total = 1 if unit_by == "global" else sum(unit_counts)
            unit = torch.from_numpy(rng.uniform(-0.1, 0.1, unit_total).astype(f32))
            parameters[f"{name}_unit"] = unit
            if s.stored != torch.float32:
                narrow[f"{name}_unit"] = s.stored
            rounded = unit.to(s.stored).float().numpy()
            entries[name] = [
                np.array([rounded[u + ua] * f32(code[e + ea]) for e, u in zip(p, q, strict=True)], dtype=f32)
                for p, q, ea, ua in zip(per, units, offsets, unit_at, strict=True)
            ]
            continue
        arrays[name] = Array(Per(by, size))
        value = torch.from_numpy(rng.uniform(-2, 2, total).astype(f32))
        if g.movable:
            parameters[name] = value
            if s.stored != torch.float32:
                narrow[name] = s.stored
        else:
            value = value.to(s.stored)
            side[name] = value
        rounded = value.to(s.stored).float().numpy()
        entries[name] = [rounded[p + at] for p, at in zip(per, offsets, strict=True)]
    grid = g.form in ("grid", "dithered-grid")
    seed = int(rng.integers(0, 1 << 63))
    if grid:
        side["offset"] = -int(rng.integers(0, g.alphabet)) if g.zero else -g.alphabet / 2 + 0.25
    elif not s.table and g.form != "plugin":
        shape = (s.books, g.alphabet, d) if s.books > 1 else (g.alphabet, d) if d > 1 else (g.alphabet,)
        book = rng.normal(size=shape).astype(f32)
        if g.zero:
            book.reshape(-1, d)[1 % g.alphabet] = 0
        book = np.sort(book) if g.ordered and d == 1 and s.books == 1 else book
        parameters["codebook"] = torch.from_numpy(book)
        table = parameters["codebook"].to(s.stored).float().numpy().reshape(s.books, g.alphabet, d)
    elif s.table:
        table = table_of(s.table, g.alphabet, d).reshape(1, g.alphabet, d)
        narrow.pop("codebook", None)
    if s.table or grid:
        narrow.pop("codebook", None)
    if g.form == "plugin":
        parameters["slope"] = torch.tensor([0.5])
        side["shift"] = -1.25
        table = np.arange(g.alphabet, dtype=f32).reshape(1, -1, 1) * f32(0.5) + f32(-1.25)
        entries.clear()
    if g.form.startswith("dithered"):
        side["seed"] = seed
    if g.form == "dithered":
        side["dither_step"] = float(rng.uniform(0, 1))
    symbols: list[int] = []
    values = {}
    for t, name in enumerate(members):
        rows = _rows(kept[t])
        mine: list[np.float32] = []
        for row in rows:
            left = int(row.sum())
            at = 0
            while left > 0:
                drawn = rng.integers(0, g.alphabet, s.books if s.summed else 1).tolist()
                if grid:
                    vector = [f32(drawn[0]) + f32(side["offset"])]
                elif s.summed:
                    vector = list(table[0, drawn[0]])
                    for m in range(1, s.books):
                        vector = [a + b for a, b in zip(vector, table[m, drawn[m]], strict=True)]
                else:
                    vector = list(table[at % s.books, drawn[0]])
                mine += vector[: min(d, left)]
                symbols += drawn
                left -= d
                at += 1
        own = np.array(mine, dtype=f32)
        if g.form == "dithered-grid":
            own = own - dither(seed, 1.0, own.size).numpy()
        places = np.flatnonzero(kept[t].reshape(-1))
        for array, operation in (
            ("zero", np.subtract),
            ("step", np.multiply),
            ("scale", np.multiply),
            ("shift", np.add),
        ):
            if array in entries:
                own = operation(own, entries[array][t][places])
        values[name] = own
    if g.form == "dithered":
        u = dither(seed, side["dither_step"], len(symbols)).numpy()  # type: ignore[arg-type]
        at = 0
        for t, name in enumerate(members):
            rows = _rows(kept[t])
            drawn = [at + np.arange(int(row.sum())) // d + np.cumsum([0, *(-(-rows.sum(1) // d))])[i]
                     for i, row in enumerate(rows)]  # fmt: skip
            values[name] = values[name] - u[np.concatenate(drawn)]
            at += int((-(-rows.sum(1) // d)).sum())
    for t, name in enumerate(members):
        if s.hadamard:
            lengths = _rows(kept[t]).sum(1).tolist()
            if s.tile:
                values[name] = across(values[name], lengths, s.tile)
            values[name] = unhadamard(values[name], lengths, s.hadamard, seed)
        if "equalize" in entries:
            values[name] = values[name] * entries["equalize"][t][np.flatnonzero(kept[t].reshape(-1))]
        values[name] = values[name] + f32(0)
    placed = tuple(Placed(t.shape, masks.get(n)) for n, t in members.items())
    structure = Structure(placed, arrays, narrow, d, s.summed, s.table, s.hadamard, seed if s.hadamard else 0, s.tile)
    sizes = tuple(int(k.sum()) for k in kept)
    array = torch.tensor(symbols, dtype=torch.int32)
    return Quantized(array, g.alphabet, sizes, parameters, side, g.form, structure=structure), values  # type: ignore[arg-type]


def _rows(kept: np.ndarray) -> np.ndarray:
    """(R, L); one row of nothing where the tensor has no places."""
    return kept.reshape(kept.shape[0] if kept.ndim > 1 else 1, -1) if kept.size else kept.reshape(1, 0)


def _entry_of(by: str, size: int, shape: tuple[int, ...]) -> np.ndarray:
    """(numel,) each place's entry, counted from 0 in its tensor."""
    numel = int(np.prod(shape, dtype=np.int64))
    if by in ("global", "layer"):
        return np.zeros(numel, dtype=np.int64)
    if by == "channel":
        return np.indices(shape)[size].reshape(-1)
    rows = shape[0] if len(shape) > 1 else 1
    length = numel // rows if rows else 0
    place = np.arange(numel)
    column = place % length if length else place
    return column if by == "column" else place // length * -(-length // size) + column // size if length else place


def across(values: np.ndarray, lengths: Sequence[int], tile: int) -> np.ndarray:
    """The columns of rows that are equally long."""
    if len(set(lengths)) != 1 or not lengths[0]:
        return values
    matrix = values.reshape(len(lengths), lengths[0])
    columns = [stages(column, [len(lengths)], tile) for column in matrix.T]
    return np.stack(columns, 1).reshape(-1)


def unhadamard(values: np.ndarray, lengths: Sequence[int], block: int, seed: int) -> np.ndarray:
    sign = np.sign(dither(seed, 1.0, values.size).numpy())
    return stages(values, lengths, block) * sign


def stages(values: np.ndarray, lengths: Sequence[int], block: int) -> np.ndarray:
    """Block by block, stage by stage."""
    out, at = [], 0
    for length in lengths:
        left, size = length, block
        while left:
            while size > left:
                size //= 2
            x = values[at : at + size].copy()
            stride = 1
            while stride < size:
                for first in range(size):
                    if not first & stride:
                        a, b = x[first], x[first + stride]
                        x[first], x[first + stride] = a + b, a - b
                stride *= 2
            out += list(x * np.float32(size**-0.5) if size > 1 else x)
            at, left = at + size, left - size
    return np.array(out, dtype=np.float32)


def in_eight_bits(tensor: torch.Tensor) -> torch.Tensor:
    """float32: codes between the last float16 below all signed roots and the first step that reaches above them, which
    are found by looking at every float16."""
    x = np.copysign(np.sqrt(tensor.double().abs().numpy()), tensor.double().numpy())
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float64)
    every = every[np.isfinite(every)]
    low = every[every <= x.min()].max()
    step = every[(every > 0) & (low + 255 * every >= x.max())].min()
    codes = np.abs(x[..., None] - (low + step * np.arange(256))).argmin(-1)
    roots = np.float32(low) + np.float32(step) * codes.astype(np.float32)
    return torch.from_numpy(roots * np.abs(roots))


def _raw(rng: np.random.Generator, t: T) -> torch.Tensor:
    size = (1,) * len(t.shape) if t.constant else t.shape
    if t.dtype.is_floating_point:
        values = torch.from_numpy(np.asarray(rng.normal(size=size))).to(t.dtype)
    else:
        values = torch.from_numpy(np.asarray(rng.integers(0, 2, size))).to(t.dtype)
    return values.expand(t.shape).clone()
