"""What the kernels are built of, against plain Python."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nqbench_coders import kernels
from nqbench_coders.kernels import high_product
from nqbench_coders.kernels.rans import reciprocals


@numba.njit
def _upper(a: np.uint64, b: np.uint64) -> np.uint64:
    return high_product(a, b)


@settings(deadline=None)  # the first call compiles
@given(a=st.integers(0, 2**64 - 1), b=st.integers(0, 2**64 - 1))
def test_the_upper_half_of_a_product(a: int, b: int) -> None:
    assert int(_upper(np.uint64(a), np.uint64(b))) == a * b >> 64


@settings(max_examples=500, deadline=None)
@given(f=st.integers(1, 2**28 - 1), x=st.integers(1, 2**63 - 1), precision=st.just(28))
@example(f=2**27, x=2**63 - 1, precision=28)
@example(f=3, x=2**63 - 1, precision=28)
@example(f=1, x=2**63 - 1, precision=28)
def test_a_reciprocal_divides_exactly(f: int, x: int, precision: int) -> None:
    """The state after a push is F-adic: (x // F) 2^P + x mod F + C, as the decoder undoes it."""
    before = 2**precision - f  # the symbol in question is the second of two
    rows = [int(value) for value in reciprocals(np.array([before, f]), precision)[4:]]
    assert rows[0] == f << (63 - precision)
    quotient = x * rows[1] >> 64 + (rows[3] & 63)
    pushed = x + rows[2] + quotient * (rows[3] >> 8)
    assert pushed == ((x // f) << precision) + x % f + before


def test_a_kernel_is_compiled_anew_when_a_part_in_another_file_changes(tmp_path: Path) -> None:
    package = tmp_path / "copied"
    package.mkdir()
    (package / "__init__.py").write_text(Path(kernels.__file__).read_text())
    whole = "from copied import bare\nfrom copied.parts import value\n\n@bare\ndef whole(x):\n    return value(x)\n"
    (package / "whole.py").write_text(whole)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    asked = "from copied.whole import whole; print(whole(1), sum(whole.stats.cache_hits.values()))"
    told = []
    for added in (1, 1, 2):
        parts = f"from copied import part\n\n@part\ndef value(x):\n    return x + {added}\n"
        (package / "parts.py").write_text(parts)
        run = [sys.executable, "-c", asked]
        told.append(subprocess.run(run, env=environment, capture_output=True, text=True, check=True).stdout.split())
    assert told == [["2", "0"], ["2", "1"], ["3", "0"]]
