"""Records of earlier versions: read in the words of today, and matched with what runs today."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from nqbench.api import Note
from nqbench.results.record import Record
from nqbench.suite import load

REFERENCE = Path(__file__).parents[2] / "reports" / "reference"
PUBLISHED = sorted(REFERENCE.rglob("records.json"))
GRIDS = ("beyond/resnet32", "ablation-feedback", "ablation-scopes", "resnet32-feedback", "lc")
"""Published runs of whole grids, under every word that changed."""


def records(path: Path) -> list[tuple[dict[str, object], Record]]:
    content = json.loads(path.read_text())
    listed = content if isinstance(content, list) else content["records"]
    return [(fields, Record.from_dict(fields)) for fields in listed]


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: str(path.parent.relative_to(REFERENCE)))
def test_published_records_are_read_in_todays_words(path: Path) -> None:
    for fields, record in records(path):
        assert record.quantizer == ("gptq" if fields["quantizer"] == "obs" else fields["quantizer"])
        if fields["schema_version"] == 1:
            assert (record.granularity, record.unquantized) == (fields["scope"], fields["others"])
        assert not {"survivors", "order", "steps"} & (record.quantizer_params or {}).keys()
        # what was measured is what was measured
        for name in ("file_bytes", "metric", "key", "knob", "mse"):
            assert getattr(record, name) == fields[name]
        assert Record.from_json(json.dumps(fields)) == record
        assert Record.from_json(record.to_json()) == record


@pytest.mark.parametrize("name", GRIDS)
def test_a_published_trial_is_the_one_that_its_suite_makes_today(name: str) -> None:
    """Old and new runs of a suite compare trial by trial: 16 digits, the same for the same configuration."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        today = {trial.trial: trial for trial in load(REFERENCE / name / "suite.yaml", sets=["codecs=null"]).trials()}
    for fields, record in records(REFERENCE / name / "records.json"):
        if fields["codec"] is not None:
            continue
        assert record.trial in today, (fields["quantizer"], fields["quantizer_params"])
        assert today[record.trial].config()["quantizer_params"] == record.quantizer_params


def test_a_record_of_a_plugin_that_is_not_installed_stays_as_it_was(tmp_path: Path) -> None:
    fields, _ = records(PUBLISHED[0])[0]
    gone = {**fields, "quantizer": "gone", "quantizer_params": {"survivors": 4}, "knob": "survivors", "trial": "0" * 16}
    record = Record.from_dict(gone)
    assert (record.quantizer, record.quantizer_params, record.knob) == ("gone", {"survivors": 4}, "survivors")
    assert record.trial == "0" * 16
