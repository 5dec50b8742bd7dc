"""Published rows: results quoted from papers. They are shown next to measured ones, marked, and never ranked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Published:
    """A quoted row. metric: of ``metric_name``, in ``unit`` (accuracy and error: in %), or None."""

    model: str
    method: str
    paper: str
    ratio: float | None
    metric_name: str
    metric: float | None
    data: str = ""
    unit: str | None = None
    """None: not said."""

    def measured_as(self, name: str | None, unit: str) -> float | None:
        """The quoted figure as one of the measured metric: as it is where that is the same metric, an error in % as
        100 less it beside an accuracy, and the reverse. None for another metric: an error is no perplexity."""
        if self.metric is None or name is None:
            return None
        percent = {"accuracy", "error"}
        if self.metric_name != name and {self.metric_name, name} == percent:
            return 100.0 - self.metric if unit == "%" else None
        same_unit = unit == "%" if name in percent else self.unit in (None, unit)
        return self.metric if self.metric_name == name and same_unit else None


def published_rows(entries: Iterable[Mapping[str, Any]]) -> list[Published]:
    """Rows of a suite's ``published``: tables (``paper``, ``network`` or ``model``, ``rows``) or single rows.

    A row gives ``method``, ``ratio`` and ``accuracy``, ``error``, or ``value`` of the ``metric`` that it or its table
    names; what it lacks its table gives.
    """
    found = []
    for entry in entries:
        table = {key: value for key, value in entry.items() if key != "rows"}
        for row in entry.get("rows", [{}]):
            found.append(_row({**table, **row}))
    return found


def _row(fields: Mapping[str, Any]) -> Published:
    name = next((n for n in ("accuracy", "error") if _number(fields.get(n)) is not None), None)
    value = _number(fields.get(name or "value"))
    return Published(
        model=str(fields.get("model", fields.get("network", ""))),
        method=str(fields.get("method", "")),
        paper=str(fields.get("paper", "")),
        ratio=_number(fields.get("ratio")),
        metric_name=name or str(fields.get("metric") or "metric"),
        metric=value,
        data=str(fields.get("data") or ""),
        unit="%" if name else fields.get("unit"),
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
