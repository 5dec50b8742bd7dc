"""Fingerprints of code and of stages: what a cached result depends on, and so what makes it stale.

A class's code is its own module and, transitively, what that imports from the same top-level package. Comments,
docstrings and formatting do not count: only the syntax tree without its docstrings is hashed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from nqbench.pipeline.syntax import code_in

LIBRARIES = ("torch", "numpy", "numba")


def digest(*parts: object) -> str:
    """SHA-256 in hex of the parts' canonical JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def library_versions() -> dict[str, str]:
    """The versions on which numbers may depend, read without importing anything."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found


@cache
def code_of(module: str) -> str:
    """Fingerprint of a module's code and of all that it imports from its own top-level package."""
    package = module.partition(".")[0]
    seen: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        path = _source(name)
        if path is None:
            continue
        seen[name] = code_in(path).code
        waiting += [i for i in _imports(path, name) if i == package or i.startswith(package + ".")]
    return digest(sorted(seen.items()))


@cache
def code_of_module(module: str) -> str:
    """Fingerprint of one module's code alone."""
    path = _source(module)
    assert path is not None
    return code_in(path).code


@cache
def code_of_package(package: str) -> str:
    """Fingerprint of every module of a package and its sub-packages."""
    path = _source(package)
    assert path is not None
    found = {str(p.relative_to(path.parent)): code_in(p).code for p in sorted(path.parent.rglob("*.py"))}
    return digest(sorted(found.items()))


def _source(module: str) -> Path | None:
    """The module's file; None where there is no Python source (built in, compiled, or not a module but a name).

    Found beside its top-level package's file: to ask the import system would import every package on the way.
    """
    loaded = sys.modules.get(module)
    origin = getattr(loaded, "__file__", None)
    if origin is not None:
        return Path(origin) if origin.endswith(".py") else None
    package, *parts = module.split(".")
    if not parts:
        try:
            spec = importlib.util.find_spec(package)
        except (ImportError, ValueError):
            return None
        return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None
    top = _source(package)
    if top is None:
        return None
    place = top.parent.joinpath(*parts)
    return next((p for p in (place.with_suffix(".py"), place / "__init__.py") if p.is_file()), None)


def _imports(path: Path, module: str) -> set[str]:
    """The absolute names of all that is imported anywhere in a module's file."""
    imports: set[str] = set()
    # in a package's __init__ "." is the package itself
    here = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for level, of, names in code_in(path).imports:
        if level < 0:
            imports.update(names)
        else:
            base = here[: len(here) - level + 1] if level else []
            imports |= _taken_from(".".join([*base, *([of] if of else [])]), names, module.partition(".")[0])
    return imports


def _taken_from(name: str, parts: Sequence[str], package: str) -> set[str]:
    """The modules that ``from name import parts`` takes something from.

    ``from package import module`` takes nothing from the package's own file, which may import all there is.
    """
    path = _source(name) if name == package or name.startswith(f"{package}.") else None
    if path is None or path.name != "__init__.py":
        return {name}
    modules = {f"{name}.{part}" for part in parts if _source(f"{name}.{part}") is not None}
    return modules | ({name} if len(modules) < len(parts) else set())
