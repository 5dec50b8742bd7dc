# ruff: noqa: T201 - it prints
"""What the runner itself costs a trial, beyond the work of the methods.

    python benchmarks/overhead.py [--trials 500] [--profile]

runs trials with a quantizer and a coder that do nothing on a network of LeNet-300-100's size (784-300-100-10) whose
evaluation is trivial: half of the trials differ in the quantizer's parameter, half in the coder's, as in a suite. It
prints wall and CPU milliseconds a trial, in a worker of this process (by stage, from the records) and through the
engine, parent and worker together, less their start-up. Then the same suite
once more into another folder, where all of it comes from the cache. The goals: at most 12 ms a trial through the
engine, 2 ms restored, on an idle core.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import os
import pstats
import statistics
import sys
import tempfile
import textwrap
import time
from collections import defaultdict
from pathlib import Path

PLUGINS = '''
"""A network without work, a quantizer and a coder that do nothing."""

import numpy as np
import torch
from torch import nn

from nqbench.api import Coder, Encoded, Evaluation, Model, Quantized, Quantizer, hookimpl


class Blank(Model, name="blank"):
    """784-300-100-10, zeros, evaluated without data."""

    def fingerprint(self):
        return "blank"

    def load(self, device):
        net = nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))
        for p in net.parameters():
            nn.init.zeros_(p)
        return net.to(device)

    def batches(self, split, *, batch_size=256, shuffle=None):
        yield torch.zeros(1, 784), torch.zeros(1, dtype=torch.int64)

    def evaluate(self, module, split="test"):
        return Evaluation({"accuracy": 10.0})


class Null(Quantizer, name="null-quantizer"):
    """Every weight is symbol 0 of a codebook with one entry."""

    number: int = 0

    def quantize(self, source):
        symbols = torch.zeros(source.n, dtype=torch.int32)
        return Quantized(symbols, 1, source.sizes, {"codebook": torch.full((1,), float(self.number))})


class Nothing(Coder, name="null-coder"):
    """No byte: there is one symbol only."""

    number: int = 0

    def encode(self, stream):
        return Encoded(b"", b"")

    def decode(self, encoded, spec):
        return np.zeros(spec.count, dtype=np.int32)


@hookimpl
def nqbench_plugins():
    return [Blank, Null, Nothing]
'''

SUITE = """
name: overhead
models: [blank]
quantizers:
  - null-quantizer: {{number: [{quantizers}]}}
coders:
  - null-coder: {{number: [0, 1]}}
"""


def install(folder: Path) -> None:
    info = folder / "nqbench_overhead-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nqbench-overhead\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[nqbench]\noverhead = nqbench_overhead\n")
    (folder / "nqbench_overhead.py").write_text(textwrap.dedent(PLUGINS))
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))


def in_this_process(suite: Path, folder: Path, profile: bool) -> None:
    """The worker's part: every trial on one bench."""
    import torch

    from nqbench.pipeline.cache import Cache
    from nqbench.pipeline.workbench import Workbench
    from nqbench.registry import registry
    from nqbench.suite import load

    trials = load(suite).trials()
    bench = Workbench(registry(), Cache(folder / "cache"), torch.device("cpu"))
    bench.run(trials[0], folder / "files")  # imports, and the decoder's start
    stages: dict[str, list[float]] = defaultdict(list)
    profiler = cProfile.Profile(time.process_time) if profile else contextlib.nullcontext()
    wall, cpu = time.perf_counter(), time.process_time()
    walls = []
    with profiler:
        for trial in trials[1:]:
            start = time.perf_counter()
            figures = bench.run(trial, folder / "files")
            walls.append(time.perf_counter() - start)
            for stage, seconds in figures["seconds"].items():
                stages[stage].append(seconds)
    wall, cpu, count = time.perf_counter() - wall, time.process_time() - cpu, len(trials) - 1
    print(f"worker alone: {1e3 * wall / count:.1f} ms wall (median {1e3 * statistics.median(walls):.1f}), "
          f"{1e3 * cpu / count:.1f} ms CPU a trial")  # fmt: skip
    for stage, seconds in sorted(stages.items(), key=lambda item: -sum(item[1])):
        print(f"  {stage:15} {1e3 * sum(seconds) / count:6.2f} ms")
    print(f"  {'between stages':15} {1e3 * (wall - sum(map(sum, stages.values()))) / count:6.2f} ms")
    bench.close()
    if isinstance(profiler, cProfile.Profile):
        pstats.Stats(profiler).sort_stats("cumtime").print_stats(45)


def through_the_engine(suite: Path, folder: Path) -> None:
    """A whole run; the time to its first record, which is start-up, is left out."""
    import psutil

    from nqbench.engine import Silent, run_suite

    class Clock(Silent):
        def __init__(self) -> None:
            self.times: list[float] = []
            self.cpu: list[dict[str, float]] = []

        def ended(self, record: object, label: str, *, again: bool = False) -> None:
            self.times.append(time.perf_counter())
            if len(self.times) in (1, total):
                self.cpu.append({role(p): _cpu(p) for p in [me, *me.children(recursive=True)]})

    def role(process: psutil.Process) -> str:
        words = " ".join(process.cmdline())
        if process.pid == me.pid:
            return "parent"
        names = {"nqbench.pipeline.decoder": "decoder", "spawn_main": "worker"}
        return next((name for word, name in names.items() if word in words), "tracker")

    me, clock = psutil.Process(), Clock()
    from nqbench.suite import load

    total = len(load(suite).trials())
    start = time.perf_counter()
    run_suite(suite, folder / "out", progress=clock)
    count = len(clock.times) - 1
    spent = {name: clock.cpu[1][name] - clock.cpu[0].get(name, 0.0) for name in clock.cpu[1]}
    print(f"through the engine: {1e3 * (clock.times[-1] - clock.times[0]) / count:.1f} ms wall, "
          f"{1e3 * sum(spent.values()) / count:.1f} ms CPU a trial "
          f"({', '.join(f'{name} {1e3 * s / count:.1f}' for name, s in spent.items())}); "
          f"start-up {clock.times[0] - start:.1f} s, "
          f"reports {time.perf_counter() - clock.times[-1]:.1f} s")  # fmt: skip
    clock = Clock()
    start, cpu = time.perf_counter(), time.process_time()
    run_suite(suite, folder / "again", progress=clock)
    restored = clock.times[-1] - clock.times[0]
    print(f"restored from the cache: {1e3 * restored / count:.1f} ms wall a trial; with start and reports "
          f"{1e3 * (time.perf_counter() - start) / total:.1f} ms wall, "
          f"{1e3 * (time.process_time() - cpu) / total:.1f} ms CPU")  # fmt: skip


def _cpu(process: object) -> float:
    times = process.cpu_times()  # type: ignore[attr-defined]
    return float(times.user + times.system)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--profile", action="store_true", help="where the worker's time goes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nqbench-overhead-") as name:
        folder = Path(name)
        os.environ["NQBENCH_CACHE"] = str(folder / "stages")
        os.environ["OMP_NUM_THREADS"] = "1"
        if hasattr(os, "sched_setaffinity"):  # one core: what runs side by side is not hidden
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        install(folder)
        suite = folder / "overhead.yaml"
        suite.write_text(SUITE.format(quantizers=", ".join(str(n) for n in range(options.trials // 2))))
        in_this_process(suite, folder, options.profile)
        if not options.profile:
            through_the_engine(suite, folder)


if __name__ == "__main__":
    main()
