"""Random networks through plan, run and decompress: accepts only success or one line.

``python fuzz/fuzz_networks.py [first] [count]``, 200 from number 0 unless said otherwise. The networks are those of
``tests/pipeline/random_networks.py``; the short version is ``tests/pipeline/test_random_networks.py``.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests" / "pipeline"))

from random_suites import outcome

from nqbench.pipeline.decoder import Decoder


def main(first: int = 0, count: int = 200) -> int:
    """1 where a network ended otherwise."""
    warnings.simplefilter("ignore")
    decoder, ends = Decoder(), Counter[str]()
    for number in range(first, first + count):
        with tempfile.TemporaryDirectory() as folder:
            text = outcome(number, decoder, Path(folder))
        kind = text.partition(":")[0] if text == "ok" or text.startswith("refused: ") else "FAULT"
        ends[kind] += 1
        if kind != "ok":
            sys.stdout.write(f"{number}: {text}\n")
            sys.stdout.flush()
    decoder.close()
    sys.stdout.write(f"{count} networks: {dict(ends)}\n")
    return int(ends["FAULT"] > 0)


if __name__ == "__main__":
    sys.exit(main(*(int(text) for text in sys.argv[1:3])))
