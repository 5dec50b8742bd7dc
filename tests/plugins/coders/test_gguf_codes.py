"""A GGUF file's codes through an entropy coder: its bytes come back, and what its own package says that they mean."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from nqbench_coders.gguf_codes import GGUFCodes

from nqbench.api import BadInput, CorruptFile
from nqbench.api.toolkit.gguf import TYPES, Blocks, BlockType, entries_of


def drawn(kind: BlockType, blocks: int, seed: int = 0) -> bytes:
    """Blocks of random codes; units are finite float16 numbers."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 256, (blocks, kind.size), dtype=np.uint8)
    for at in range(0, 4 if kind.minimum else 2, 2):
        rows[:, at : at + 2] = (rng.normal(size=blocks) * 0.01).astype("<f2").view(np.uint8).reshape(-1, 2)
    return rows.tobytes()


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
    raw = {f"{kind.name}.weight": drawn(kind, 3 * 4, seed) for seed, kind in enumerate(TYPES)}
    tensors = {f"{kind.name}.weight": ((4, 96), kind.number, raw[f"{kind.name}.weight"]) for kind in TYPES}
    norm = np.arange(5, dtype="<f4").tobytes()
    return written(tmp_path / "model.gguf", {"norm": ((5,), 0, norm), **tensors}), raw


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_blocks_are_what_ggml_says_that_they_are(kind: BlockType) -> None:
    """One block, code by code, from the structures' definition."""
    data = drawn(kind, 1)
    blocks = Blocks.of(data, kind)
    assert blocks.data() == data
    d, at = np.frombuffer(data[:2], "<f2")[0], 2
    m = np.float16(0)
    if kind.minimum:
        m, at = np.frombuffer(data[2:4], "<f2")[0], 4
    high = 0
    if kind.bits == 5:
        high, at = int.from_bytes(data[at : at + 4], "little"), at + 4
    for i in range(32):
        if kind.bits == 8:
            code = struct.unpack("b", data[at + i : at + i + 1])[0]
        else:
            code = (data[at + i % 16] >> (4 * (i // 16)) & 15) + 16 * (high >> i & 1) * (kind.bits == 5)
            code -= 0 if kind.minimum else 1 << (kind.bits - 1)
        assert blocks.values()[i] == np.float32(d) * np.float32(code) + np.float32(m)


def test_the_package_gguf_reads_the_same_values(file: tuple[Path, dict[str, bytes]]) -> None:
    gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")
    theirs = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(file[0]).tensors}
    for entry in entries_of(file[0]):
        if entry.kind is not None:
            mine = Blocks.of(file[0].read_bytes()[entry.start : entry.start + entry.size], entry.kind).values()
            assert mine.tobytes() == np.asarray(theirs[entry.name], dtype=np.float32).tobytes()


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


def test_codes_of_few_values_take_less_than_their_bits(tmp_path: Path) -> None:
    """Codes of 0 to 3 in four bits, one unit: two bits a weight and a table."""
    rng = np.random.default_rng(1)
    kind = TYPES[0]
    blocks = Blocks(kind, rng.integers(0, 4, 32 * 4096).astype(np.int32), np.full(4096, 0x2C00, np.uint16),
                    np.zeros(0, np.uint16))  # fmt: skip
    path = written(tmp_path / "m.gguf", {"w": ((128, 1024), 2, blocks.data())})
    size = len(GGUFCodes(file=str(path), coder="rans").compress({"w": blocks.values().reshape(128, 1024)}, 0))
    assert size == pytest.approx(128 * 1024 / 4, rel=0.02)


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
    for _ in range(400):
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
