"""The tree of modules: no circle of files, not even for the sake of a type."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = [ROOT / "nqbench", *sorted((ROOT / "plugins").glob("nqbench_*"))]


def _modules(package: Path) -> dict[str, str]:
    """Dotted name -> source of each module of a package."""
    found = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return found


def _imports(modules: Mapping[str, str]) -> dict[str, set[str]]:
    """Which modules each module imports anywhere in it: in functions and for type checkers too."""
    graph: dict[str, set[str]] = {}
    for name, source in modules.items():
        asked: set[str] = set()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                asked |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                parts = {f"{node.module}.{alias.name}" for alias in node.names}
                asked |= {part if part in modules else node.module for part in parts}
        graph[name] = (asked & modules.keys()) - {name}
    return graph


def test_no_module_imports_itself_by_way_of_others() -> None:
    modules = {name: source for package in PACKAGES for name, source in _modules(package).items()}
    assert len(modules) > 150
    TopologicalSorter(_imports(modules)).prepare()


def test_a_circle_that_only_a_type_checker_walks_would_be_found() -> None:
    typed = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.b import B\n"
    late = "def f():\n    from p import a\n"
    with pytest.raises(CycleError):
        TopologicalSorter(_imports({"p": "", "p.a": typed, "p.b": late})).prepare()


def test_the_walk_through_the_code_names_files_that_there_are() -> None:
    """A file in a section is of the folder in its heading; paths with a folder are from nqbench/, or from the root."""
    missing = []
    for section in re.split(r"^## ", (ROOT / "docs" / "one-trial.md").read_text(), flags=re.MULTILINE):
        folders = [ROOT / name for name in re.findall(r"`(nqbench/[\w/]*?)(?:\w+\.py)?`", section.partition("\n")[0])]
        for name in set(re.findall(r"`([\w/]+\.(?:py|yaml))`", section)):
            if not any((folder / name).is_file() for folder in (*folders, ROOT, ROOT / "nqbench")):
                missing.append(name)
    assert not missing
