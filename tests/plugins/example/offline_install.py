"""Distributions installed as a stranger's would be, but without a network, and commands run beside them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def pip_install(target: Path, *sources: Path) -> None:
    """``pip install`` of source folders into a target folder; nothing is looked up or downloaded."""
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "-q"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *offline, "--target", target, *sources], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def python_beside(target: Path, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs Python where the target folder's distributions are installed too."""
    path = os.pathsep.join(filter(None, [str(target), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, cwd=cwd)


def nqbench_beside(target: Path, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the command ``nqbench`` there."""
    return python_beside(target, "-c", "from nqbench.cli import main; main()", *arguments, cwd=cwd)
