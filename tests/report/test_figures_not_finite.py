"""A figure that is nan or infinite, anywhere in a record, costs neither the report nor a comparison."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from record_factory import make, sweep

from nqbench.cli.nightly import compare_night, write_history
from nqbench.report import comparison as shown
from nqbench.report import rebuild, terminal
from nqbench.results.exports import merge, read_side
from nqbench.results.record import FINITE, Record
from nqbench.results.store import Store

VALUES = (math.nan, math.inf, -math.inf)
INSIDE = ("statistics", "metrics", "metrics_float", "loss_increase", "seconds", "samples", "quantizer_params")


def within(field: str, value: float) -> Any:
    """A value for a field that holds figures by name."""
    if field == "loss_increase":
        return dict.fromkeys(("linear", "diagonal", "gauss_newton", "measured"), value)
    if field == "samples":
        return {"encode": [value, 1.0, value]}
    return {"encode" if field == "seconds" else "k" if field == "quantizer_params" else "accuracy": value}


def strange() -> list[Record]:
    """A record for each figure and each value that is not finite, beside a sound sweep."""
    plain = [{field: value} for field in FINITE for value in VALUES]
    inside: list[dict[str, Any]] = [{field: within(field, value)} for field in INSIDE for value in VALUES]
    changes = [*plain, *inside]
    return [*sweep(), *(make(model="net", k=100 + i, **({"measured": True} | c)) for i, c in enumerate(changes))]


def fill(folder: Path, nights: int = 1) -> Path:
    with Store.write(folder) as store:
        for _ in range(nights):
            run = store.start_run("synthetic")
            for record in strange():
                store.add(record.model_copy(update={"run": run}))
            store.end_run(run)
    return folder


def no_constant(name: str) -> float:
    raise AssertionError(f"{name} is no JSON")


def test_every_export_is_written_and_its_json_is_json(tmp_path: Path) -> None:
    folder = fill(tmp_path / "run", nights=2)
    data, paths = rebuild(folder)
    assert len(data.failures) == len(FINITE) * len(VALUES)
    assert all(math.isfinite(row.metric or 0.0) for row in data.rows)
    assert "is nan" in terminal(data)
    write_history(folder)
    compare_night(folder, read_side(folder, data.run))
    merged = tmp_path / "merged"
    with Store.write(merged) as store:
        merge(store, folder)
    for path in (*paths.values(), folder / "compare.json"):
        if path.suffix == ".json":
            json.loads(path.read_text(), parse_constant=no_constant)
    payload = re.search(r"<script[^>]*application/json[^>]*>(.*?)</script>", paths["index.html"].read_text(), re.DOTALL)
    assert payload is not None
    json.loads(payload.group(1), parse_constant=no_constant)
    again = read_side(paths["records.json"])
    assert [r.to_json() for r in again.records] == [r.to_json() for r in data.records]
    assert shown.as_json(compare_night(folder, again))


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_a_record_that_an_earlier_version_wrote_with_such_a_metric_is_reported_as_failed(
    tmp_path: Path, value: str
) -> None:
    written = make().to_dict() | {"metric": value, "metric_delta": value, "metrics": {"accuracy": value}}
    (tmp_path / "old.json").write_text(json.dumps([written]))
    with Store.write(tmp_path / "out") as store:
        merge(store, tmp_path / "old.json")
        assert store.done() == {}
    data, _ = rebuild(tmp_path / "out")
    (record,) = data.failures
    assert "the metric 'accuracy' of the decoded network is" in str(record.error)
