# ruff: noqa: T201 - a script that prints its table
"""How long `gptq` takes: on ResNet-32 inside `sequential`, and on a stack of linear layers of 22 million weights.

    python benchmarks/gptq.py [--samples 1000] [--threads 2] [--weights 22000000] [--only resnet32 linear]
        [--device cuda]

Each line: seconds of wall clock and of CPU time, and the bits that the levels' own entropies stand for. ResNet-32 needs
CIFAR-10 and the given weights (NQBENCH_DATA); its line is quantization as a trial does it: one forward pass of the
training samples with each layer corrected and quantized on the way. The linear layers are square; inputs i and j are
correlated by 0.9^|i - j|.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]

from nqbench_models.resnet import ResNet32  # noqa: E402
from nqbench_quantizers.gptq import GPTQ  # noqa: E402
from nqbench_training import second_moments  # noqa: E402
from nqbench_training.sequential import Sequential  # noqa: E402

from nqbench.api import Coder, Quantized, SecondMoments, Source, SourceTensor, Task  # noqa: E402

CASES = ("resnet32", "linear")


@contextmanager
def timed(case: str, results: list[Quantized]) -> Iterator[None]:
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    for q in results:
        q.symbols.cpu()  # a GPU has to finish first
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    count = sum(q.n for q in results)
    bits = sum(q.n * (q.statistics or {}).get("entropy", 0.0) for q in results) / count
    print(f"{case:<28} {count:>11,} weights  {wall:7.1f} s  {cpu:7.1f} s CPU  {bits:6.3f} bits", flush=True)


def resnet(samples: int, lam: float, beam_width: int, device: torch.device) -> None:
    model = ResNet32()
    module = model.load(device)
    task = Task(
        model,
        module,
        tuple(model.compressible(module)),
        quantizer=GPTQ(step=0.12, lam=lam, beam_width=beam_width),
        granularity="layer",
        sensitivity=second_moments.SecondMoments(samples=samples),
        rate=Coder().rate,
    )
    results: list[Quantized] = []
    with timed(f"resnet32, lambda {lam:g}, beam_width {beam_width}", results):
        results += [group.quantized for group in Sequential().train(task, None).groups]


def linear(weights: int, width: int, lam: float, device: torch.device) -> None:
    """Layer after layer; drawing their weights is not timed."""
    generator = torch.Generator().manual_seed(0)
    layers = max(1, round(weights / width**2))
    sources = [source(generator, width, device) for _ in range(layers)]
    results: list[Quantized] = []
    with timed(f"{layers} linear layers, lambda {lam:g}", results):
        results += [GPTQ(step=0.03, lam=lam).quantize(one) for one in sources]


def source(generator: torch.Generator, width: int, device: torch.device) -> Source:
    place = torch.arange(width, device=device)
    moments = 0.9 ** (place[:, None] - place).abs().float()
    weights = torch.randn(width * width, generator=generator).to(device) * 0.02
    tensor = SourceTensor("weight", (width, width), 0, weights.numel())
    return Source(weights, (tensor,), SecondMoments((moments[None],)), rate=Coder().rate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1000, help="calibration images of ResNet-32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--weights", type=int, default=22_000_000, help="of the linear layers together")
    parser.add_argument("--width", type=int, default=2048, help="inputs and outputs of each linear layer")
    parser.add_argument("--only", nargs="*", choices=CASES, default=CASES)
    parser.add_argument("--lam", nargs="*", type=float, default=[0.0, 0.1])
    parser.add_argument("--beam-width", nargs="*", type=int, default=[1], help="on ResNet-32")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for lam in options.lam:
        if "resnet32" in options.only:
            for beam_width in options.beam_width:
                resnet(options.samples, lam, beam_width, options.device)
        if "linear" in options.only:
            linear(options.weights, options.width, lam, options.device)


if __name__ == "__main__":
    main()
