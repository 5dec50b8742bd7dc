"""What a file has to hold to be ranked first: by default that its metric falls by at most half a point, or by 1 % where
it is not in percent, or that its outputs are within a tenth of a nat of the float network's where that is the metric.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nqbench.api.evaluation import DIVERGENCE
from nqbench.results.record import Record

DROP = 0.5
"""Default tolerance: points of the metric that a file may lose and still be ranked by its size."""
NATS = 0.1
"""The same where the metric is the divergence from the float network: at half a nat it answers otherwise."""
_SLACK = 1e-9  # 99.0 - 98.5 is not exactly 0.5 in floating point


def points(unit: str | None) -> str:
    """The unit of differences of a metric of this unit; of an unknown metric as of a percentage."""
    return "points" if unit in (None, "%") else str(unit)


@dataclass(frozen=True)
class Goal:
    """One of: ``drop``, how much the metric may lose, in its unit; ``share``, the same in percent of the float
    network's; ``metric``, what it has to reach (or stay below, where less is better); ``bytes``, the largest file. And
    besides ``divergence``, the most that outputs may be from the float network's. It is asked on the split that the
    records' search looked at; without a search, on the test's. unit: of ``drop``: points of a percentage, else the
    metric's own. Where no goal is given, it is what is usual for the metric of whatever it is asked of."""

    drop: float | None = None
    share: float | None = None
    metric: float | None = None
    bytes: int | None = None
    divergence: float | None = None
    unit: str = "points"

    @staticmethod
    def of(settings: Mapping[str, Any]) -> Goal:
        """Of a run's settings: those of its target. Runs of before they kept it said the drop alone."""
        target = settings.get("target") or {}
        given: dict[str, Any] = {name: target.get(name) for name in ("drop", "share", "metric", "bytes")}
        if all(value is None for value in given.values()):
            given["drop"] = settings.get("drop")
        return Goal(**given, divergence=target.get("divergence"))

    @staticmethod
    def usual(metric: str | None, unit: str | None) -> Goal:
        """What may be lost where nobody says: half a point of a metric in percent (or of an unknown one), a tenth of a
        nat of divergence, 1 % of any other: half a rank correlation, or half a point of an F1 between 0 and 1, is most
        of it."""
        if metric == DIVERGENCE.name:
            return A_TENTH_OF_A_NAT
        return HALF_A_POINT if unit in (None, "%") else A_HUNDREDTH

    @staticmethod
    def in_points(drop: float, records: Sequence[Record]) -> Goal:
        """``drop`` points, if all records are judged by a metric in percent; else the usual of each one's metric."""
        in_percent = all(record.metric_unit in (None, "%") for record in records if record.metric_name)
        return Goal(drop=drop) if in_percent else USUAL

    def asked_of(self, metric: str | None, unit: str | None) -> Goal:
        """The same of networks that are judged by this metric: the usual one where none is given."""
        if all(given is None for given in (self.drop, self.share, self.metric, self.bytes)):
            return replace(Goal.usual(metric, unit), divergence=self.divergence)
        return self if self.drop is None else replace(self, unit=points(unit))

    @property
    def told(self) -> str:
        """Behind "files that". Of a goal that says nothing: see ``asked_of``."""
        besides = "" if self.divergence is None else f" at a divergence of at most {self.divergence:g} nats"
        if self.bytes is not None:
            return f"take at most {self.bytes:,} bytes{besides}"
        if self.metric is not None:
            return f"reach {self.metric:g}{besides}"
        if self.share is None and self.drop is None:
            return f"lose at most what is usual for their metric{besides}"
        lost = f"{self.share:g} %" if self.share is not None else f"{self.drop:g} {self.unit}".rstrip()
        return f"lose at most {lost}{besides}"

    def lost(self, metric_float: float | None) -> float | None:
        """How much the metric may lose, in its unit; None where the goal is another."""
        if self.share is not None:
            return None if metric_float is None else abs(metric_float) * self.share / 100
        return self.drop

    def wanted(self, metric_float: float, higher_is_better: bool) -> float | None:
        """What the metric has to reach."""
        lost = self.lost(metric_float)
        if lost is None:
            return self.metric
        return metric_float - lost if higher_is_better else metric_float + lost

    def reach(self, metric_float: float | None) -> float:
        """How far below the float network a file is still of interest, in the metric's unit: networks that lost more
        are left out of figures, and out of what delta rates average over."""
        if self.drop is not None:
            return 10 * max(self.drop, NATS if self.unit == A_TENTH_OF_A_NAT.unit else DROP)
        lost = self.lost(metric_float)
        if self.metric is not None and metric_float is not None:
            lost = abs(metric_float - self.metric)
        return 10 * (lost or 0.5)

    def held(self, group: Sequence[Record]) -> bool | None:
        """Whether the records of one configuration hold it in the mean; None without a metric."""
        first = group[0]
        if first.metric_name is None:
            return None
        if self.divergence is not None:
            apart = [v for v in (record.where_selected(DIVERGENCE.name) for record in group) if v is not None]
            if apart and not sum(apart) / len(apart) <= self.divergence + _SLACK:  # nan does not hold either
                return False
        if self.bytes is not None:
            sizes = [record.file_bytes or 0 for record in group]
            return sum(sizes) / len(sizes) <= self.bytes
        found = [(record.metric_where_selected, record.float_where_selected) for record in group]
        known = [(after, before) for after, before in found if after is not None and before is not None]
        if not known:
            return False
        after, before = (sum(values) / len(known) for values in zip(*known, strict=True))
        wanted = self.asked_of(first.metric_name, first.metric_unit).wanted(before, first.metric_higher_is_better)
        sign = 1.0 if first.metric_higher_is_better else -1.0
        return wanted is not None and sign * (wanted - after) <= _SLACK


USUAL = Goal()
"""What is usual for the metric of each network."""
HALF_A_POINT = Goal(drop=DROP)
A_HUNDREDTH = Goal(share=1.0)
A_TENTH_OF_A_NAT = Goal(drop=NATS, unit="nats")
