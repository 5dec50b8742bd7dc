"""nqbench: how small can a trained network's weights be made, in real bytes, at which accuracy.

``nqbench.run("suites/quickstart.yaml")`` does what the command of that name does and returns a pandas DataFrame;
``nqbench.compress(module, batches)`` puts a network into a file, ``nqbench.load("x.nqz")`` gives a file's tensors, and
``nqbench.load_into(module, "x.nqz")`` puts them in place; ``nqbench.save(state, "x.nqz")`` needs no data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nqbench.files import load, load_into, save
from nqbench.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from torch import nn

    from nqbench.in_memory import Compressed


def run(suite: str | Path, output: str | Path | None = None, **options: Any) -> pd.DataFrame:
    """Run a suite file, or a shipped suite by name, and return its records, one per row.

    output: the folder for records, files and reports; by default ``reports/<suite>``. options: what
    ``nqbench.engine.run_suite`` takes (``jobs``, ``engine``, ``device``, ``timeout``, ``only``, ``sets``, ...).
    Call it under ``if __name__ == "__main__":``, since it starts worker processes.
    """
    from nqbench.engine import run_suite
    from nqbench.results.frame import to_frame

    return to_frame(run_suite(suite, output, **options).records)


def compress(module: nn.Module, batches: Any, **options: Any) -> Compressed:
    """Compress a network of this process into a ``.nqz`` file: the smallest whose metric falls by at most ``max_drop``.

    batches: what to calibrate and to evaluate on. options: see ``nqbench.in_memory.compress``.
    """
    from nqbench.in_memory import compress as compress_in_memory

    return compress_in_memory(module, batches, **options)


__all__ = ["__version__", "compress", "load", "load_into", "run", "save"]
