"""Every script of ``benchmarks/`` still runs: with its smallest setting, and prints its figures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nqbench.api import DataMissing
from nqbench.registry import registry

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SMALLEST: dict[str, tuple[str, ...]] = {
    "cluster": ("many --small", "memory of"),
    "coders": ("--count 2000 --repeats 1 --coder rans zlib-huffman", "rans"),
    "decoding": ("--weights 1 --rounds 1 --coders raw", "nf4, per 64"),
    "equal_loss": (f"{BENCHMARKS.parent}/reports/reference/frontier/records.json --at 0.032", "gptq"),
    "first_calls": ("--processes 8", "chosen on one thread: 0 of 4 processes differ"),
    "gptq": ("--weights 4096 --width 64 --only linear --lam 0.1 --threads 1", "linear layers"),
    "known_spectrum": ("--rows 32 --columns 8", "watersic, beam_width 8"),
    "overhead": ("--trials 4", "restored from the cache"),
    "quantizers": (
        "--weights 2000 --only lattice groups --width 32 --rounds 1",
        "lattice(step=0.5)",
        "rtn, 4 bits, groups of 32",
        "nf4, groups of 64",
        "gptq, 4 bits, groups of 128",
    ),
    "report": ("--records 20 --repeats 1", "whole report"),
    "sensitivities": ('--model lenet300 --params {"data":"digits"} --samples 8 --threads 1', "fisher"),
    "training": ("--steps 1 --repeats 1 --only lenet300", "lenet300"),
}
"""Options of each script, and words of what it prints."""


def test_every_benchmark_has_a_smallest_setting() -> None:
    assert sorted(SMALLEST) == sorted(path.stem for path in BENCHMARKS.glob("*.py"))


@pytest.mark.parametrize("name", SMALLEST)
def test_a_benchmark_runs_and_prints_its_figures(name: str, tmp_path: Path) -> None:
    if name == "training":
        try:
            registry().get("model", "lenet300")().prepare()  # type: ignore[attr-defined]
        except DataMissing as error:
            pytest.skip(str(error))
    options, *words = SMALLEST[name]
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / f"{name}.py"), *options.split()],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    assert [word for word in words if word not in done.stdout] == []
