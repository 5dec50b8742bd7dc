"""The files of a report. ``write_reports`` makes them from the records; the same records give the same files."""

from __future__ import annotations

import csv
import gc
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from nqbench.api.toolkit.paths import reason, written_whole
from nqbench.report.data import ReportData, load
from nqbench.report.drawing import drawn as drawn_once
from nqbench.report.figures import Figure
from nqbench.report.html import page
from nqbench.report.latex import latex
from nqbench.report.payload import datasets
from nqbench.report.text import markdown
from nqbench.report.vega import png, svg
from nqbench.results.database import refuse_links
from nqbench.results.exports import run_json
from nqbench.results.frame import columns, flat
from nqbench.results.goal import Goal
from nqbench.results.record import SCHEMA_VERSION, Record
from nqbench.results.server import is_server
from nqbench.results.store import StoreError


def rebuild(
    source: str | Path,
    output: Path | None = None,
    *,
    run: str = "latest",
    drop: float | None = None,
    images: bool = False,
) -> tuple[ReportData, dict[str, Path]]:
    """Read a run and write every report. source: an output folder, a store, a server's too, or an export as JSON.
    output: where the reports go; beside the store; of an export, into a folder of the export's name; of a server's
    store, into ``reports/<suite>``."""
    with _no_collection():
        data = load(source, run=run, drop=drop)
        return data, write_reports(output or _beside(source, data.suite), data, images=images)


def _beside(source: str | Path, suite: str) -> Path:
    if is_server(source):
        return Path("reports") / suite
    path = Path(source)
    return path if path.is_dir() else path.with_suffix("") if path.suffix == ".json" else path.parent


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without the cyclic garbage collector: ten thousand records are millions of objects that all stay to the end, and
    looking through them again and again is a quarter of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def write_reports(folder: str | Path, data: ReportData, *, images: bool = False) -> dict[str, Path]:
    """File name -> path. Each file is replaced as a whole: a reader never sees half of one.

    images: each model's main figure also as ``figures/*.svg`` and ``.png``, which costs a second or two a figure.
    """
    folder = Path(folder)
    refuse_links(folder)
    named = datasets(data)
    drawn = drawn_once(data, named)
    texts = {
        "records.json": run_json(data.source, data.records),
        "records.csv": records_csv(data.records),
        "leaderboard.json": leaderboard_json(data),
        "leaderboard.csv": leaderboard_csv(data),
        "leaderboard.md": markdown(data),
        "leaderboard.tex": latex(data),
        "index.html": page(data, named, drawn),
    }
    texts |= {f"figures/{f.name}.csv": figure_csv(f, named) for f in drawn}
    try:
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        written = {name: _replace(folder / name, text.encode()) for name, text in texts.items()}
        if images:
            for figure in drawn:
                if figure.name.endswith("-rate-accuracy"):
                    base = folder / "figures" / figure.name
                    written[f"{base.name}.svg"] = _replace(base.with_suffix(".svg"), svg(figure.spec, named).encode())
                    written[f"{base.name}.png"] = _replace(base.with_suffix(".png"), png(figure.spec, named))
        return written
    except OSError as error:
        raise StoreError(f"{folder}: the report cannot be written ({reason(error)})") from None


def records_csv(records: Iterable[Record]) -> str:
    rows = [flat(record) for record in records]
    return csv_text(columns(rows), rows)


def leaderboard_json(data: ReportData) -> str:
    """One object: how it was ranked, the rows, and the quoted rows apart. One row a line."""
    document = {
        "schema_version": SCHEMA_VERSION,
        "suite": data.suite,
        "run": data.run,
        **_goals(data),
    }
    tables = {
        "rows": [row.to_dict() for row in data.rows],
        "published": [{**asdict(row), "quoted": True} for row in data.published],
    }
    lines = [f"{json.dumps(name)}: {json_line(value)}" for name, value in document.items()]
    for name, rows in tables.items():
        body = ",\n".join(json_line(row) for row in rows)
        lines.append(f'"{name}": [\n{body}\n]' if rows else f'"{name}": []')
    return "{" + ",\n".join(lines) + "}\n"


def _goals(data: ReportData) -> dict[str, Any]:
    """What files have to hold: ``goal`` where it is the same of all models, else ``goals`` by model."""
    goals = {model: _given(data.goal_of(model)) for model in data.by_model}
    shared = list(goals.values()) or [_given(data.goal)]
    return {"goal": shared[0]} if all(goal == shared[0] for goal in shared) else {"goals": goals}


def _given(goal: Goal) -> dict[str, Any]:
    return {f.name: given for f in fields(goal) if (given := getattr(goal, f.name)) != f.default}


def leaderboard_csv(data: ReportData) -> str:
    rows = []
    for row in data.rows:
        fields = {name: value for name, value in vars(row).items() if name not in ("parts", "keys")}
        fields |= {f"parts.{name}": value for name, value in row.parts.items()}
        rows.append(fields | {"keys": " ".join(row.keys)})
    return csv_text(list(rows[0]) if rows else ["rank"], rows)


def figure_csv(figure: Figure, named: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The points of one figure."""
    return csv_text(figure.columns, (row for row in named[figure.data] if figure.model in ("", row["model"])))


def csv_text(header: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """RFC 4180 with \\n line ends; None is an empty cell, floats in full precision."""
    buffer = io.StringIO()
    names = list(header)
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([row.get(name) for name in names] for row in rows)
    return buffer.getvalue()


def json_line(value: Any) -> str:
    try:
        return _encoder.encode(value)
    except ValueError:  # seldom: a walk through every value is slow
        return _encoder.encode(jsonable(value))


_encoder = json.JSONEncoder(allow_nan=False)  # json.dumps would make one a call


def jsonable(value: Any) -> Any:
    """NaN and infinities as the strings that records.json has for them: JSON knows no such numbers."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {key: jsonable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(inner) for inner in value]
    return value


def write_text(path: Path, text: str) -> None:
    """One file, whole, or a StoreError that says why not."""
    try:
        _replace(path, text.encode())
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({reason(error)})") from None


def _replace(path: Path, content: bytes) -> Path:
    with written_whole(path) as temporary:
        temporary.write_bytes(content)
    return path
