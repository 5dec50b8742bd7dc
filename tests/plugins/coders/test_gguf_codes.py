"""A GGUF file's codes through an entropy coder: its bytes come back, and what its own package says that they mean."""

from __future__ import annotations

import base64
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nqbench_coders.gguf_codes import GGUFCodes
from nqbench_models.checkpoint import read_state

from nqbench.api import BadInput, CorruptFile, Note
from nqbench.api.toolkit.gguf import entries_of
from nqbench.api.toolkit.gguf_blocks import TYPES, Blocks, BlockType

PLAIN, SUPER = [kind for kind in TYPES if kind.weights == 32], [kind for kind in TYPES if kind.weights == 256]
BY_NAME = {kind.name: kind for kind in TYPES}
OLD = base64.b64decode(
    "AQIDBAUABBMF8vrc+0fY4hUVAto1COpkugfj28J2awQBAQefDwIEAQH8B7ACAxID+eLuAlwA5gaFiRljasA8zeTAT7oFAQEHnwegAgMBAfweAgQB"
    "AfwHsAEDAQH8CwEHGQT58ETN3A6vUDjTfEIOOnnnfIWFlUBj5gMsa3Hx45PzBAEB/A9AAQIAAPwHGQT35Ucjz1i7mEIPBZslcdmYY5XbErHrcZ82"
    "uQ4s8f6QBAEBB58PAgIAAPwFAQEHnwegAQMBAfwLAQkSBQH9yh76ULC5Wlc3sYHnd/uTHKc8iElkxaDcBAEBDvw8AQMBAfwLAgAWgAECAgMCA15O"
    "agECAQH9Agg="
)
"""A stream that was written before super-blocks could be."""


def drawn(kind: BlockType, blocks: int, seed: int = 0) -> bytes:
    """Blocks of random codes; units are finite float16 numbers."""
    rng = np.random.default_rng(seed)
    found = Blocks.of(rng.integers(0, 256, blocks * kind.size, dtype=np.uint8).tobytes(), kind)
    units = {name: (rng.normal(size=(blocks, 1)) * 0.01).astype("<f2").view(np.uint16) for name in ("d", "m")}
    return Blocks(kind, {**found.numbers, **{k: v for k, v in units.items() if k in found.numbers}}).data()


def written(path: Path, tensors: dict[str, tuple[tuple[int, ...], int, bytes]]) -> Path:
    """A GGUF file of version 3, with keys of every kind that a reader has to step over."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    keys = [
        text("general.alignment") + struct.pack("<II", 4, 64),
        text("a name") + struct.pack("<I", 8) + text("value"),
        text("words") + struct.pack("<IIQ", 9, 8, 2) + text("x") + text("yz"),
        text("numbers") + struct.pack("<IIQ3f", 9, 6, 3, 1, 2, 3),
        text("nested") + struct.pack("<IIQ", 9, 9, 1) + struct.pack("<IQ2H", 2, 2, 7, 8),
    ]
    head, data = b"", b""
    for name, (shape, number, body) in tensors.items():
        data += bytes(-len(data) % 64)
        sizes = struct.pack(f"<{len(shape)}Q", *shape[::-1])
        head += text(name) + struct.pack("<I", len(shape)) + sizes + struct.pack("<IQ", number, len(data))
        data += body
    start = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys) + head
    path.write_bytes(start + bytes(-len(start) % 64) + data)
    return path


@pytest.fixture
def file(tmp_path: Path) -> tuple[Path, dict[str, bytes]]:
    raw = {f"{kind.name}.weight": drawn(kind, 12, seed) for seed, kind in enumerate(TYPES)}
    tensors = {
        f"{kind.name}.weight": ((4, 3 * kind.weights), kind.number, raw[f"{kind.name}.weight"]) for kind in TYPES
    }
    norm = np.arange(5, dtype="<f4").tobytes()
    return written(tmp_path / "model.gguf", {"norm": ((5,), 0, norm), **tensors}), raw


@pytest.mark.parametrize("kind", PLAIN, ids=lambda kind: kind.name)
def test_blocks_are_what_ggml_says_that_they_are(kind: BlockType) -> None:
    """One block, code by code, from the structures' definition."""
    data = drawn(kind, 1)
    blocks = Blocks.of(data, kind)
    assert blocks.data() == data
    bits, minimum = kind.parts["codes"].bits, "m" in kind.parts
    d, at = np.frombuffer(data[:2], "<f2")[0], 2
    m = np.float16(0)
    if minimum:
        m, at = np.frombuffer(data[2:4], "<f2")[0], 4
    high = 0
    if bits == 5:
        high, at = int.from_bytes(data[at : at + 4], "little"), at + 4
    for i in range(32):
        if bits == 8:
            code = struct.unpack("b", data[at + i : at + i + 1])[0]
        else:
            code = (data[at + i % 16] >> (4 * (i // 16)) & 15) + 16 * (high >> i & 1) * (bits == 5)
            code -= 0 if minimum else 1 << (bits - 1)
        assert blocks.values()[i] == np.float32(d) * np.float32(code) + np.float32(m)


def half(data: bytes, at: int) -> np.float32:
    return np.float32(np.frombuffer(data[at : at + 2], "<f2")[0])


def by_hand(name: str, data: bytes, i: int) -> np.float32:
    """Weight i of a super-block, bit by bit from the structures' definition."""
    lane, quarter, eighth = i % 32, i % 128 // 32, i // 32
    if name in ("q2_k", "q3_k"):
        at = 16 if name == "q2_k" else 32
        low = data[at + 32 * (i // 128) + lane] >> (2 * quarter) & 3
        j = i // 16
        if name == "q2_k":
            step, least = half(data, 80) * np.float32(data[j] & 15), half(data, 82) * np.float32(data[j] >> 4)
            return step * np.float32(low) - least
        code = low - (0 if data[lane] >> eighth & 1 else 4)
        scale = (data[96 + j % 8] >> (4 * (j // 8)) & 15) + 16 * (data[104 + j % 4] >> (2 * (j // 4)) & 3)
        return half(data, 108) * np.float32(scale - 32) * np.float32(code)
    if name in ("q4_k", "q5_k"):
        packed, five = data[4:16], name == "q5_k"
        if eighth < 4:
            scale, least = packed[eighth] & 63, packed[eighth + 4] & 63
        else:
            scale = packed[eighth + 4] & 15 | packed[eighth - 4] >> 6 << 4
            least = packed[eighth + 4] >> 4 | packed[eighth] >> 6 << 4
        code = data[(48 if five else 16) + 32 * (i // 64) + lane] >> (4 * (eighth % 2)) & 15
        code += 16 * (data[16 + lane] >> eighth & 1) if five else 0
        return half(data, 0) * np.float32(scale) * np.float32(code) - half(data, 2) * np.float32(least)
    code = data[64 * (i // 128) + i % 64] >> (4 * (i % 128 // 64)) & 15
    code |= (data[128 + 32 * (i // 128) + lane] >> (2 * quarter) & 3) << 4
    scale = struct.unpack("b", data[192 + i // 16 : 193 + i // 16])[0]
    return half(data, 208) * np.float32(scale) * np.float32(code - 32)


@pytest.mark.parametrize("kind", SUPER, ids=lambda kind: kind.name)
def test_super_blocks_are_what_ggml_says_that_they_are(kind: BlockType) -> None:
    assert kind.size == {"q2_k": 84, "q3_k": 110, "q4_k": 144, "q5_k": 176, "q6_k": 210}[kind.name]
    data = drawn(kind, 1, 3)
    expected = np.array([by_hand(kind.name, data, i) for i in range(256)], dtype=np.float32)
    assert Blocks.of(data, kind).values().tobytes() == expected.tobytes()


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
@given(draw=st.data())
@settings(max_examples=25, deadline=None)
def test_any_bytes_come_back(kind: BlockType, draw: st.DataObject) -> None:
    data = draw.draw(st.integers(0, 3).flatmap(lambda n: st.binary(min_size=n * kind.size, max_size=n * kind.size)))
    blocks = Blocks.of(data, kind)
    assert blocks.data() == data
    assert blocks.values().shape == (len(data) // kind.size * kind.weights,)
    for name, part in kind.parts.items():
        assert blocks.numbers[name].size == len(data) // kind.size * part.count
        assert (blocks.numbers[name].astype(int) < 1 << part.bits).all()


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_each_bit_of_a_block_is_a_bit_of_one_number(kind: BlockType) -> None:
    """So nothing of a block is lost, and none of its numbers is written twice."""
    rows = np.packbits(np.eye(8 * kind.size, dtype=np.uint8), axis=1, bitorder="little")
    blocks, none = Blocks.of(rows.tobytes(), kind), Blocks.of(bytes(kind.size), kind)
    changed = sum(
        np.unpackbits((array ^ none.numbers[name]).view(np.uint8), axis=1).sum(1, dtype=int)
        for name, array in blocks.numbers.items()
    )
    assert np.array_equal(changed, np.ones(8 * kind.size))


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_the_package_gguf_says_the_same_of_any_bytes(kind: BlockType) -> None:
    """Units may be infinite or no numbers here."""
    gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")
    rows = np.random.default_rng(2).integers(0, 256, (2000, kind.size), dtype=np.uint8)
    with np.errstate(all="ignore"):
        theirs = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[kind.name.upper()])
    mine = Blocks.of(rows.tobytes(), kind).values().reshape(theirs.shape)
    assert np.isnan(mine).any()
    assert np.array_equal(np.isnan(mine), np.isnan(theirs))
    finite = ~np.isnan(mine)
    assert mine[finite].tobytes() == theirs[finite].tobytes()


def test_the_package_gguf_reads_the_same_values(file: tuple[Path, dict[str, bytes]]) -> None:
    gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")
    theirs = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(file[0]).tensors}
    for entry in entries_of(file[0]):
        if entry.kind is not None:
            mine = Blocks.of(file[0].read_bytes()[entry.start : entry.start + entry.size], entry.kind).values()
            assert mine.tobytes() == np.asarray(theirs[entry.name], dtype=np.float32).tobytes()


def test_a_network_loaded_from_the_file_gives_its_blocks_back(file: tuple[Path, dict[str, bytes]]) -> None:
    pytest.importorskip("gguf", reason="the package gguf is not installed")
    tensors = {name: tensor.numpy() for name, tensor in read_state(file[0]).items()}
    shapes = {name: array.shape for name, array in tensors.items()}
    data = GGUFCodes(file=str(file[0]), coder="rans").compress(tensors, 0)
    assert GGUFCodes(coder="rans").blocks_of(data, shapes) == file[1]
    back = GGUFCodes(coder="rans").decompress(data, shapes)
    assert all(back[name].tobytes() == array.tobytes() for name, array in tensors.items())


@pytest.mark.parametrize("coder", ["context", "rans"])
def test_the_file_s_own_bytes_come_back(file: tuple[Path, dict[str, bytes]], coder: str) -> None:
    path, raw = file
    tensors = {
        f"network.{e.name}": Blocks.of(raw[e.name], e.kind).values().reshape(e.shape)
        for e in entries_of(path) if e.kind is not None
    }  # fmt: skip
    tensors["norm"] = np.arange(5, dtype=np.float32)
    tensors["tied"] = tensors["network.q4_1.weight"]
    tensors["changed"] = np.nextafter(tensors["tied"], np.float32(1))
    codec = GGUFCodes(file=str(path), coder=coder)
    data, shapes = codec.compress(tensors, 0), {name: value.shape for name, value in tensors.items()}
    back = GGUFCodes(coder=coder).decompress(data, shapes)
    assert all(back[name].tobytes() == value.tobytes() for name, value in tensors.items())
    blocks = GGUFCodes(coder=coder).blocks_of(data, shapes)
    assert {f"network.{name}": body for name, body in raw.items()} | {"tied": raw["q4_1.weight"]} == blocks


def test_streams_of_before_super_blocks_are_read() -> None:
    raw = {kind.name: bytes((7 * i * i + i // 3) % 5 * 17 for i in range(2 * kind.size)) for kind in PLAIN}
    shapes = {**dict.fromkeys(raw, (1, 64)), "norm": (5,)}
    assert GGUFCodes(coder="rans").blocks_of(OLD, shapes) == raw
    assert np.array_equal(GGUFCodes(coder="rans").decompress(OLD, shapes)["norm"], np.arange(5))


@pytest.mark.parametrize("coder", ["context", "rans"])
def test_blocks_that_llama_cpp_would_not_write_come_back(tmp_path: Path, coder: str) -> None:
    """Rows of all bits, of none, of units that are infinite or no numbers; and equal values of different codes."""
    rng = np.random.default_rng(4)
    raw = {}
    for kind in TYPES:
        random = rng.integers(0, 256, 6 * kind.size, dtype=np.uint8).tobytes()
        raw[f"{kind.name}.random"] = random
        raw[f"{kind.name}.same"] = b"\xff" * kind.size + bytes(5 * kind.size)
        still = Blocks.of(random, kind).numbers
        for name in ("a", "b"):
            # units of 0, codes of one sign: equal values
            codes = rng.integers(kind.parts["codes"].zero, 1 << kind.parts["codes"].bits, still["codes"].shape)
            scales = {"scales": still["scales"] | 1 << kind.parts["scales"].bits - 1} if "scales" in still else {}
            units = {unit: np.zeros_like(still["d"]) for unit in ("d", "m") if unit in still}
            numbers = {**still, "codes": codes.astype(np.uint8), **scales, **units}
            raw[f"{kind.name}.zero.{name}"] = Blocks(kind, numbers).data()
    kinds = {name: BY_NAME[name.partition(".")[0]] for name in raw}
    shapes = {name: (2, 3 * kind.weights) for name, kind in kinds.items()}
    path = written(tmp_path / "m.gguf", {n: (shapes[n], kinds[n].number, body) for n, body in raw.items()})
    values = {name: Blocks.of(body, kinds[name]).values().reshape(shapes[name]) for name, body in raw.items()}
    assert values["q4_k.zero.a"].tobytes() == values["q4_k.zero.b"].tobytes()
    data = GGUFCodes(file=str(path), coder=coder).compress(values, 0)
    assert GGUFCodes(coder=coder).blocks_of(data, shapes) == raw
    back = GGUFCodes(coder=coder).decompress(data, shapes)
    assert all(back[name].tobytes() == value.tobytes() for name, value in values.items())


def test_types_that_cannot_be_read_are_told(tmp_path: Path, file: tuple[Path, dict[str, bytes]]) -> None:
    tensors = {
        "a": ((2, 256), 23, bytes(272)),
        "b": ((256,), 99, bytes(9)),
        "c": ((256,), 99, b""),
        "n": ((1,), 0, b"...."),
    }
    path = written(tmp_path / "other.gguf", tensors)
    weights = {"a": np.ones((2, 256), dtype=np.float32)}
    with pytest.warns(Note, match=r"cannot be read \(1 of iq4_xs, 2 of type 99; known: q4_0, .*q6_k\)") as told:
        data = GGUFCodes(file=str(path), coder="rans").compress(weights, 0)
    assert len(told) == 1
    assert np.array_equal(GGUFCodes(coder="rans").decompress(data, {"a": (2, 256)})["a"], weights["a"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GGUFCodes(file=str(file[0]), coder="rans").compress(weights, 0)


def test_codes_of_few_values_take_less_than_their_bits(tmp_path: Path) -> None:
    """Codes of 0 to 3 in four bits, one unit: two bits a weight and a table."""
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 4, (4096, 32)).astype(np.uint8)
    blocks = Blocks(BY_NAME["q4_0"], {"codes": codes, "d": np.full((4096, 1), 0x2C00, np.uint16)})
    path = written(tmp_path / "m.gguf", {"w": ((128, 1024), 2, blocks.data())})
    size = len(GGUFCodes(file=str(path), coder="rans").compress({"w": blocks.values().reshape(128, 1024)}, 0))
    assert size == pytest.approx(128 * 1024 / 4, rel=0.02)


@pytest.mark.parametrize("kind", SUPER, ids=lambda kind: kind.name)
def test_random_super_blocks_take_no_more_than_their_bytes(tmp_path: Path, kind: BlockType) -> None:
    """All of their bits are random, but for those of the units."""
    raw = drawn(kind, 64)
    values = Blocks.of(raw, kind).values().reshape(16, 4 * 256)
    path = written(tmp_path / "m.gguf", {"w": ((16, 4 * 256), kind.number, raw)})
    assert len(GGUFCodes(file=str(path)).compress({"w": values}, 0)) < 1.05 * len(raw) + 64


def test_a_file_of_an_installed_package_is_found_without_importing_it(
    tmp_path: Path, file: tuple[Path, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "holds_a_network"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (package / "a.gguf").write_bytes(file[0].read_bytes())
    monkeypatch.syspath_prepend(tmp_path)
    path, raw = file
    first = next(e for e in entries_of(path) if e.kind is not None)
    assert first.kind is not None
    tensors = {"w": Blocks.of(raw[first.name], first.kind).values().reshape(first.shape)}
    codecs = [GGUFCodes(file=where, coder="rans") for where in (str(path), f"{package.name}:a.gguf", "")]
    by_path, by_package, without = (codec.compress(tensors, 0) for codec in codecs)
    assert by_path == by_package != without
    for missing in (f"{package.name}:b.gguf", "no_such_package:a.gguf", "a/b:c", ":"):
        with pytest.raises(BadInput, match="there is no file"):
            GGUFCodes(file=missing).compress(tensors, 0)


def test_what_is_no_gguf_file_is_told_in_one_line(tmp_path: Path, file: tuple[Path, dict[str, bytes]]) -> None:
    whole = file[0].read_bytes()
    for name, data in {"empty": b"", "text": b"hello" * 9, "cut": whole[:300], "data cut": whole[:-40]}.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(BadInput, match="no GGUF file"):
            entries_of(path)
    with pytest.raises(BadInput, match="there is no file"):
        GGUFCodes(file=str(tmp_path / "nowhere")).compress({"w": np.ones((2, 32), np.float32)}, 0)


def test_damaged_bytes_are_refused_or_give_tensors(file: tuple[Path, dict[str, bytes]]) -> None:
    path, raw = file
    entries = [e for e in entries_of(path) if e.kind is not None]
    tensors = {e.name: Blocks.of(raw[e.name], e.kind).values().reshape(e.shape) for e in entries if e.kind}
    codec, shapes = GGUFCodes(file=str(path), coder="rans"), {n: v.shape for n, v in tensors.items()}
    data, rng = codec.compress(tensors, 0), np.random.default_rng(0)
    for _ in range(150):
        bad = bytearray(data)
        for at in rng.integers(0, len(bad), rng.integers(1, 4)):
            bad[at] = rng.integers(0, 256)
        if rng.random() < 0.2:
            del bad[int(rng.integers(0, len(bad))) :]
        try:
            back = codec.decompress(bytes(bad), shapes)
        except CorruptFile:
            continue
        assert {n: v.shape for n, v in back.items()} == shapes
