"""What a source file says, formatting, comments and docstrings aside: a hash of its code, and what it imports.

Parsing every file of a project takes most of a second, so what was found is kept under the hash of the file's bytes in
``<NQBENCH_CACHE>/code``; those files can vanish at any time.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from nqbench.api.toolkit.paths import cache_dir, written_whole

_FORM = f"1 {sys.version_info.major}.{sys.version_info.minor}"
"""Of what is kept; a syntax tree prints otherwise in another Python."""


@dataclass(frozen=True)
class Code:
    """code: SHA-256 of the syntax tree without docstrings. imports: ``import`` statements anywhere in the file, as
    (level, module, names); level -1 where it is no ``from`` import."""

    code: str
    imports: tuple[tuple[int, str, tuple[str, ...]], ...]


@cache
def code_in(path: Path) -> Code:
    """The code of a file, read once a process."""
    data = path.read_bytes()
    kept = cache_dir() / "code" / f"{hashlib.sha256(_FORM.encode() + data).hexdigest()[:32]}.json"
    found = _kept(kept)
    if found is None:
        found = parse(data)
        try:
            with written_whole(kept) as temporary:
                temporary.write_text(json.dumps([found.code, found.imports]))
        except OSError:  # it is parsed again next time, that is all
            pass
    return found


def _kept(path: Path) -> Code | None:
    try:
        code, imports = json.loads(path.read_bytes())
        return Code(str(code), tuple((int(level), str(name), tuple(names)) for level, name, names in imports))
    except (OSError, ValueError, TypeError):
        return None


def parse(source: bytes) -> Code:
    tree = ast.parse(source)
    imports: list[tuple[int, str, tuple[str, ...]]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports.append((-1, "", tuple(alias.name for alias in node.names)))
        elif isinstance(node, ast.ImportFrom):
            imports.append((node.level, node.module or "", tuple(alias.name for alias in node.names)))
        body = getattr(node, "body", None)
        if isinstance(body, list):  # docstrings of modules, classes, functions and fields
            node.body = [s for s in body if not _bare_text(s)]  # type: ignore[attr-defined]
    return Code(hashlib.sha256(ast.dump(tree).encode()).hexdigest(), tuple(imports))


def _bare_text(statement: ast.AST) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
