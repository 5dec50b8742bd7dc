"""Published rows: quoted results that stand beside measured ones, marked as quoted, never ranked among them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Published:
    """A quoted row. metric: in the metric's unit (accuracy or error in %), None where the paper gives none."""

    model: str
    method: str
    paper: str
    ratio: float | None
    metric_name: str
    metric: float | None
    data: str = ""


def published_rows(entries: Iterable[Mapping[str, Any]]) -> list[Published]:
    """Rows of a suite's ``published``: tables (``paper``, ``network`` or ``model``, ``rows``) or single rows.

    A row gives ``method``, ``ratio`` and one of ``accuracy``, ``error``, ``metric``; what it lacks its table gives.
    """
    found = []
    for entry in entries:
        table = {key: value for key, value in entry.items() if key != "rows"}
        for row in entry.get("rows", [{}]):
            found.append(_row({**table, **row}))
    return found


def _row(fields: Mapping[str, Any]) -> Published:
    name = next((n for n in ("accuracy", "error") if _number(fields.get(n)) is not None), None)
    value = _number(fields.get(name or "metric"))
    return Published(
        model=str(fields.get("model", fields.get("network", ""))),
        method=str(fields.get("method", "")),
        paper=str(fields.get("paper", "")),
        ratio=_number(fields.get("ratio")),
        metric_name=name or str(fields.get("metric_name", "metric")),
        metric=value,
        data=str(fields.get("data", "")),
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
