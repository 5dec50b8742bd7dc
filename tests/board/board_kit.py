"""What the tests of boards share: a distribution of a stranger, runs of it, and submissions put together by hand."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from probe_distribution import install, installed

from nqbench.board.board import Board, Outcome
from nqbench.board.bundle import MANIFEST, SUITE, file_name, open_bundle, write_bundle
from nqbench.board.checking import Checker

STRANGER = '''
"""Plugins of a stranger: a form of his own, one whose values change from process to process, a coder that spies."""

import os
import socket
import time

import torch
from nqbench.api import Coder, CorruptFile, Encoded, Quantized, Quantizer, hookimpl


class Mine(Quantizer, name="mine"):
    """value = symbol / 4 - 2, by a form of its own."""

    def quantize(self, source):
        symbols = ((source.weights + 2) * 4).round().clamp(0, 15).to(torch.int32)
        return Quantized(symbols, 16, source.sizes, {"unit": torch.ones(1)}, {}, "plugin")

    def reconstruct(self, quantized, parameters=None):
        values = quantized.symbols.float() / 4 - 2
        return values + self.shift() * (parameters or quantized.parameters)["unit"]

    def shift(self):
        return 0.0


class Shaky(Mine, name="shaky"):
    """As ``mine``, but where STRANGER_SHAKES is set its values differ from process to process."""

    def shift(self):
        return (os.getpid() % 1000) / 1e4 if "NQBENCH_SHAKES" in os.environ else 0.0


class Wide(Quantizer, name="wide"):
    """A grid of 2^24 levels, of which 16 are used."""

    def quantize(self, source):
        symbols = ((source.weights + 2) * 4).round().clamp(0, 15).to(torch.int32)
        return Quantized(
            symbols, 1 << 24, source.sizes, {"step": torch.tensor(0.25)}, {"offset": -8.0}, "grid"
        )


class Spy(Coder, name="spy"):
    """Raw bytes; decoding, it does what NQBENCH_SPY says."""

    def encode(self, stream):
        return Encoded(b"", bytes(int(s) for s in stream.symbols))

    def decode(self, encoded, spec):
        import numpy as np

        todo = os.environ.get("NQBENCH_SPY", "")
        if todo == "sleep":
            time.sleep(60)
        if todo == "die":
            os._exit(3)
        if todo == "memory":
            np.ones(1 << 40, np.uint8)
        if todo == "look":
            try:
                socket.create_connection(("127.0.0.1", int(os.environ["NQBENCH_PORT"])), timeout=2)
                reached = "reached"
            except OSError:
                reached = "nobody"
            raise CorruptFile(f"token {os.environ.get('A_TOKEN')}, {reached} there")
        return np.frombuffer(encoded.payload, np.uint8).astype(np.int32)


@hookimpl
def nqbench_plugins():
    return [Mine, Shaky, Wide, Spy]
'''

PLAIN = """
    name: plain
    models: [probe]
    granularities: [layer]
    quantizers: [kmeans: {k: [2, 5, 9]}]
    coders: [huffman]
"""


EVERYTHING = """
    name: everything
    models: [probe]
    granularities: [layer]
    quantizers: [kmeans: {k: [2, 5, 9]}, mine, shaky, wide]
    coders: [huffman, rans, spy]
    exclude: [{quantizer: wide, coder: huffman}]
"""


def stranger(folder: Path) -> Path:
    """The probe distribution and the stranger's on a folder for the import path."""
    install(folder)
    info = folder / "nqbench_stranger-2.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: nqbench-stranger\nVersion: 2.1\nProject-URL: Source, https://example.org/stranger\n"
    )
    (info / "entry_points.txt").write_text("[nqbench]\nstranger = nqbench_stranger\n")
    (info / "direct_url.json").write_text('{"url": "file:///home/me/stranger", "dir_info": {}}')
    (folder / "nqbench_stranger.py").write_text(STRANGER)
    return folder


@contextmanager
def world(folder: Path) -> Iterator[pytest.MonkeyPatch]:
    """A machine with the stranger's distribution and a cache of its own."""
    patch = pytest.MonkeyPatch()
    patch.setenv("NQBENCH_CACHE", str(folder / "cache"))
    try:
        with installed(stranger(folder / "site")):
            yield patch
    finally:
        shared().__exit__()
        shared.cache_clear()
        patch.undo()


@cache
def shared() -> Checker:
    """One checker, and its decoder process, for all tests that ask for nothing special: a process takes seconds."""
    return Checker("cpu")


def add(board: Path, bundle: Path, *, new_networks: bool = False, **options: Any) -> list[Outcome]:
    if not options:
        return list(Board.at(board).add(bundle, shared(), new_networks=new_networks))
    with Checker("cpu", **options) as checker:
        return list(Board.at(board).add(bundle, checker, new_networks=new_networks))


def unpacked(bundle: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """A submission's manifest as plain data, and its other entries."""
    with open_bundle(bundle) as found:
        return json.loads(found.read(MANIFEST)), {n: found.read(n) for n in found.entries if n != MANIFEST}


def repacked(bundle: Path, target: Path, change: Callable[[dict[str, Any], dict[str, bytes]], None]) -> Path:
    """A submission after ``change``, its list of entries, hashes and names made right again: a careful liar's."""
    manifest, entries = unpacked(bundle)
    change(manifest, entries)
    kept = {SUITE: entries[SUITE]} if SUITE in entries else {}
    for row in manifest["rows"]:
        data = entries[file_name(row["file"])]
        row["file"] = hashlib.sha256(data).hexdigest()
        kept[file_name(row["file"])] = data
    manifest["entries"] = {n: {"size": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in kept.items()}
    order = sorted(kept, key=lambda name: (name != SUITE, name))
    write_bundle(target, [(MANIFEST, json.dumps(manifest).encode()), *((name, kept[name]) for name in order)])
    return target


def copy(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target))


def texts(folder: Path) -> dict[str, bytes]:
    """Every file of a board but its lock, by its name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(".lock")
    }


def states(outcomes: Any) -> list[str]:
    return [outcome.state for outcome in outcomes]
