"""Our entropy coders beside other people's, on quantized Laplace weights: bits per symbol, million symbols per second.

    python benchmarks/coders.py [--count 5000000] [--repeats 5] [--coder NAME ...]
    python benchmarks/coders.py --weights FILE.safetensors [--step 0.045 ...] [--keep 0.125] [--coder NAME ...]

Streams: a Laplace source on a uniform grid whose step gives an entropy of 1, 2, 3 and 5 bits, and one of which 90 % are
zero. Coders take turns on each stream, so that a busy machine slows all alike; of each, the fastest of the repeats
counts, in processor time of the process (all its threads: what one core would take). The first turn, which compiles, is
not timed. With ``--weights`` the streams are a network's own tensors of two dimensions and more on a global grid (its
smaller weights pruned, if fewer are to be kept, to the zero symbol), and the entropy is the static one of each tensor:
what a table for every layer would come to, tables not counted. ``--linear`` prints instead the time per symbol at
growing lengths; ``--memory`` the bytes per symbol held beyond input and output. Peers are measured where their packages
are installed (extra ``peers``).
"""

from __future__ import annotations

import argparse
import sys
import time
import tracemalloc
from collections.abc import Iterator

import numpy as np
from tabulate import tabulate

from nqbench.api import Coder, Stream, StreamSpec, StreamTensor
from nqbench.registry import registry

OWN = ("huffman", "rans", "context", "context-plain", "lzw", "lzw-reset")
VARIANTS: dict[str, tuple[str, dict[str, object]]] = {
    "zlib-huffman": ("zlib", {"strategy": "huffman-only"}),
    "context-plain": ("context", {"mixing": False}),
    "lzw-reset": ("lzw", {"when_full": "reset"}),
}
PEERS = ("zlib-huffman", "ncompress", "constriction", "imagecodecs-lzw", "pcodec", "bzip2", "zstd")


def entropy(symbols: np.ndarray) -> float:
    """Zeroth order, bits per symbol."""
    counts = np.bincount(symbols)
    p = counts[counts > 0] / symbols.size
    return float(-(p * np.log2(p)).sum())


def laplace(bits: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count,) int32 levels of a Laplace source on the grid whose step gives this entropy."""
    weights = rng.laplace(0, 1, count)
    low, high = 1e-3, 20.0
    for _ in range(30):
        step = (low * high) ** 0.5
        low, high = (step, high) if entropy(levels(weights[:200_000], step)) > bits else (low, step)
    return levels(weights, step)


def levels(weights: np.ndarray, step: float) -> np.ndarray:
    grid = np.rint(weights / step).astype(np.int32)
    return grid - grid.min()


def streams(count: int) -> Iterator[tuple[str, Stream]]:
    rng = np.random.default_rng(0)
    for bits in (1, 2, 3, 5):
        symbols = laplace(bits, count, rng)
        yield f"{bits} bit", Stream.of(symbols, int(symbols.max()) + 1)
    symbols = laplace(3.5, count, rng)
    symbols[rng.random(count) < 0.9] = np.bincount(symbols).argmax()
    yield "90 % zero", Stream.of(symbols, int(symbols.max()) + 1)


def network_stream(path: str, step: float, keep: float) -> Stream:
    """The levels of all tensors of two dimensions and more, in one stream."""
    from safetensors.numpy import load_file

    weights = {k.removeprefix("state/"): w for k, w in load_file(path).items() if w.ndim > 1 and "/" not in k[6:]}
    weights = {k: w for k, w in weights.items() if not k.startswith("moments/")}
    least = np.quantile(np.abs(np.concatenate([w.ravel() for w in weights.values()])), 1 - keep)
    grids = {k: np.rint(np.where(np.abs(w) >= least, w, 0) / step).astype(np.int32) for k, w in weights.items()}
    symbols = np.concatenate([grid.ravel() for grid in grids.values()])
    low, tensors, start = int(symbols.min()), [], 0
    for name, grid in grids.items():
        tensors.append(StreamTensor(name, grid.shape, start, start + grid.size, zero=-low))
        start += grid.size
    spec = StreamSpec(start, int(symbols.max()) - low + 1, ordered=True, tensors=tuple(tensors))
    return Stream(symbols - low, spec)


def static_bits(stream: Stream) -> float:
    """Zeroth-order entropy, bits per symbol; of each tensor by itself where the stream has some."""
    parts = [stream.symbols[t.start : t.stop] for t in stream.spec.tensors] or [stream.symbols]
    return sum(part.size * entropy(part) for part in parts) / stream.spec.count


def coders(names: list[str]) -> dict[str, Coder]:
    """Those of the names that are installed."""
    found: dict[str, Coder] = {}
    for name in names:
        plugin, parameters = VARIANTS.get(name, (name, {}))
        if plugin in registry().names("coder"):
            coder = registry().make("coder", plugin, parameters)
            assert isinstance(coder, Coder)
            found[name] = coder
    return found


def speeds(stream: Stream, chosen: dict[str, Coder], repeats: int) -> list[list[object]]:
    """Rows: name, bits per symbol, their excess over the entropy in %, encoding and decoding in million symbols per second."""  # noqa: E501
    count = stream.spec.count
    best = {name: [float("inf"), float("inf")] for name in chosen}
    bits = dict.fromkeys(chosen, 0.0)
    for turn in range(repeats + 1):
        for name, coder in chosen.items():
            started = time.process_time()
            encoded = coder.encode(stream)
            middle = time.process_time()
            decoded = coder.decode(encoded, stream.spec)
            ended = time.process_time()
            if turn:
                best[name] = [min(best[name][0], middle - started), min(best[name][1], ended - middle)]
            else:
                assert np.array_equal(decoded, stream.symbols)
                bits[name] = 8 * (len(encoded.table) + len(encoded.payload)) / count
    h = static_bits(stream)
    return [
        [name, bits[name], 100 * (bits[name] / h - 1), count / best[name][0] / 1e6, count / best[name][1] / 1e6]
        for name in chosen
    ]


def held(stream: Stream, coder: Coder) -> list[float]:
    """Bytes per symbol beyond input and output, encoding and decoding."""
    encoded = coder.encode(stream)
    coder.decode(encoded, stream.spec)
    size = len(encoded.table) + len(encoded.payload)
    found = []
    for task, output in ((lambda: coder.encode(stream), size), (lambda: coder.decode(encoded, stream.spec), 4)):
        tracemalloc.start()
        task()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        beyond = peak - (size if output == size else 4 * stream.spec.count)
        found.append(beyond / stream.spec.count)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--coder", nargs="*", default=[*OWN, *PEERS])
    parser.add_argument("--linear", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--weights")
    parser.add_argument("--step", type=float, nargs="*", default=[0.045, 0.1])
    parser.add_argument("--keep", type=float, default=1.0)
    arguments = parser.parse_args()
    chosen = coders(arguments.coder)
    columns = ["coder", "bits/symbol", "over entropy %", "encode Msym/s", "decode Msym/s"]
    if arguments.linear:
        for count in (10**5, 10**6, 10**7):
            name, stream = list(streams(count))[1]
            rows = speeds(stream, {k: v for k, v in chosen.items() if k in OWN}, arguments.repeats)
            sys.stdout.write(f"\n{name}, {count} symbols\n{tabulate(rows, columns, floatfmt='.3f')}\n")
        return
    found = streams(arguments.count)
    if arguments.weights:
        found = ((f"step {s}", network_stream(arguments.weights, s, arguments.keep)) for s in arguments.step)
    for name, stream in found:
        if arguments.memory:
            rows = [[k, *held(stream, coder)] for k, coder in chosen.items() if k in OWN]
            text = tabulate(rows, ["coder", "encoding, bytes/symbol", "decoding"], floatfmt=".2f")
        else:
            rows = speeds(stream, chosen, arguments.repeats)
            text = tabulate(rows, columns, floatfmt=("", ".4f", ".2f", ".0f", ".0f"))
        sys.stdout.write(f"\n{name}: entropy {static_bits(stream):.4f}, {stream.spec.alphabet} levels\n{text}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
