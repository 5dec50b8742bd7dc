"""Fingerprints of code and of stages: what a cached result depends on, and so what makes it stale.

A class's code is its own module and, transitively, what that imports from the same top-level package. Comments,
docstrings and formatting do not count: only the syntax tree without its docstrings is hashed.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

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
        seen[name] = _text(path)
        waiting += [i for i in _imports(path, name) if i == package or i.startswith(package + ".")]
    return digest(sorted(seen.items()))


@cache
def code_of_module(module: str) -> str:
    """Fingerprint of one module's code alone."""
    path = _source(module)
    assert path is not None
    return _text(path)


@cache
def code_of_package(package: str) -> str:
    """Fingerprint of every module of a package and its sub-packages."""
    path = _source(package)
    assert path is not None
    found = {str(p.relative_to(path.parent)): _text(p) for p in sorted(path.parent.rglob("*.py"))}
    return digest(sorted(found.items()))


def _source(module: str) -> Path | None:
    """The module's file; None where there is no Python source (built in, compiled, or not a module but a name)."""
    loaded = sys.modules.get(module)
    origin = getattr(loaded, "__file__", None)
    if origin is None:
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            return None
        origin = spec.origin if spec else None
    return Path(origin) if origin and origin.endswith(".py") else None


@cache
def _imports(path: Path, module: str) -> tuple[str, ...]:
    """The absolute names of all that is imported anywhere in a module's file."""
    imports: set[str] = set()
    # in a package's __init__ "." is the package itself
    here = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            imports.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            imports.update(_taken_from(name, [alias.name for alias in node.names], module.partition(".")[0]))
    return tuple(sorted(i for i in imports if i))


def _taken_from(name: str, parts: list[str], package: str) -> set[str]:
    """The modules that ``from name import parts`` takes something from.

    ``from package import module`` takes nothing from the package's own file, which may import all there is.
    """
    path = _source(name) if name == package or name.startswith(f"{package}.") else None
    if path is None or path.name != "__init__.py":
        return {name}
    modules = {f"{name}.{part}" for part in parts if _source(f"{name}.{part}") is not None}
    return modules | ({name} if len(modules) < len(parts) else set())


@cache
def _text(path: Path) -> str:
    """Hash of a file's syntax tree without docstrings."""
    tree = ast.parse(path.read_bytes())
    _drop_texts(tree)
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _drop_texts(tree: ast.AST) -> None:
    """Remove every statement that is a string alone: docstrings of modules, classes, functions and fields."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [s for s in body if not _bare_text(s)]  # type: ignore[attr-defined]


def _bare_text(statement: ast.AST) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
