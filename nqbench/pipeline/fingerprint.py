"""Fingerprints of the code that a cached result depends on.

The code of a stage or a plugin is its module and all modules that this imports, directly or indirectly, from the core
and from the plugin's own distribution. Comments, docstrings and formatting do not count: only the syntax tree is
hashed; of a compiled module, its bytes. What was typed into a notebook lies in no file: nobody can say what it was when
a result was made, so that such results are used again by the process that made them, and by no other.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import secrets
import sys
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from nqbench.pipeline.syntax import Code, code_in

LIBRARIES = ("torch", "numpy", "numba")
_THIS_PROCESS = secrets.token_hex(16)
"""In the keys of what no other process can compare."""


def digest(*parts: object) -> str:
    """SHA-256 in hex of the parts' canonical JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def library_versions() -> dict[str, str]:
    """Versions of the libraries that may change numbers, found without importing them."""
    return {name: version_of(name) for name in LIBRARIES}


@cache
def version_of(distribution: str) -> str:
    """The installed version of a library; empty where there is none of that name."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def code_of(module: str, packages: tuple[str, ...]) -> str:
    """Fingerprint of a module's code and of all that it imports, directly or not, from these top-level packages."""
    found = closure(module, packages)
    beside = [] if module in found else [_THIS_PROCESS]
    return digest([(name, code_in(path).code) for name, path in sorted(found.items())], *beside)


def closure(module: str, packages: Sequence[str]) -> dict[str, Path]:
    """Names and files of a module and of all that it imports, directly or not, from these top-level packages."""
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = None if name in found else _source(name)
        if path is not None:
            found[name] = path
            waiting += _imports(code_in(path), name, path.name == "__init__.py", tuple(packages))
    return found


@cache
def packages_of(distribution: str, module: str) -> tuple[str, ...]:
    """The top-level packages whose code counts: the core's, the module's own, and all others of the plugin's
    distribution."""
    found = {"nqbench", module.partition(".")[0]}
    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError:
        files = []
    tops = {file.parts[0].removesuffix(".py") for file in files if file.suffix == ".py"}
    return tuple(sorted(found | {top for top in tops if top.isidentifier()}))


def _source(module: str) -> Path | None:
    """The module's file, of Python or compiled; None where there is none (built in, or not a module but a name).

    It is searched for in the folder of its top-level package, because the import system would import all parent
    packages.
    """
    loaded = sys.modules.get(module)
    origin = getattr(loaded, "__file__", None)
    if origin is not None:
        return Path(origin)
    package, *parts = module.split(".")
    if not parts:
        try:
            spec = importlib.util.find_spec(package)
        except (ImportError, ValueError):
            return None
        return Path(spec.origin) if spec and spec.origin and spec.has_location else None
    top = _source(package)
    if top is None:
        return None
    place = top.parent.joinpath(*parts)
    files = [place.with_name(place.name + suffix) for suffix in (".py", *EXTENSION_SUFFIXES)]
    return next((path for path in (*files, place / "__init__.py") if path.is_file()), None)


@cache
def _imports(code: Code, module: str, package: bool, packages: tuple[str, ...]) -> frozenset[str]:
    """The absolute names of all that is imported from these packages, anywhere in a module's file.

    package: whether it is a package's ``__init__``, in which "." is the package itself.
    """
    imports: set[str] = set()
    here = module.split(".") if package else module.split(".")[:-1]
    for level, of, names in code.imports:
        base = here[: len(here) - level + 1] if level > 0 else []
        name = ".".join([*base, *([of] if of else [])])
        if level < 0:
            imports.update(name for name in names if name.partition(".")[0] in packages)
        elif name.partition(".")[0] in packages:
            imports |= _taken_from(name, names)
    return frozenset(imports)


def _taken_from(name: str, parts: Sequence[str]) -> set[str]:
    """The modules that ``from name import parts`` depends on.

    ``from package import module`` does not depend on the package's own file, which may import many other modules.
    """
    path = _source(name)
    if path is None or path.name != "__init__.py":
        return {name}
    modules = {f"{name}.{part}" for part in parts if _source(f"{name}.{part}") is not None}
    return modules | ({name} if len(modules) < len(parts) else set())
