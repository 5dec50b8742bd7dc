"""The data that the page's script gets: the rows and the data of the figures, as plain values."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from nqbench.report.data import ReportData
from nqbench.report.figures import MANY_BARS
from nqbench.report.naming import OTHERS, names, prominent
from nqbench.results.curves import isotonic
from nqbench.results.leaderboard import Row
from nqbench.results.record import KINDS, PARTS

FIELDS = (
    "rank", "model", "method", "configuration", "granularity", "knob_value", "n", "failed", "deterministic",
    "file_bytes", "file_bytes_std", "ratio", "file_ratio", "own_ratio", "bits_per_weight", "entropy", "efficiency",
    "mse", "weighted_mse", "metric", "metric_std", "metric_low", "metric_high", "metric_delta", "drop", "holds",
    "pareto", "encode_msym_s", "decode_msym_s", "pruner", "sensitivity", "training", "metric_name", "selected_on",
)  # fmt: skip


_OWN = re.compile(r"files/[A-Za-z0-9][A-Za-z0-9._-]*\.nqz")


def datasets(data: ReportData) -> dict[str, list[dict[str, Any]]]:
    """Name -> rows: ``rows`` (one a leaderboard row), ``parts``, ``loss``, ``speeds``, ``published``, ``fits`` (the
    lines of a figure), ``names`` (of those)."""
    named = {model: prominent(data, model) for model in data.by_model}
    rows = [_row(index, row, data, named[row.model]) for index, row in enumerate(data.rows)]
    return {
        "rows": rows,
        "fits": [point for model in data.by_model for point in _fits(data, model, named[model])],
        "names": [name for model in data.by_model for name in names(data, model, named[model])],
        "parts": [part for model in data.by_model for part in _parts(data, model)],
        "loss": [point for index, row in enumerate(data.rows) for point in _loss(index, row, data)],
        "speeds": [speed for line, row in zip(rows, data.rows, strict=True) for speed in _speeds(line, row.measured)],
        "published": [point for model, found in data.by_model.items() for point in _published(data, model, found)],
    }


def _row(index: int, row: Row, data: ReportData, named: Mapping[str, str]) -> dict[str, Any]:
    record = data.by_key[row.keys[0]]
    fields: dict[str, Any] = {"i": index} | {name: _finite(getattr(row, name)) for name in FIELDS}
    fields["coding"] = data.labels.coding(record)
    fields["line"] = named.get(row.method, OTHERS)
    fields["quantizer_name"] = record.quantizer or record.codec or ""
    fields["coder_name"] = record.coder or ""
    fields["training_name"] = record.training
    fields["coder"] = row.coder
    for name in ("layer_error", "bound_bits"):
        fields[name] = _finite(record.statistics.get(name))
    usable = row.entropy and row.efficiency and math.isfinite(row.efficiency)
    fields["bits_per_symbol"] = row.entropy / row.efficiency if usable and row.entropy and row.efficiency else None
    return fields


def details(data: ReportData) -> list[list[Any]]:
    """For each row what its dialog adds: keys, the parameters of every plugin as JSON, the file, and whether that is a
    link: a stranger's record may name anything there, such as a script."""
    found = []
    for row in data.rows:
        record = data.by_key[row.keys[0]]
        parameters = {kind: getattr(record, f"{kind}_params") for kind in KINDS if getattr(record, f"{kind}_params")}
        found.append([list(row.keys), json.dumps(parameters, sort_keys=True), record.file, _is_own(record.file)])
    return found


def _is_own(file: str | None) -> bool:
    """Whether this is the name of a file of the run's folder."""
    return file is not None and _OWN.fullmatch(file) is not None


def _fits(data: ReportData, model: str, named: Mapping[str, str]) -> list[dict[str, Any]]:
    """The isotonic fit of each method's metric over its bytes: falling where less is better."""
    curves: dict[str, list[Row]] = {}
    for row in data.by_model[model]:
        if row.metric is not None:
            curves.setdefault(row.method, []).append(row)
    found = []
    for method, rows in curves.items():
        sign = 1.0 if rows[0].metric_higher_is_better else -1.0
        for size, quality in isotonic([(row.file_bytes, sign * (row.metric or 0.0)) for row in rows]):
            point = {"model": model, "method": method, "line": named.get(method, OTHERS)}
            found.append(point | {"file_bytes": size, "metric": sign * quality})
    return found


def _parts(data: ReportData, model: str) -> list[dict[str, Any]]:
    found = []
    for method in data.methods[model][:MANY_BARS]:
        row = method.best
        for index, part in enumerate(PARTS):
            if row.parts[part]:
                name = row.configuration + " (does not hold)" * (row.holds is False)
                values = {"model": model, "configuration": name, "part": part, "index": index}
                found.append(values | {"bytes": row.parts[part]})
    return found


def _loss(index: int, row: Row, data: ReportData) -> list[dict[str, Any]]:
    found = data.by_key[row.keys[0]].loss_increase
    if found is None or _finite(found.measured) is None:
        return []
    pairs = [(name, _finite(getattr(found, name))) for name in ("linear", "diagonal", "gauss_newton")]
    who = {"i": index, "model": row.model, "configuration": row.configuration}
    return [who | {"predictor": n, "predicted": v, "measured": found.measured} for n, v in pairs if v is not None]


def _speeds(row: dict[str, Any], measured: bool) -> list[dict[str, Any]]:
    who = {name: row[name] for name in ("i", "model", "configuration", "coder", "coder_name")} | {"measured": measured}
    pairs = (("encode", row["encode_msym_s"]), ("decode", row["decode_msym_s"]))
    return [who | {"direction": name, "msym_s": value} for name, value in pairs if value]


def _published(data: ReportData, model: str, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Quoted points on the axis of bytes: the float network's size as the ratio counts it / the quoted ratio."""
    whole = data.float_bytes(model)
    first = data.by_key[rows[0].keys[0]]
    found = []
    for quoted in data.published_for(model):
        metric = quoted.measured_as(first.metric_name, first.metric_unit)
        if whole and quoted.ratio and metric is not None:
            values = {"model": model, "method": quoted.method, "paper": quoted.paper, "ratio": quoted.ratio}
            found.append(values | {"metric": metric, "file_bytes": whole / quoted.ratio})
    return found


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def script_json(value: Any) -> str:
    """JSON that is safe inside a script element, whatever the strings in it say."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def table_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rows of equal fields as one header and arrays: a third of the size."""
    names = list(rows[0]) if rows else []
    return {"fields": names, "rows": [[row.get(name) for name in names] for row in rows]}
