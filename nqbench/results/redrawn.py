"""The metrics of a model's rows when the test examples, and the seeds, are drawn again: what intervals rest on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nqbench.api.evaluation import Statistic, resampled
from nqbench.results.leaderboard import Row
from nqbench.results.paired import mean_of_seeds, resamples
from nqbench.results.record import EQUAL, Record

DRAWS = 400
MOST_ROWS = 200
"""Rows of a model for which intervals are computed: a run of thousands has no use for them, and would wait."""


class Redrawn:
    """Qualities (minus the drop) of rows of one model under ``DRAWS`` resamples, the same examples for all of them.

    Where a row has several seeds, they are drawn with replacement, too. From each resample the median change of all
    rows is taken away: examples that are easier are so for every network, the float one included, which losses are
    counted from. But where that one's mean loss is 0, it loses nothing on any example (divergences from it): then
    there is nothing to take away.
    """

    def __init__(self, rows: Sequence[Row], records: Mapping[str, Record], draws: int = DRAWS) -> None:
        self._at: dict[int, int] = {}
        self._qualities: np.ndarray | None = None
        usable = [row for row in rows if row.drop is not None]
        found = [_examples(row, records) for row in usable]
        known = [one for one in found if one is not None]
        if (
            not known
            or len(known) < len(usable)
            or len(rows) > MOST_ROWS
            or len({one.kind for one in known}) > 1
            or known[0].kind[1] < 0
        ):
            return
        counts = resamples(known[0].kind[1], draws)
        chosen = np.random.default_rng(counts.shape)
        moved = np.stack([one.moved(counts, chosen) for one in known], 1)
        if not all(row.is_distance for row in usable):
            moved -= np.median(moved, axis=1, keepdims=True)
        self._qualities = moved - np.array([row.drop for row in usable])
        self._at = {id(row): index for index, row in enumerate(usable)}

    def of(self, rows: Sequence[Row]) -> np.ndarray | None:
        """(D, rows) qualities; None where the examples were not recorded."""
        if self._qualities is None:
            return None
        return self._qualities[:, [self._at[id(row)] for row in rows]]


@dataclass(frozen=True, eq=False)
class _Examples:
    """What a row's metric follows from: values of the examples of each seed, and how. sign: -1 if less is better."""

    statistic: Statistic
    values: tuple[np.ndarray, ...]
    sign: float

    @property
    def kind(self) -> tuple[Statistic, int]:
        """What rows that are drawn together share: the statistic and the number of examples; -1: seeds differ in it."""
        counts = {len(one) for one in self.values}
        return self.statistic, counts.pop() if len(counts) == 1 else -1

    def moved(self, counts: np.ndarray, chosen: np.random.Generator) -> np.ndarray:
        """(D,) by how much better the metric is on each resample, the mean over seeds drawn with replacement."""
        all_of_them = np.ones((1, counts.shape[1]))
        here = np.mean([resampled(self.statistic, one, all_of_them)[0] for one in self.values])
        return np.asarray(self.sign * (mean_of_seeds(self.values, self.statistic, counts, chosen) - here))


def _examples(row: Row, records: Mapping[str, Record]) -> _Examples | None:
    """None where a seed's examples were not recorded."""
    found: list[np.ndarray] = []
    statistic: Statistic = "share"
    sign = 1.0 if row.metric_higher_is_better else -1.0
    for record in (records.get(key) for key in row.keys):
        hits = None if record is None else record.hits()
        values = None if record is None else record.per_example()
        if record is not None and hits is not None and row.metric_unit == "%":
            found.append(hits.astype(np.float64))
            # not a share of those: they are the right answers beside a metric of another kind
            if record.metric is None or abs(record.metric - 100 * hits.mean()) > EQUAL:
                sign = 1.0
        elif values is not None:
            found.append(values[0])
            statistic = values[1]
        else:
            return None
    return _Examples(statistic, tuple(found), sign)
