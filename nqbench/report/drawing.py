"""Draws the figures of a report, and keeps them for the next report with the same rows.

altair takes half a second to import, and a report is made after every run: where the same rows were drawn before, its
specifications come from ``<NQBENCH_CACHE>/report``, whose files can vanish at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from nqbench.api.toolkit.paths import cache_dir
from nqbench.api.toolkit.sealed import seal_text, unseal_text
from nqbench.report import figures as drawing
from nqbench.report import naming
from nqbench.report.data import ReportData
from nqbench.report.figures import Figure, figures

_ROWS = 2000
"""Above as many rows, to say what was drawn takes longer than to draw it."""
_KEPT = 50
"""Reports whose figures are kept: the last ones."""


def drawn(data: ReportData, datasets: dict[str, list[dict[str, Any]]]) -> list[Figure]:
    """``figures(data, datasets)``, drawn once."""
    if len(data.rows) > _ROWS:
        return figures(data, datasets)
    kept = cache_dir() / "report" / f"figures-{_digest(data, datasets)}.json"
    text = unseal_text(kept)
    if text is not None:
        told = json.loads(text)["figures"]
        return [Figure(**{**figure, "columns": tuple(figure["columns"])}) for figure in told]
    found = figures(data, datasets)
    with contextlib.suppress(OSError):
        seal_text(kept, json.dumps({"figures": [asdict(figure) for figure in found]}))
    _tidy(kept.parent)
    return found


def _digest(data: ReportData, datasets: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Of all that a figure is drawn from: the code, altair, the rows, and how they are ranked."""
    methods = {model: len(rows) for model, rows in data.methods.items()}
    goals = {model: vars(data.goal_of(model)) for model in data.by_model}
    drawn_from = [_code(), goals, methods, [row.to_dict() for row in data.rows], datasets]
    return hashlib.sha256(json.dumps(drawn_from, default=str).encode()).hexdigest()[:32]


@cache
def _code() -> str:
    source = b"".join(Path(str(module.__file__)).read_bytes() for module in (drawing, naming))
    return hashlib.sha256(source).hexdigest() + importlib.metadata.version("altair")


def _tidy(folder: Path) -> None:
    with contextlib.suppress(OSError):
        files = sorted(folder.glob("figures-*.json"), key=lambda path: path.stat().st_mtime)
        for path in files[:-_KEPT]:
            path.unlink()
