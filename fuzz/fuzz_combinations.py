"""Every configuration of every quantizer, under every sensitivity and granularity, with every configuration of every
training and every way of positions, on one tensor and on several: each must become a file.

``python fuzz/fuzz_combinations.py [every]``: every how manyth of them is made (default 1, all: some 31,000). The short
version is ``tests/pipeline/test_every_combination.py``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests" / "pipeline"))

from combinations import all_trials, failures

from nqbench.pipeline.decoder import Decoder


def main() -> int:
    """The number of combinations that failed, 1 at most."""
    every = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    chosen = all_trials()[::every]
    decoder, count = Decoder(), 0
    with tempfile.TemporaryDirectory() as folder:
        for line in failures(decoder, chosen, Path(folder)):
            count += 1
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
    decoder.close()
    sys.stdout.write(f"{len(chosen)} combinations, {count} failed\n")
    return min(count, 1)


if __name__ == "__main__":
    sys.exit(main())
