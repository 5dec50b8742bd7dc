"""Leaderboards: records -> ranked rows. Pure functions.

A row is one configuration, its seeds taken together. Within a model, the rows whose metric drops by no more than the
tolerance come first, smallest file first: that is the question a leaderboard answers. The others follow by their drop.
A model without a metric has no such question: its rows are ordered by size, and the Pareto front on (bytes, mse) says
which of them matter.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import stdev
from typing import Any

from nqbench.api.errors import BadInput
from nqbench.results.goal import USUAL, Goal
from nqbench.results.labels import Labels, configuration_key, knob_value
from nqbench.results.record import EQUAL, PARTS, Record
from nqbench.results.stats import wilson


@dataclass(frozen=True)
class Row:
    """One configuration. Means over its seeds, ratios to their mean bytes; ``*_std``: sample standard deviation, None
    for fewer than two."""

    rank: int
    model: str
    method: str
    configuration: str
    pruner: str
    sensitivity: str
    quantizer: str
    granularity: str
    training: str
    positions: str
    coder: str
    knob: str | None
    knob_value: float | int | str | None
    n: int
    """How many seeds; ``deterministic`` where there is nothing to repeat."""
    deterministic: bool
    file_bytes: float
    file_bytes_std: float | None
    ratio: float | None
    file_ratio: float | None
    own_ratio: float | None
    bits_per_weight: float | None
    entropy: float | None
    efficiency: float | None
    mse: float | None
    weighted_mse: float | None
    metric_name: str | None
    metric_unit: str
    metric_higher_is_better: bool
    metric_float: float | None
    metric: float | None
    metric_std: float | None
    metric_low: float | None
    """A 95 % interval of the metric on other examples of the kind (Wilson's), where it is a share of right answers and
    one network was evaluated; ``metric_low`` to ``metric_high``."""
    metric_high: float | None
    metric_delta: float | None
    drop: float | None
    holds: bool | None
    """Whether it holds the goal, on the split that was selected on; None without a metric."""
    pareto: bool
    """No other row of the model is as small and as good, and better in one of them."""
    selected_on: str | None
    encode_msym_s: float | None
    decode_msym_s: float | None
    measured: bool
    parts: dict[str, float]
    keys: tuple[str, ...]
    failed: int = 0
    """How many further seeds gave no file that could be evaluated: then it does not hold, whatever the others say."""

    @property
    def quality(self) -> float | None:
        """Larger is better: minus the drop or, without a metric, minus the mse."""
        loss = self.drop if self.metric_name else self.mse
        return None if loss is None else -loss

    @property
    def is_distance(self) -> bool:
        """Whether the metric counts from the float network, as a divergence does: 0 for that one, and less is
        better."""
        return self.metric_float == 0 and not self.metric_higher_is_better

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "parts": dict(self.parts), "keys": list(self.keys)}  # asdict would copy deeply


def leaderboard(
    records: Iterable[Record],
    *,
    goal: Goal = USUAL,
    labels: Labels | None = None,
    separate: bool = False,
) -> list[Row]:
    """Ranked rows, model by model in the order the records name them. Records that are not ok have no row.

    separate: a row is one record, told by its key; else all records of a configuration, its seeds. goal: what a file
    has to hold to be ranked by its bytes; where bytes are the goal, by its metric.
    """
    known = list(records)
    good = [record for record in known if record.ok]
    failures = Counter(_tried(record) for record in known if not (record.ok or separate))
    labels = labels or Labels(good)
    groups: dict[str, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in good:
        group = record.key if separate else configuration_key(record)
        groups[labels.plugin(record, "model")][group].append(record)
    ranked: list[Row] = []
    for model, configurations in groups.items():
        rows = [
            _row(model, tested(group), labels, goal, failures[_tried(group[0])] if failures else 0)
            for group in configurations.values()
        ]
        rows.sort(key=by_loss if goal.bytes is not None else _order)
        best = front(rows)
        for rank, row in enumerate(rows, 1):
            # made just now and seen by nobody yet: copying ten thousand of them would take as long as making them
            object.__setattr__(row, "rank", rank)
            object.__setattr__(row, "pareto", id(row) in best)
        ranked += rows
    return ranked


def _tried(record: Record) -> tuple[str, str]:
    """The model and the configuration of a record, in which only seeds differ."""
    return json.dumps([record.model, record.model_params]), configuration_key(record)


def tested(group: Sequence[Record]) -> Sequence[Record]:
    """Of the records of one configuration those that were evaluated on the test split, if any was: a search that keeps
    it for the end leaves one without, too."""
    found = [record for record in group if record.metric is not None]
    return found or group


def by_loss(row: Row) -> tuple[object, ...]:
    """Where bytes are the goal: what holds by its loss, the others by their bytes."""
    lost = math.inf if row.drop is None else row.drop
    return (0 if row.holds else 1, lost if row.holds else row.file_bytes, row.file_bytes, row.configuration)


def _order(row: Row) -> tuple[object, ...]:
    if row.metric_name is None:
        return (0, row.file_bytes, row.mse if row.mse is not None else math.inf, row.configuration)
    lost = math.inf if row.drop is None else row.drop
    if row.holds:
        return (0, row.file_bytes, lost, row.configuration)
    return (1, lost, row.file_bytes, row.configuration)


def front(rows: Sequence[Row]) -> set[int]:
    """``id`` of the rows of one model that are on the Pareto front of size and quality. Rows of which a seed failed are
    on none: of the others nobody knows what the method gives. Without a metric each pruner has a front of its own,
    since an mse counts the kept weights alone."""
    found: set[int] = set()
    fronts: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.quality is not None and not row.failed:
            fronts["" if row.metric_name else row.pruner].append(row)
    for alike in fronts.values():
        found |= _front(alike)
    return found


def _front(rows: Sequence[Row]) -> set[int]:
    """Of rows with a quality: a sweep, smallest first."""
    best = -math.inf
    found: set[int] = set()
    by_size: dict[float, list[Row]] = defaultdict(list)
    for row in rows:
        by_size[row.file_bytes].append(row)
    for size in sorted(by_size):
        top = max(row.quality for row in by_size[size] if row.quality is not None)
        if top > best:
            found |= {id(row) for row in by_size[size] if row.quality == top}
            best = top
    return found


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of those that are there; None if none is."""
    found = [v for v in values if v is not None]
    return sum(found) / len(found) if found else None


def deviation(values: Iterable[float | None]) -> float | None:
    """Sample standard deviation (n - 1); None for fewer than two."""
    found = [v for v in values if v is not None]
    return stdev(found) if len(found) > 1 else None


def interval(record: Record) -> tuple[float | None, float | None]:
    """Of ``metric_low`` and ``metric_high``: see there."""
    if record.metric is None or not record.examples or record.metric_unit != "%":
        return None, None
    try:
        hits = record.hits()
    except BadInput:  # no base64, or too short: whoever needs the examples themselves says so
        return None, None
    if hits is None or abs(record.metric - 100 * float(hits.mean())) >= EQUAL:
        return None, None  # a metric of another kind
    low, high = (100 * end for end in wilson(int(hits.sum()), record.examples))
    return low, high


def _parts(group: Sequence[Record]) -> dict[str, float]:
    """Mean bytes by part."""
    if len(group) == 1 and group[0].parts is not None:
        parts = group[0].parts
        return {name: getattr(parts, name) for name in PARTS}
    return {name: mean(getattr(record.parts, name) for record in group) or 0.0 for name in PARTS}


def _row(model: str, group: Sequence[Record], labels: Labels, goal: Goal, failed: int) -> Row:
    first, holds = group[0], goal.held(group)

    alone = len(group) == 1  # by far the most, of tens of thousands

    def over(name: str) -> float | None:
        if alone:
            value: float | None = getattr(first, name)
            return value
        return mean(getattr(record, name) for record in group)

    def ratio(name: str) -> float | None:
        """Of the same network to the seeds' mean bytes: the mean of the ratios would be larger."""
        inverse = None if alone else mean(1 / value for record in group if (value := getattr(record, name)))
        return 1 / inverse if inverse else over(name)

    drop = over("drop")
    low, high = interval(first) if alone else (None, None)
    return Row(
        rank=0,
        model=model,
        method=labels.method(first),
        configuration=labels.configuration(first),
        pruner=labels.plugin(first, "pruner"),
        sensitivity=labels.plugin(first, "sensitivity"),
        quantizer=labels.plugin(first, "quantizer") or labels.plugin(first, "codec"),
        granularity=first.granularity or "",
        training=labels.plugin(first, "training"),
        positions=labels.plugin(first, "positions"),
        coder=labels.plugin(first, "coder"),
        knob=first.knob,
        knob_value=knob_value(first),
        n=len(group),
        deterministic=all(record.seed is None for record in group),
        file_bytes=over("file_bytes") or 0.0,
        file_bytes_std=None if alone else deviation(record.file_bytes for record in group),
        ratio=ratio("ratio"),
        file_ratio=ratio("file_ratio"),
        own_ratio=ratio("own_ratio"),
        bits_per_weight=over("bits_per_weight"),
        entropy=over("entropy"),
        efficiency=over("efficiency"),
        mse=over("mse"),
        weighted_mse=over("weighted_mse"),
        metric_name=first.metric_name,
        metric_unit=first.metric_unit,
        metric_higher_is_better=first.metric_higher_is_better,
        metric_float=over("metric_float"),
        metric=over("metric"),
        metric_std=None if alone else deviation(record.metric for record in group),
        metric_low=low,
        metric_high=high,
        metric_delta=over("metric_delta"),
        drop=drop,
        holds=False if failed and holds else holds,
        pareto=False,
        selected_on=first.selected_on,
        encode_msym_s=over("encode_msym_s"),
        decode_msym_s=over("decode_msym_s"),
        measured=all(record.measured for record in group),
        parts=_parts(group),
        keys=tuple(record.key for record in group),
        failed=failed,
    )
