# ruff: noqa: T201 - it prints
"""How far quantizers are from the rate-distortion bound, on Gaussian weights where it is known.

    python benchmarks/known_spectrum.py [--rows 2048] [--columns 128]

draws Gaussian weights and second moments whose eigenvalues spread from 1 to S in equal steps of their logarithm, in a
random basis or along the columns themselves (inputs of unequal size), quantizes with one step (``uniform``, ``gptq``),
with one step and a price (``gptq``, ``cerwu``) and with a step for each column (``watersic``), codes the levels with
``context`` and ``rans``, and prints bits per weight and how many of them are above the bound at the error that was made
(``nqbench.api.toolkit.bound``). Steps are in standard deviations; no damping.
"""

from __future__ import annotations

import argparse
import math

import torch
from nqbench_coders.context import Context
from nqbench_coders.rans import Rans
from nqbench_quantizers.cerwu import CERWU
from nqbench_quantizers.gptq import GPTQ
from nqbench_quantizers.uniform import Uniform
from nqbench_quantizers.watersic import WaterSIC
from torch import Tensor

from nqbench.api import Coder, Quantized, Quantizer, SecondMoments, Source, Stream, StreamSpec, StreamTensor
from nqbench.api.toolkit.bound import Spectrum


def methods(step: float) -> dict[str, Quantizer]:
    common = {"step": step, "damping": 0.0}
    return {
        "uniform": Uniform(step=step),
        "gptq": GPTQ(**common),
        "gptq, lam 0.1": GPTQ(lam=0.1, **common),
        "cerwu, lam 0.1": CERWU(lam=0.1, **common),
        "watersic": WaterSIC(**common),
        "watersic, beam_width 8": WaterSIC(beam_width=8, **common),
    }


def moments(columns: int, spread: float, basis: str) -> Tensor:
    """(1, m, m) float32 of eigenvalues 1 to ``spread``."""
    values = torch.logspace(0, math.log10(spread), columns, dtype=torch.float64)
    if basis == "random":
        draws = torch.randn(columns, columns, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        axes = torch.linalg.qr(draws)[0]
    else:
        axes = torch.eye(columns).double()[torch.randperm(columns, generator=torch.Generator().manual_seed(2))]
    return (axes * values @ axes.T).float()[None]


def bits(q: Quantized, shape: tuple[int, int], coder: Coder) -> float:
    symbols = q.symbols.numpy()
    spec = StreamSpec(symbols.size, q.alphabet, ordered=True, tensors=(StreamTensor("w", shape, 0, symbols.size),))
    coded = coder.encode(Stream(symbols, spec))
    return 8 * (len(coded.table) + len(coded.payload)) / symbols.size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--columns", type=int, default=128)
    options = parser.parse_args()
    w = torch.randn(options.rows, options.columns, generator=torch.Generator().manual_seed(3))
    for spread, basis in [(1, "random"), *((s, b) for s in (30, 1000, 100_000) for b in ("random", "columns"))]:
        h = moments(options.columns, spread, basis)
        source = Source.of([("w", w)], sensitivity=SecondMoments((h,))).with_(rate=Coder().rate)
        spectrum = Spectrum.of(w, h)
        for name in methods(1.0):
            print(f"{spread:>7} {basis:8} {name:24}", end="")
            for step in (0.5, 1.0, 1.8):
                one = methods(step)[name]
                q = one.quantize(source.with_(sensitivity=None) if name == "uniform" else source)
                e = (w - q.reconstruct().reshape(w.shape)).double()
                bound = spectrum.rate(float(((e @ h[0].double()) * e).sum())) / w.numel()
                rates = [bits(q, (options.rows, options.columns), coder) for coder in (Context(), Rans())]
                print(f"  {rates[0]:.3f} (+{rates[0] - bound:.3f}; rans +{rates[1] - bound:.3f})", end="")
            print(flush=True)


if __name__ == "__main__":
    main()
