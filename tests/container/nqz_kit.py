"""What the container's tests and its fuzzer share: plugins that need no mathematics, and files made from recipes.

A ``Recipe`` says what is in a file; ``build`` makes its contents and, on its own, the state that must come back out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from nqbench.api import Codec, Coder, CorruptFile, Group, Positions, Quantized, Quantizer, Stream
from nqbench.api.philox import dither
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


KIT = (KitQuantizer, KitMerged, KitBitmap, KitGaps, KitCodec)


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
class G:
    """A group. d: weights a symbol, 1 with a codebook (k,); scale: none, one, each (one a tensor), number."""

    form: str = "lookup"
    alphabet: int = 4
    d: int = 1
    scale: str = "none"
    codebook: torch.dtype = torch.float32
    zero: bool = False
    ordered: bool = True
    movable: bool = True


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
        quantized, kept = _quantize(rng, g, members, masks)
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
