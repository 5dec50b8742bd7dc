"""What a trial ran on: versions, hardware, revision. Cheap, never fails, imports no torch."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from nqbench.version import __version__

GROUP = "nqbench"
LIBRARIES = ("torch", "numpy", "numba", "scipy", "scikit-learn")
_NVIDIA = Path("/proc/driver/nvidia/gpus")


def environment(device: str = "cpu") -> dict[str, Any]:
    """A JSON-able description. ``hardware``: 12 hex digits; times are comparable only where it and ``threads`` agree.

    device: the torch device the trial ran on ('cpu', 'cuda', 'cuda:1').
    """
    return {**_fixed(), "device": device, "threads": threads()}


def comparable_times(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two environments' times may be compared: the same hardware, device type and number of threads."""
    return _time_key(a) == _time_key(b) and a.get("hardware") is not None


def _time_key(env: dict[str, Any]) -> tuple[Any, ...]:
    return env.get("hardware"), env.get("threads"), str(env.get("device", "")).partition(":")[0]


def threads() -> int:
    """Threads a torch operation uses here, without importing torch to ask."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return int(torch.get_num_threads())
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() and int(asked) > 0 else cores()


def threads_each(processes: int) -> int:
    """Threads that each of some workers shall use: as many as OMP_NUM_THREADS asks for, else its share of the cores."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() and int(asked) > 0 else max(1, cores() // processes)


def cores() -> int:
    """Logical cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> int | None:
    """Bytes of main memory; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


@cache
def _fixed() -> dict[str, Any]:
    hardware = {"cpu": _cpu(), "cores": cores(), "machine": platform.machine(), "gpu": _gpus()}
    digest = hashlib.sha256(json.dumps(hardware, sort_keys=True).encode()).hexdigest()[:12]
    return {
        "nqbench": __version__,
        "host": platform.node(),
        "python": platform.python_version(),
        "libraries": {name: version for name in LIBRARIES if (version := _version(name))},
        "plugins": _plugins(),
        "os": f"{platform.system()} {platform.release()}",
        **hardware,
        "hardware": digest,
        "git_revision": git_revision(),
    }


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _plugins() -> dict[str, str]:
    """Distribution -> version of everything registered in the entry-point group."""
    found = {}
    for entry in importlib.metadata.entry_points(group=GROUP):
        if entry.dist is not None:
            found[entry.dist.metadata["Name"] or "?"] = entry.dist.version
    return dict(sorted(found.items()))


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model", "cpu model"):
            return value.strip()
    return platform.processor() or platform.machine()


def _gpus() -> list[str]:
    """Models of the NVIDIA GPUs, from the driver's files: asking CUDA or nvidia-smi would cost seconds."""
    names = []
    try:
        for path in sorted(_NVIDIA.glob("*/information")):
            fields = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
            names.append(fields.get("Model", "unknown").strip())
    except OSError:
        pass
    return names


def git_revision() -> str | None:
    """Commit of nqbench's own checkout, '-dirty' if it was edited; None where nqbench was not run from one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
