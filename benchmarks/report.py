# ruff: noqa: T201 - it prints
"""What a report costs: every file of it, from a store of many records.

    python benchmarks/report.py [--records 10000] [--repeats 3] [--profile]

fills a store with synthetic records (two networks, quantizers swept over a knob, coders, ten thousand test examples
each) and prints wall and CPU seconds of ``rebuild`` and of its parts, the least of the repeats, and the files' sizes.
The goal: 10,000 records in under ten seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import pstats
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from nqbench.report import rebuild
from nqbench.report.data import load
from nqbench.report.files import records_csv
from nqbench.results.exports import run_json
from nqbench.results.record import Parts, Record, pack_correct
from nqbench.results.store import Store

EXAMPLES = 10_000
CODERS = ("huffman", "rans", "lzw", "bzip2", "xz")
QUANTIZERS = ("uniform", "kmeans", "ecsq", "lattice", "optimal")
GRANULARITIES = ("global", "layer")
ENVIRONMENT = {
    "nqbench": "0", "python": "3.11", "libraries": {"torch": "2", "numpy": "2", "numba": "0"}, "cpu": "a processor",
    "cores": 2, "gpu": [], "hardware": "0" * 12, "threads": 1, "device": "cpu", "git_revision": "f" * 40,
}  # fmt: skip


def make(index: int, run: str, rng: np.random.Generator) -> Record:
    """A sound record; what varies most is the quantizer's knob."""
    rest, coder = divmod(index, len(CODERS))
    rest, quantizer = divmod(rest, len(QUANTIZERS))
    rest, granularity = divmod(rest, len(GRANULARITIES))
    knob, model = divmod(rest, 2)
    bits = 1 + 0.01 * knob + 0.1 * quantizer
    correct = rng.random(EXAMPLES) < 0.99 - 0.05 * 2.0**-bits
    metric = 100.0 * float(correct.mean())
    parts = Parts(header=150, codebook=60, coder_table=40, symbols=int(20_000 * bits * (1 + 0.02 * coder)))
    stages = ("load", "quantize", "encode", "write", "decode", "read", "evaluate")
    return Record.from_dict(
        {
            "run": run, "suite": "many", "status": "ok", "key": f"{index:064x}", "trial": f"{index:016x}",
            "model": ("lenet", "resnet")[model], "model_params": {"data": "digits", "seed": 0},
            "quantizer": QUANTIZERS[quantizer], "quantizer_params": {"step": 0.01 * (knob + 1), "zero": "center"},
            "coder": CODERS[coder], "coder_params": {}, "granularity": GRANULARITIES[granularity], "knob": "step",
            "file": f"files/{index:032x}.nqz", "file_bytes": parts.total, "parts": parts.model_dump(),
            "weights": 160_000, "kept": 160_000, "ratio": 640_000 / parts.total, "file_ratio": 640_000 / parts.total,
            "bits_per_weight": parts.total / 20_000, "entropy": 0.98 * bits, "efficiency": 0.97,
            "mse": 2.0 ** (-2 * bits), "metric_name": "accuracy", "metric": metric, "metric_float": 99.0,
            "metric_delta": metric - 99.0, "metrics": {"accuracy": metric}, "metrics_float": {"accuracy": 99.0},
            "correct": pack_correct(correct), "examples": EXAMPLES, "seconds": dict.fromkeys(stages, 0.01),
            "encode_msym_s": 10.0, "decode_msym_s": 20.0, "peak_bytes": 10**8, "decoded_sha256": f"{index:064x}",
            "environment": ENVIRONMENT,
        }
    )  # fmt: skip


def fill(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    with Store.write(folder) as store:
        name = store.start_run("many", environment=ENVIRONMENT)
        run = next(run for run in store.runs() if run.run == name)
        found = [make(index, name, rng) for index in range(count)]
        store.take(run, [record.key for record in found], found)
        store.end_run(name)


@contextlib.contextmanager
def timed(name: str, into: dict[str, list[tuple[float, float]]]) -> Iterator[None]:
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    into.setdefault(name, []).append((time.perf_counter() - wall, time.process_time() - cpu))


def main() -> None:
    parser = argparse.ArgumentParser(description="What a report costs.")
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="print where the last repeat's time went")
    options = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        fill(folder, options.records)
        for _ in range(options.repeats):
            with timed("whole report", found):
                _, paths = rebuild(folder)
            with timed("  reading the store", found):
                data = load(folder)
            with timed("  ranking rows", found):
                _ = data.rows
            with timed("  ranking methods", found):
                _ = data.methods
            with timed("  records.json", found):
                run_json(data.source, data.records)
            with timed("  records.csv", found):
                records_csv(data.records)
        sizes = {name: path.stat().st_size for name, path in paths.items() if path.is_file()}
        if options.profile:
            profile = cProfile.Profile()
            profile.runcall(rebuild, folder)
            pstats.Stats(profile).sort_stats("tottime").print_stats(40)
    print(f"{options.records} records, the least of {options.repeats}:")
    for name, samples in found.items():
        print(f"{name:22} {min(s[0] for s in samples):7.2f} s wall {min(s[1] for s in samples):7.2f} s CPU")
    for name, size in sorted(sizes.items(), key=lambda item: -item[1])[:6]:
        print(f"{name:22} {size / 1e6:7.1f} MB")


if __name__ == "__main__":
    main()
