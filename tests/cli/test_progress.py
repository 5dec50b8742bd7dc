"""What a log and a terminal hear of a run, and what a worker notes of its work."""

from __future__ import annotations

from pathlib import Path

import pytest

from nqbench.api.toolkit.progress import tell, telling
from nqbench.cli import progress
from nqbench.engine.worker import STARTING, _Note, noted
from nqbench.results.record import Record


def test_who_listens_hears_and_who_listened_before_hears_again() -> None:
    outer: list[str] = []
    inner: list[str] = []
    tell("nobody")
    with telling(outer.append):
        tell("one")
        with telling(inner.append):
            tell("two")
        tell("three")
    tell("nobody")
    assert (outer, inner) == (["one", "three"], ["two"])


def test_a_worker_notes_its_step_and_how_far_it_has_come(tmp_path: Path) -> None:
    path = tmp_path / "stage"
    assert noted(path).step == STARTING, "nothing is noted yet"
    note = _Note(str(path))
    note.stage("quantize", 12.5)
    assert noted(path) == ("quantize", 12.5, "")
    note.tell("tensor 3\n of 20")
    assert noted(path) == ("quantize", 12.5, "tensor 3 of 20")
    note.tell("ü" * 500)
    assert noted(path).since == 12.5, "a long word does not hide the rest"
    note.stage("file", 13.0)
    assert noted(path) == ("file", 13.0, ""), "what was told of another step is gone"


def test_a_log_hears_of_long_work_every_half_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    lines = progress.Lines()
    lines.started(4, 0)
    heard = []
    for _ in range(200):  # 100 seconds of half a second
        now += 0.5
        lines.running([("lenet5 gptq", "quantize: tensor 3 of 20")])
        heard += capsys.readouterr().err.splitlines()
    assert heard == ["4 trials"] + [
        f"[0/4] after {seconds} s: lenet5 gptq: quantize: tensor 3 of 20" for seconds in (30, 60, 90)
    ]


def test_the_metric_where_the_search_looked_is_shown_with_its_split() -> None:
    fields = {
        "status": "ok", "run": "r", "suite": "s", "key": "k", "trial": "t", "model": "m", "device": "cpu",
        "file_bytes": 1234, "metric_name": "accuracy", "metric_unit": "%", "selected_on": "train",
        "parts": {"symbols": 1234}, "metrics": {"train.accuracy": 98.7}, "metrics_float": {"train.accuracy": 99.0},
    }  # fmt: skip
    record = Record.from_dict(fields)
    assert progress.outcome(record) == "1,234 B, 98.70 % (train)"
    assert progress.outcome(Record.from_dict({**fields, "metric": 97.0})) == "1,234 B, 97.00 %"
