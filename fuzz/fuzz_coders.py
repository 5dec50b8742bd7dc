"""Any bytes into every decoder: right symbols or one CorruptFile, within a second, within a stated memory.

    python fuzz/fuzz_coders.py [--cases 100000] [--seed 0] [--coder NAME ...]

A case takes a stream, encodes it, damages the table, the payload or the specification (flips, truncations, splices of
two encodings, inserted and repeated bytes, extreme bytes, lying counts and alphabets, plain noise) and decodes.
Whatever comes out must be (count,) int32 inside the alphabet, or CorruptFile with an offset inside the bytes. Memory:
at most 16 bytes per symbol, 64 bytes an input byte and 16 MiB beyond (dictionaries, look-up tables, library windows).
"""

from __future__ import annotations

import argparse
import sys
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from nqbench.api import Coder, CorruptFile, Encoded, Stream, StreamSpec, StreamTensor
from nqbench.registry import registry

OWN = ("huffman", "rans", "context", "lzw", "bzip2", "raw", "zlib", "xz", "zstd")
SECONDS = 1.0


def memory_allowed(encoded: Encoded, spec: StreamSpec) -> int:
    """Bytes that decoding may hold at most."""
    return 16 * spec.count + 64 * (len(encoded.table) + len(encoded.payload)) + (16 << 20)


def streams(rng: np.random.Generator) -> list[Stream]:
    """Small streams of every kind."""
    alphabets = (1, 2, 3, 16, 255, 256, 300, 5000, 65537, 1 << 24)
    found = []
    for alphabet in alphabets:
        for count in (0, 1, 40, 700):
            values = rng.integers(0, alphabet, min(alphabet, int(rng.integers(1, 300))))
            symbols = values[(values.size * rng.random(count) ** rng.choice([1, 4, 30])).astype(np.int64)]
            found.append(Stream.of(symbols, alphabet))
    fibonacci = [1, 1]
    while len(fibonacci) < 19:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    found.append(Stream.of(np.repeat(np.arange(19), fibonacci), 19))  # deeper than the length limit
    found.append(Stream.of(np.tile([0, 1, 0, 0], 300), 2))
    return found + tensor_streams(rng)


def tensor_streams(rng: np.random.Generator) -> list[Stream]:
    """Levels of tensors, whole and pruned, and positions as the container hands them over, for coders that model."""
    shapes, found = ((6, 5, 3, 3), (9, 1, 2, 2), (20, 30), (7,)), []
    for kept in (1.0, 0.3):
        masks = [rng.random(shape) < kept for shape in shapes]
        stops = np.cumsum([int(mask.sum()) for mask in masks]).tolist()
        tensors = [
            StreamTensor("", shape, start, stop, zero=20, mask=None if kept == 1 else mask)
            for shape, start, stop, mask in zip(shapes, [0, *stops], stops, masks, strict=False)
        ]
        symbols = np.clip(np.rint(rng.laplace(20, 3, stops[-1])), 0, 60).astype(np.int32)
        found.append(Stream(symbols, StreamSpec(symbols.size, 61, ordered=True, tensors=tuple(tensors))))
    symbols = np.packbits(np.concatenate([mask.ravel() for mask in masks]), bitorder="little").astype(np.int32)
    places = tuple(StreamTensor("", shape, 0, 0) for shape in shapes)
    return [*found, Stream(symbols, StreamSpec(symbols.size, 256, tensors=places))]


def damaged(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """One mutation of ``data``."""
    raw = bytearray(data)
    match int(rng.integers(0, 7)):
        case 0 if raw:  # flips
            for _ in range(int(rng.integers(1, 4))):
                raw[rng.integers(0, len(raw))] ^= 1 << rng.integers(0, 8)
        case 1:  # truncation
            del raw[int(rng.integers(0, len(raw) + 1)) :]
        case 2:  # splice
            raw[int(rng.integers(0, len(raw) + 1)) :] = other[int(rng.integers(0, len(other) + 1)) :]
        case 3:  # insertion
            at = int(rng.integers(0, len(raw) + 1))
            raw[at:at] = rng.bytes(int(rng.integers(1, 9)))
        case 4 if raw:  # extreme bytes: lying lengths
            at = int(rng.integers(0, len(raw)))
            raw[at : at + int(rng.integers(1, 5))] = bytes([int(rng.choice([0, 1, 127, 128, 254, 255]))])
        case 5:  # noise
            raw = bytearray(rng.bytes(int(rng.integers(0, 80))))
        case _:  # repetition
            raw += raw[int(rng.integers(0, len(raw) + 1)) :]
    return bytes(raw)


def cases(coder: Coder, count: int, rng: np.random.Generator) -> Iterator[tuple[Encoded, StreamSpec]]:
    known = [(coder.encode(stream), stream.spec) for stream in streams(rng)]
    for _ in range(count):
        encoded, spec = known[rng.integers(0, len(known))]
        other, _ = known[rng.integers(0, len(known))]
        what = rng.integers(0, 4)
        if what != 0:
            encoded = replace(encoded, payload=damaged(encoded.payload, other.payload, rng))
        if what in (0, 3):
            encoded = replace(encoded, table=damaged(encoded.table, other.table, rng))
        if rng.random() < 0.2:
            spec = replace(spec, count=int(rng.choice([0, 1, spec.count + 1, 2 * spec.count, 50_000])))
        if rng.random() < 0.1:
            spec = replace(spec, alphabet=int(rng.choice([1, 2, 256, 65536, 1 << 24])))
        yield encoded, spec


def check(coder: Coder, encoded: Encoded, spec: StreamSpec) -> str:
    """Decodes once; what went wrong, or nothing."""
    started = time.perf_counter()
    try:
        symbols = coder.decode(encoded, spec)
    except CorruptFile as error:
        longest = max(len(encoded.table), len(encoded.payload))
        if error.offset is not None and not 0 <= error.offset <= longest:
            return f"an offset {error.offset} outside {longest} bytes: {error}"
    except Exception as error:  # noqa: BLE001 - this is what the fuzz looks for
        return f"{type(error).__name__}: {error}"
    else:
        if symbols.dtype != np.int32 or symbols.shape != (spec.count,):
            return f"{symbols.dtype} {symbols.shape}"
        if symbols.size and not 0 <= symbols.min() <= symbols.max() < spec.alphabet:
            return "a symbol outside the alphabet"
    elapsed = time.perf_counter() - started
    return f"{elapsed:.1f} s" if elapsed > SECONDS else ""


def configurations(name: str) -> list[Coder]:
    """What a coder's name stands for here: its defaults, and what decodes by other code."""
    others: dict[str, list[dict[str, object]]] = {"lzw": [{"when_full": "reset", "dictionary_bits": 9}]}
    made = [registry().make("coder", name, parameters) for parameters in [{}, *others.get(name, [])]]
    return [coder for coder in made if isinstance(coder, Coder)]


def fuzz(coder: Coder, count: int, seed: int, measure_memory_every: int = 50) -> list[str]:
    """Runs ``count`` cases; what went wrong, each with what repeats it."""
    rng = np.random.default_rng([seed, *coder.name.encode()])
    for stream in streams(rng):  # compiled first: that is no hang
        coder.decode(coder.encode(stream), stream.spec)
    wrong = []
    for i, (encoded, spec) in enumerate(cases(coder, count, rng)):
        measured = i % measure_memory_every == 0
        if measured:
            tracemalloc.start()
        fault = check(coder, encoded, spec)
        if measured:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            if peak > memory_allowed(encoded, spec):
                fault = fault or f"{peak} bytes held"
        if fault:
            sizes = f"count={spec.count} alphabet={spec.alphabet}"
            data = f"table={encoded.table.hex()} payload={encoded.payload.hex()}"
            wrong.append(f"{coder} case {i}: {fault}: {sizes} {data}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000, help="a coder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--coder", nargs="*", default=list(OWN))
    arguments = parser.parse_args()
    failed = 0
    for coder in [coder for name in arguments.coder for coder in configurations(name)]:
        started = time.perf_counter()
        wrong = fuzz(coder, arguments.cases, arguments.seed)
        failed += len(wrong)
        seconds = time.perf_counter() - started
        sys.stdout.write(f"{coder}: {arguments.cases} cases, {len(wrong)} wrong, {seconds:.0f} s\n")
        sys.stdout.write("".join(f"  {line}\n" for line in wrong[:10]))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
