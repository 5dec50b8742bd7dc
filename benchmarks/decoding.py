# ruff: noqa: T201 - a script that prints its table
"""How much longer a file with scales by channel or group takes to decode than one with a scale for each tensor.

    python benchmarks/decoding.py [--weights 4000000] [--coders raw huffman rans] [--rounds 5]

Gaussian weights in square matrices, four bits each, as whole files; ``nqbench.load`` reads, checks and decodes each of
them in turn, round after round, so that what else the machine does meets all alike. Shown are the least CPU seconds,
their ratio to the tensor-scaled file of the same coder, their ratio to a file that has the same symbols under one step
for each tensor, and the bytes. The first ratio is also that of the bits: with a scale for all, most of a Gaussian
tensor's four-bit symbols are near 0, and fewer bits are decoded faster. The second is what the scales themselves cost.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]

import torch  # noqa: E402

import nqbench  # noqa: E402
from nqbench.api import Source, SourceTensor  # noqa: E402
from nqbench.registry import registry  # noqa: E402

_SIDE = 1024
CASES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("rtn, a scale per tensor", "rtn", {"bits": 4, "granularity": "layer"}),
    ("rtn, per channel", "rtn", {"bits": 4, "granularity": "channel", "scales": "float16"}),
    ("rtn, per 64", "rtn", {"bits": 4, "granularity": "group", "group": 64, "scales": "float16"}),
    ("rtn, per 64, as codes", "rtn", {"bits": 4, "granularity": "group", "group": 64, "scales": "codes"}),
    ("rtn, per 64, with zero points", "rtn", {"bits": 4, "granularity": "group", "group": 64, "symmetric": False}),
    ("nf4, per 64", "nf4", {"group": 64}),
)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=int, default=4_000_000)
    parser.add_argument("--coders", nargs="+", default=["raw", "huffman", "rans"])
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    layers = max(1, given.weights // _SIDE**2)
    state = {f"layer{i}.weight": torch.randn(_SIDE, _SIDE, generator=generator) for i in range(layers)}
    with tempfile.TemporaryDirectory() as folder:
        for coder in given.coders:
            paths, peers = [], []
            for i, (_, quantizer, parameters) in enumerate(CASES):
                paths.append(Path(folder) / f"{i}-{coder}.nqz")
                nqbench.save(state, paths[-1], quantizer=quantizer, parameters=parameters, coder=coder)
                peers.append(Path(folder) / f"{i}-{coder}-peer.nqz")
                levels = {name: _symbols(name, w, quantizer, parameters) for name, w in state.items()}
                nqbench.save(levels, peers[-1], quantizer="uniform", parameters={"step": 1.0}, coder=coder)
            seconds = [[_seconds(path) for path in (*paths, *peers)] for _ in range(given.rounds)]
            least = [min(column) for column in zip(*seconds, strict=True)]
            for i, (title, _, _) in enumerate(CASES):
                ratio, own = least[i] / least[0], least[i] / least[len(CASES) + i]
                size = paths[i].stat().st_size
                print(f"{coder:8} {title:30} {least[i]:7.3f} s {ratio:5.2f}x {own:5.2f}x {size:12,} bytes", flush=True)


def _symbols(name: str, weights: torch.Tensor, quantizer: str, parameters: dict[str, Any]) -> torch.Tensor:
    """What the quantizer writes of a tensor, around 0, as float32 weights."""
    method: Any = registry().make("quantizer", quantizer, parameters)
    source = Source(weights.reshape(-1), (SourceTensor(name, tuple(weights.shape), 0, weights.numel()),))
    q = method.quantize(source)
    return (q.symbols - q.alphabet // 2).float().reshape(weights.shape)


def _seconds(path: Path) -> float:
    begun = time.process_time()
    nqbench.load(path)
    return time.process_time() - begun


if __name__ == "__main__":
    main(sys.argv[1:])
