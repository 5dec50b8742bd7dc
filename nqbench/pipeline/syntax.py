"""The code of a source file without formatting, comments and docstrings, as a hash, and the modules that it imports.

Parsing every file of a project takes most of a second, so results are cached in ``<NQBENCH_CACHE>/code`` under the hash
of the file's bytes. These files may be deleted at any time.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from nqbench.api.toolkit.paths import cache_dir
from nqbench.api.toolkit.sealed import seal_text, unseal_text

_FORM = f"2 {sys.version_info.major}.{sys.version_info.minor}"
"""Of what is kept; a syntax tree prints otherwise in another Python."""


@dataclass(frozen=True)
class Code:
    """code: SHA-256 of the syntax tree without docstrings, examples of fields and what is for type checkers alone.
    imports: the other ``import`` statements, anywhere in the file, as (level, module, names); level -1 where it is no
    ``from`` import."""

    code: str
    imports: tuple[tuple[int, str, tuple[str, ...]], ...]


def code_in(path: Path) -> Code:
    """The code of a file of Python, or the bytes of a compiled one; read again only where it was edited."""
    stat = path.stat()
    return _code_in(path, stat.st_mtime_ns, stat.st_size)


@cache
def _code_in(path: Path, _mtime: int, _size: int) -> Code:
    data = path.read_bytes()
    if path.suffix != ".py":  # compiled: what it imports cannot be seen
        return Code(hashlib.sha256(data).hexdigest(), ())
    kept = cache_dir() / "code" / f"{hashlib.sha256(_FORM.encode() + data).hexdigest()[:32]}.json"
    found = _kept(kept)
    if found is None:
        found = parse(data)
        with contextlib.suppress(OSError):  # it is parsed again next time, that is all
            seal_text(kept, json.dumps([found.code, found.imports]))
    return found


def _kept(path: Path) -> Code | None:
    text = unseal_text(path)
    if text is None:
        return None
    try:
        code, imports = json.loads(text)
        return Code(str(code), tuple((int(level), str(name), tuple(names)) for level, name, names in imports))
    except (ValueError, TypeError):  # of another form
        return None


def parse(source: bytes) -> Code:
    tree = _Bare().visit(ast.parse(source))
    imports: list[tuple[int, str, tuple[str, ...]]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports.append((-1, "", tuple(alias.name for alias in node.names)))
        elif isinstance(node, ast.ImportFrom):
            imports.append((node.level, node.module or "", tuple(alias.name for alias in node.names)))
    return Code(hashlib.sha256(ast.dump(tree).encode()).hexdigest(), tuple(imports))


class _Bare(ast.NodeTransformer):
    """Removes everything that does not compute."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        """Docstrings of modules, classes, functions and fields."""
        value = node.value
        return None if isinstance(value, ast.Constant) and isinstance(value.value, str) else self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Remove the documentation in a ``Field``: examples, description and title."""
        if isinstance(node.func, ast.Name) and node.func.id == "Field":
            node.keywords = [k for k in node.keywords if k.arg not in ("examples", "description", "title")]
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt] | None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return [self.visit(statement) for statement in node.orelse]
        return self.generic_visit(node)
