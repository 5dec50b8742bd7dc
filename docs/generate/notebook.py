"""Notebooks as Markdown: cells and their outputs, in the order in which they run.

Outputs that are stored are shown. A notebook that is kept without any, so that its history stays small, is run while
the site is built, in a process of its own.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

LIMIT = 300
"""Seconds that a notebook may take."""


def pages(root: Path) -> Mapping[str, str]:
    notebooks = sorted((root / "docs").glob("*.ipynb"))
    return {f"{path.stem}.md": markdown(executed(json.loads(path.read_text(encoding="utf-8")))) for path in notebooks}


def executed(notebook: dict[str, Any]) -> dict[str, Any]:
    """With outputs: those that are stored, or else what a run gives. Raises RuntimeError where a cell fails."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    if any(cell.get("outputs") for cell in cells) or not cells:
        return notebook
    sources = json.dumps([_text(cell["source"]) for cell in cells])
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, __file__], input=sources, capture_output=True, text=True, timeout=LIMIT, cwd=folder
        )
    if done.returncode:
        raise RuntimeError(f"a notebook fails: {done.stderr}")
    for cell, text in zip(cells, json.loads(done.stdout), strict=True):
        cell["outputs"] = [{"text": text}] if text else []
    return notebook


def run(sources: list[str]) -> list[str]:
    """What each cell prints, and its last expression's value, in one namespace."""
    names: dict[str, Any] = {"__name__": "__main__"}
    said = []
    for source in sources:
        body = ast.parse(source).body
        last = ast.Expression(body.pop().value) if body and isinstance(body[-1], ast.Expr) else None
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(ast.Module(body, []), "<cell>", "exec"), names)
            value = eval(compile(last, "<cell>", "eval"), names) if last else None
        said.append(out.getvalue() + (f"{value!r}\n" if value is not None else ""))
    return said


def markdown(notebook: Mapping[str, Any]) -> str:
    return "\n\n".join(part for cell in notebook["cells"] for part in _cell(cell)) + "\n"


def _cell(cell: Mapping[str, Any]) -> Iterator[str]:
    source = _text(cell["source"]).strip("\n")
    if cell["cell_type"] == "markdown":
        yield source
    elif cell["cell_type"] == "code" and source:
        yield _fenced(source, "python")
        for output in cell["outputs"]:
            yield from _output(output)


def _output(output: Mapping[str, Any]) -> Iterator[str]:
    """Text, a table of pandas, or a picture; an error would be shown as one."""
    data = output.get("data", {})
    if "image/png" in data:
        yield f'<img alt="output of the cell above" src="data:image/png;base64,{_text(data["image/png"]).strip()}">'
    elif "image/svg+xml" in data:
        yield _text(data["image/svg+xml"])
    elif "text/markdown" in data:
        yield _text(data["text/markdown"])
    elif text := _text(output.get("text", data.get("text/plain", ""))) or "\n".join(output.get("traceback", [])):
        plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
        yield _fenced(plain.rstrip("\n"), "text")


def _fenced(text: str, language: str) -> str:
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def _text(source: str | list[str]) -> str:
    return source if isinstance(source, str) else "".join(source)


if __name__ == "__main__":
    json.dump(run(json.load(sys.stdin)), sys.stdout)
