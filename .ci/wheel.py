"""Builds wheel and sdist, and tries the wheel as a stranger has it: installed, in an empty folder, Python by Python.

    python .ci/wheel.py [--python 3.11 --python 3.12 ...] [--dist dist] [--reuse SITE_PACKAGES]

Needs ``build``. A Python that the machine lacks is had by ``uv`` where that is installed and its mirror is reached; one
that cannot be had is said and, unless it was asked for with --python, left out. The commands are those of a first
quarter of an hour: list, show, plan, run a shipped suite by its name, report, verify, inspect, compress. ``--reuse``
takes the dependencies of an environment that is there instead of downloading PyTorch again (the same Python only).
"""

# ruff: noqa: T201 - a script

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.11", "3.12", "3.13")
MOST_WHEEL = 2 * 1024 * 1024
MOST_SDIST = 8 * 1024 * 1024  # golden files and tests included
IN_WHEEL = (
    "nqbench/py.typed", "nqbench/reports/bundle.yaml", "nqbench/suites/quickstart.yaml",
    "nqbench/suites/published.yaml", "nqbench/templates/quantizer/module.py.tmpl", "nqbench_quantizers/__init__.py",
    "nqbench_coders/__init__.py", "nqbench_models/__init__.py", "nqbench_training/__init__.py",
)  # fmt: skip
COMMANDS = (
    ("--version",),
    ("list",),
    ("show", "kmeans"),
    ("plan", "quickstart"),
    ("run", "quickstart", "--only", "coder=huffman,granularity=global,quantizer=uniform", "--jobs", "1"),
    ("report", "reports/quickstart"),
    ("verify", "reports/quickstart"),
    ("compress", "--model", "lenet300", "--data", "digits", "--max-drop", "1", "--trials", "2", "--output", "x.nqz"),
    ("inspect", "x.nqz"),
    ("new", "coder", "mine"),
    ("reference", "list"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--python", action="append", default=[], metavar="VERSION")
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", metavar="DIR")
    parser.add_argument("--reuse", action="append", default=[], metavar="DIR", help="folder of installed packages")
    given = parser.parse_args(arguments)
    wheel = build(given.dist)
    tried = []
    for version in given.python or PYTHONS:
        python = python_of(version)
        if python is None:
            print(f"Python {version}: not on this machine, and uv cannot bring it", flush=True)
            if given.python:
                return 1
            continue
        try_wheel(wheel, python, given.reuse)
        tried.append(version)
        print(f"Python {version}: the wheel works", flush=True)
    print(f"tried on {', '.join(tried) or 'no Python at all'}")
    return 0 if tried else 1


def build(dist: Path) -> Path:
    """Both archives, freshly; their contents looked at. Returns the wheel."""
    shutil.rmtree(dist, ignore_errors=True)
    # the wheel is built from the sdist, so that the sdist is seen to be complete
    run([sys.executable, "-m", "build", "--outdir", str(dist), str(ROOT)])
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    names = set(zipfile.ZipFile(wheel).namelist())
    missing = [name for name in IN_WHEEL if name not in names]
    with tarfile.open(sdist) as archive:
        packed = archive.getnames()
    heavy = [n for n in [*names, *packed] if "reports/reference" in n or n.endswith(".safetensors")]
    sizes = f"{wheel.name} {wheel.stat().st_size:,} bytes, {sdist.name} {sdist.stat().st_size:,} bytes"
    if missing or heavy or wheel.stat().st_size > MOST_WHEEL or sdist.stat().st_size > MOST_SDIST:
        raise SystemExit(f"{sizes}: missing {missing}, too heavy {heavy}")
    print(sizes, flush=True)
    return wheel


def python_of(version: str) -> str | None:
    """The interpreter of a version: this one, one on the path, or one by uv."""
    if sys.version_info[:2] == tuple(map(int, version.split("."))):
        return sys.executable
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for found in (shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python{version}"))):
        # a shim is on the path whether or not its Python may be used
        if found and subprocess.run([found, "-c", ""], capture_output=True).returncode == 0:
            return str(found)
    if not (uv := shutil.which("uv") or beside("uv")):
        return None
    done = subprocess.run([uv, "python", "install", version], capture_output=True, text=True, timeout=900)
    if done.returncode:
        print(f"uv: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'no reason given'}", flush=True)
        return None
    return subprocess.run([uv, "python", "find", version], capture_output=True, text=True, check=True).stdout.strip()


def beside(script: str) -> str | None:
    path = Path(sys.executable).with_name(script)
    return str(path) if path.is_file() else None


def try_wheel(wheel: Path, python: str, reuse: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="nqbench-wheel-") as name:
        folder = Path(name)
        environment = folder / "venv"
        if python == sys.executable:
            venv.create(environment, with_pip=True)
        else:
            run([python, "-m", "venv", str(environment)])
        inside = environment / "bin" / "python"
        install = [str(inside), "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt")]
        if reuse:
            (site,) = environment.glob("lib/python*/site-packages")
            (site / "reused.pth").write_text("\n".join(str(Path(path).resolve()) for path in reuse) + "\n")
            install += ["--no-deps", "--no-index"]
        run([*install, str(wheel)])
        empty = folder / "empty"
        empty.mkdir()
        ours = {k: v for k, v in os.environ.items() if not k.startswith(("NQBENCH_", "PYTHON"))}
        ours["NQBENCH_CACHE"] = str(folder / "cache")
        where = "import nqbench, sys; sys.exit(0 if nqbench.__file__.startswith(sys.prefix) else nqbench.__file__)"
        run([str(inside), "-c", where], cwd=empty, env=ours)
        for command in COMMANDS:
            run([str(environment / "bin" / "nqbench"), *command], cwd=empty, env=ours, quiet=True)


def run(
    command: Sequence[str], *, cwd: Path | None = None, env: dict[str, str] | None = None, quiet: bool = False
) -> None:
    print("$", " ".join(command), flush=True)
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=quiet, text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]} ended with {done.returncode}\n{done.stdout or ''}{done.stderr or ''}")


if __name__ == "__main__":
    sys.exit(main())
