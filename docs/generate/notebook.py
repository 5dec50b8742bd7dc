"""Notebooks as Markdown: cells and their stored outputs, in the order in which they ran. Nothing is executed here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def pages(root: Path) -> Mapping[str, str]:
    notebooks = sorted((root / "docs").glob("*.ipynb"))
    return {f"{path.stem}.md": markdown(json.loads(path.read_text(encoding="utf-8"))) for path in notebooks}


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
