"""Makes paths in records fit for publication: relative to the suite, to the working folder or to a folder of Python
modules; of any other path only the last part is kept, since it would tell about the machine and its user."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nqbench.secret import masked

_PATH = re.compile(r"(?<![\w/.~-])/(?:[^\s'\"<>|:;,()\[\]{}=/]+/)+[^\s'\"<>|:;,()\[\]{}=/]*")
"""An absolute path of two parts or more inside a text."""


class Portable:
    """base: the folder that relative paths of the run's suite refer to."""

    def __init__(self, base: Path) -> None:
        self.base = base.resolve()
        imported = {str(Path(entry).resolve()) for entry in sys.path if entry and Path(entry).is_dir()}
        self._roots = [str(self.base), os.getcwd(), *sorted(imported - {"/"}, key=len, reverse=True)]

    def text(self, text: str) -> str:
        """A message, a traceback or an argument, its absolute paths cut short, and without credentials."""
        return _PATH.sub(lambda found: self._short(found.group()), masked(text))

    def parameters(self, value: Any) -> Any:
        """Parameters of plugins: what is an absolute path is given from ``base``, where it can be found again."""
        if isinstance(value, str) and value.startswith("/") and _PATH.fullmatch(value):
            return os.path.relpath(value, self.base)
        if isinstance(value, Mapping):
            return {name: self.parameters(inner) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.parameters(inner) for inner in value]
        return value

    def _short(self, path: str) -> str:
        for root in self._roots:
            if path.rstrip("/") == root:
                return "."
            if path.startswith(f"{root}/") and root != "/":
                return path[len(root) + 1 :]
        return f".../{path.rstrip('/').rpartition('/')[2]}"
