# ruff: noqa: T201 - a script that prints its table
"""Times, memory and distortion of the quantizers at AlexNet's size, beside other libraries' k-means where installed.

    python benchmarks/quantizers.py [--weights 61000000] [--only kmeans ecsq] [--peers 10000000]
    python benchmarks/quantizers.py --only groups [--weights 22000000] [--rounds 3] [--width 2048]

Each line: seconds of wall clock and of CPU time, peak memory beyond what was there before, what was asked, and the
distortion where it means something. Compiled loops are warmed up first. Runs on two cores alone, or the wall clock is
someone else's.

``groups`` is another table: CPU seconds of scales by groups of weights beside one grid, on square layers of a network,
and what they are of the grid's. The methods take turns, each has the least of its rounds.
On one thread, 5 layers of 2048 x 2048, least of two rounds: uniform 0.23 s; rtn 0.69 and 0.67 of that by groups of 32
and 64, nf4 0.81 and 0.84; gptq with one step 12.1 s, with 4 bits by groups of 128 1.32 of that.
"""

from __future__ import annotations

import argparse
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

import psutil
import torch

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]

from nqbench_models.synthetic import sample  # noqa: E402
from nqbench_quantizers import peers  # noqa: E402
from nqbench_quantizers.ecsq import ECSQ, Code, ECSQOptimal  # noqa: E402
from nqbench_quantizers.gptq import GPTQ  # noqa: E402
from nqbench_quantizers.kmeans import KMeans  # noqa: E402
from nqbench_quantizers.lagrangian import weighted_step  # noqa: E402
from nqbench_quantizers.lattice import Lattice, RandomizedLattice  # noqa: E402
from nqbench_quantizers.rtn import RTN  # noqa: E402
from nqbench_quantizers.scaled import PowersOfTwo, Ternary  # noqa: E402
from nqbench_quantizers.tabled import NF4  # noqa: E402
from nqbench_quantizers.uniform import Uniform  # noqa: E402

from nqbench.api import Coder, Diagonal, Quantizer, SecondMoments, Source  # noqa: E402
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
    parser.add_argument("--weights", type=float, help="61 million; of groups 22 million")
    parser.add_argument("--peers", type=float, default=0, help="compare k-means, k = 16, at this many weights")
    parser.add_argument("--only", nargs="*", default=[], help="kmeans, ecsq, weighted, lattice, other, groups")
    parser.add_argument("--rounds", type=int, default=3, help="of groups")
    parser.add_argument("--width", type=int, default=2048, help="inputs and outputs of a layer of groups")
    chosen = parser.parse_args()
    if "groups" in chosen.only:
        groups(int(22e6 if chosen.weights is None else chosen.weights), chosen.width, chosen.rounds)
    if chosen.only != ["groups"]:
        table(int(61e6 if chosen.weights is None else chosen.weights), int(chosen.peers), chosen.only)


def table(count: int, peers_count: int, only: Sequence[str]) -> None:
    warm_up()
    print(f"{torch.get_num_threads()} threads, {count:,} Laplace weights")
    print(f"{'wall s':>8} {'cpu s':>8} {'MiB':>6}  case")
    if count:
        weights = torch.from_numpy(sample(count, "laplace", 1.0, 0))
        for family, label, work in cases(weights):
            if not only or family in only:
                report(label, work)
    if peers_count:
        weights = torch.from_numpy(sample(peers_count, "laplace", 1.0, 0))
        print(f"{peers_count:,} weights, k = 16")
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


def groups(weights: int, width: int, rounds: int) -> None:
    """Against ``uniform`` all layers are one source; ``gptq`` takes one after another, with the moments of inputs that
    are correlated by 0.9^|i - j|."""
    place = torch.arange(width)
    moments = SecondMoments((0.9 ** (place[:, None] - place).abs().float()[None],))
    layers = [
        (f"layer{i}.weight", torch.from_numpy(sample(width**2, "laplace", 0.02 / (1 + i), i)).reshape(width, width))
        for i in range(max(1, round(weights / width**2)))
    ]
    grids: dict[str, Quantizer] = {"uniform": Uniform()}
    for g in (32, 64):
        grids[f"rtn, 4 bits, groups of {g}"] = RTN(bits=4, granularity="group", group=g)
        grids[f"nf4, groups of {g}"] = NF4(granularity="group", group=g)
    feedback: dict[str, Quantizer] = {
        "gptq, one step": GPTQ(step=0.01),
        "gptq, 4 bits, groups of 128": GPTQ(bits=4, granularity="group", group=128),
    }
    for quantizer in (*grids.values(), *feedback.values()):  # compiled
        small = torch.from_numpy(sample(4096, "laplace", 0.02, 0)).reshape(64, 64)
        identity = SecondMoments((torch.eye(64)[None],)) if quantizer.name == "gptq" else None
        quantizer.quantize(Source.of([("weight", small)], sensitivity=identity, rate=Coder().rate))
    print(f"{len(layers)} layers of {width} x {width} weights, {rounds} rounds, {torch.get_num_threads()} threads")
    print(f"{'cpu s':>8} {'of the first':>12}")
    _turns(grids, rounds, lambda: [Source.of(layers)])
    _turns(feedback, rounds, lambda: [Source.of([one], sensitivity=moments, rate=Coder().rate) for one in layers])


def _turns(quantizers: dict[str, Quantizer], rounds: int, sources: Callable[[], Sequence[Source]]) -> None:
    """The sources are new for each turn: nobody finds another's views."""
    least = dict.fromkeys(quantizers, math.inf)
    for _ in range(rounds):
        for label, quantizer in quantizers.items():
            given = sources()
            start = time.process_time()
            for source in given:
                quantizer.quantize(source)
            least[label] = min(least[label], time.process_time() - start)
    first = next(iter(least.values()))
    for label, seconds in least.items():
        print(f"{seconds:8.2f} {seconds / first:12.2f}  {label}", flush=True)


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
