# ruff: noqa: T201 - a script that prints its table
"""Times, memory and distortion of the quantizers at AlexNet's size, beside other libraries' k-means where installed.

    python benchmarks/quantizers.py [--weights 61000000] [--only kmeans ecsq] [--peers 10000000]

Each line: seconds of wall clock and of CPU time, peak memory beyond what was there before, what was asked, and the
distortion where it means something. Compiled loops are warmed up first. Runs on two cores alone, or the wall clock is
someone else's.
"""

from __future__ import annotations

import argparse
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import psutil
import torch

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]

from nqbench_models.synthetic import sample  # noqa: E402
from nqbench_quantizers import peers  # noqa: E402
from nqbench_quantizers.ecsq import ECSQ, Code, ECSQOptimal  # noqa: E402
from nqbench_quantizers.kmeans import KMeans  # noqa: E402
from nqbench_quantizers.lagrangian import weighted_step  # noqa: E402
from nqbench_quantizers.lattice import Lattice, RandomizedLattice  # noqa: E402
from nqbench_quantizers.scaled import PowersOfTwo, Ternary  # noqa: E402
from nqbench_quantizers.uniform import Uniform  # noqa: E402

from nqbench.api import Diagonal, Quantizer, Source  # noqa: E402
from nqbench.api.toolkit import sorted_line  # noqa: E402

Case = tuple[str, str, Callable[[], object]]


class Measured:
    """Wall clock, CPU seconds and peak resident memory of a block."""

    def __enter__(self) -> Measured:
        self._process = psutil.Process()
        self._base = self._top = self._process.memory_info().rss
        self._done = threading.Event()
        self._watch = threading.Thread(target=self._sample)
        self._watch.start()
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def _sample(self) -> None:
        while not self._done.wait(0.005):
            self._top = max(self._top, self._process.memory_info().rss)

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.wall, self.cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        self._done.set()
        self._watch.join()
        self.mebibytes = (self._top - self._base) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=float, default=61e6)
    parser.add_argument("--peers", type=float, default=0, help="compare k-means, k = 16, at this many weights")
    parser.add_argument("--only", nargs="*", default=[], help="kmeans, ecsq, weighted, lattice, other")
    chosen = parser.parse_args()
    warm_up()
    print(f"{torch.get_num_threads()} threads, {int(chosen.weights):,} Laplace weights")
    print(f"{'wall s':>8} {'cpu s':>8} {'MiB':>6}  case")
    if chosen.weights:
        weights = torch.from_numpy(sample(int(chosen.weights), "laplace", 1.0, 0))
        for family, label, work in cases(weights):
            if not chosen.only or family in chosen.only:
                report(label, work)
    if chosen.peers:
        weights = torch.from_numpy(sample(int(chosen.peers), "laplace", 1.0, 0))
        print(f"{int(chosen.peers):,} weights, k = 16")
        for quantizer in [KMeans(k=16, optimal=True), KMeans(k=16), *(peer(k=16) for peer in peers.importable())]:
            report(str(quantizer), quantize(quantizer, lambda: Source(weights)))


def report(label: str, work: Callable[[], object]) -> None:
    with Measured() as measured:
        said = work()
    print(f"{measured.wall:8.2f} {measured.cpu:8.2f} {measured.mebibytes:6.0f}  {label}  {said or ''}", flush=True)


def cases(weights: torch.Tensor) -> Iterator[Case]:
    """(family, label, work). Sources are shared as a suite's trials share them: the first of a family pays."""
    source = Source(weights)
    for label, quantizer in (
        ("first", KMeans(k=256, optimal=True)),
        ("again", KMeans(k=256, optimal=True)),
        ("again", KMeans(k=16, optimal=True)),
        ("again", KMeans(k=16)),
    ):
        yield "kmeans", f"{quantizer} {label}", quantize(quantizer, lambda: source)
    for lam in (0.1, 0.01, 0.001):
        yield "ecsq", f"{ECSQ(lam=lam)}", quantize(ECSQ(lam=lam), lambda: source)
    yield "ecsq", f"{ECSQOptimal(lam=0.01)}", quantize(ECSQOptimal(lam=0.01), lambda: source)
    for lattice in (Lattice(step=0.5), *(RandomizedLattice(step=0.5, d=d) for d in (1, 2, 4))):
        yield "lattice", str(lattice), quantize(lattice, lambda: source)
    for other in (Uniform(step=0.1), Uniform(step=0.1, centroids="middle"), PowersOfTwo(), Ternary()):
        yield "other", str(other), quantize(other, lambda: source)
    h = torch.from_numpy(sample(weights.numel(), "laplace", 1.0, 1)).abs_()
    weighted = Source(weights, sensitivity=Diagonal(h))
    yield "weighted", "ecsq, weighted: one iteration, 64 codewords", lambda: iterate(weighted)
    yield "weighted", "ecsq(lam=0.01), weighted", quantize(ECSQ(lam=0.01), lambda: weighted)
    yield "weighted", "kmeans(k=256, optimal), weighted", quantize(KMeans(k=256, optimal=True), lambda: weighted)


def quantize(quantizer: Quantizer, source: Callable[[], Source]) -> Callable[[], object]:
    def work() -> str:
        figures = quantizer.quantize(source()).statistics
        shown = {key: figures[key] for key in ("distortion", "lagrangian", "entropy", "iterations") if key in figures}
        return ", ".join(f"{key} {value:.8g}" for key, value in shown.items())

    return work


def iterate(source: Source) -> None:
    """One weighted iteration."""
    assert source.h is not None
    weighted_step(source.weights, source.h, _codewords(source), 0.01)


def _codewords(source: Source) -> Code:
    """64 codewords without the line's histogram, so that an iteration alone is timed."""
    codebook = torch.linspace(-6, 6, 64, dtype=torch.float64)
    return Code(codebook, torch.exp(-codebook.abs()) * source.n, torch.tensor(math.inf))


def warm_up() -> None:
    """Load or compile every loop, on both kinds of line."""
    weights = torch.from_numpy(sample(200_000, "laplace", 1.0, 0))
    lattices = (RandomizedLattice(step=0.5, d=2), RandomizedLattice(step=0.01, d=4))
    quantizers = (KMeans(k=8, optimal=True), ECSQ(lam=0.1), ECSQOptimal(lam=0.1), *lattices, Uniform(), Ternary())
    for sorted_line.EXACT_BELOW in (1_000, 10_000_000):
        for sensitivity in (None, Diagonal(weights.abs())):
            for quantizer in quantizers:
                quantizer.quantize(Source(weights, sensitivity=sensitivity))


if __name__ == "__main__":
    main()
