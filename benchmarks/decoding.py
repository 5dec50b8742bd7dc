# ruff: noqa: T201 - a script that prints its table
"""How much longer a file with scales by channel or group takes to decode than one with a scale for each tensor.

    python benchmarks/decoding.py [--weights 4000000] [--coders raw huffman rans] [--rounds 5]

Gaussian weights in square matrices, four bits each, as whole files; ``nqbench.load`` reads, checks and decodes each of
them in turn, round after round, so that what else the machine does meets all alike. Shown are the least CPU seconds,
their ratio to the tensor-scaled file of the same coder, and the bytes.
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

_SIDE = 1000
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
            paths = []
            for i, (_, quantizer, parameters) in enumerate(CASES):
                paths.append(Path(folder) / f"{i}-{coder}.nqz")
                nqbench.save(state, paths[-1], quantizer=quantizer, parameters=parameters, coder=coder)
            seconds = [[_seconds(path) for path in paths] for _ in range(given.rounds)]
            least = [min(column) for column in zip(*seconds, strict=True)]
            for (title, _, _), path, time_taken in zip(CASES, paths, least, strict=True):
                ratio = time_taken / least[0]
                print(
                    f"{coder:8} {title:30} {time_taken:7.3f} s {ratio:5.2f}x {path.stat().st_size:12,} bytes",
                    flush=True,
                )


def _seconds(path: Path) -> float:
    begun = time.process_time()
    nqbench.load(path)
    return time.process_time() - begun


if __name__ == "__main__":
    main(sys.argv[1:])
