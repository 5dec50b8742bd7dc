"""What two processes must agree on before one of them runs trials of the other: versions and code."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from nqbench.api.engine import Greeting, Resources
from nqbench.pipeline.fingerprint import code_of, digest, library_versions, packages_of
from nqbench.registry import GROUP
from nqbench.results.environment import cores, environment, memory
from nqbench.version import __version__

CORE = "nqbench.pipeline.workbench"
"""The module from which all that computes in the core is reached."""


def greeting(distributions: Iterable[str], device: str) -> dict[str, Any]:
    """versions: of nqbench and of the libraries. code: of each of some distributions of plugins, version and a digest.
    environment: as records have it. cpus, memory, gpu: what this machine has."""
    has = machine(device)
    return {
        "versions": {"nqbench": __version__, **library_versions()},
        "code": {name: _code(name) for name in sorted({GROUP, *distributions})},
        "environment": environment(device),
        "cpus": has.cpus,
        "memory": has.memory,
        "gpu": has.gpu,
    }


def machine(device: str = "cuda") -> Resources:
    """What this process may use of its machine. GPUs are only counted for a device that is one: it takes seconds."""
    gpu = 0
    if device.startswith("cuda"):
        import torch

        gpu = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return Resources(cores(), memory(), gpu)


def difference(here: Greeting, there: Greeting) -> str:
    """The first thing in which a slot differs from the driver, naming both; empty where they agree."""
    for name, version in here["versions"].items():
        found = there["versions"].get(name)
        if found != version:
            return f"has {name} {found or 'not at all'}, the driver {version or 'not at all'}"
    for name, (version, code) in here["code"].items():
        other, others = there["code"].get(name, ("", ""))
        if (other, others) != (version, code):
            return f"has {_named(name, other, others)}, the driver {_named(name, version, code)}"
    return ""


def _named(name: str, version: str, code: str) -> str:
    return f"{name} {version} with code {code}" if version else f"no {name}"


@cache
def _code(distribution: str) -> tuple[str, str]:
    """(version, 12 hex digits of the code) of a distribution that registers plugins; empty where it is not there."""
    found = importlib.metadata.entry_points(group=GROUP)
    modules = sorted({entry.module for entry in found if _of(entry) == distribution})
    if not modules:
        return "", ""
    codes: Mapping[str, str] = {module: code_of(module, packages_of(distribution, module)) for module in modules}
    core = code_of(CORE, (GROUP,)) if distribution == GROUP else ""
    return importlib.metadata.version(distribution), digest(codes, core)[:12]


def _of(entry: importlib.metadata.EntryPoint) -> str:
    return (entry.dist.metadata["Name"] if entry.dist is not None else None) or "?"
