"""What a log and a terminal hear of a run, and what a worker notes of its work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nqbench.api.toolkit.progress import tell, telling
from nqbench.cli import progress
from nqbench.engine.worker import STARTING, _Note, noted
from nqbench.results.goal import Goal
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


@pytest.mark.parametrize(("search", "word"), [(False, "about"), (True, "at most")])
def test_a_log_hears_how_long_it_may_take(
    search: bool, word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    lines = progress.Lines()
    lines.started(5, 1, search=search)  # one was there already, and says nothing of the time
    now = 60.0
    lines.ended(_trial(800, 80.0), "one")
    now = 100.0
    lines.running([("two", "quantize: tensor 3 of 20")])
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == f"[2/5] after 100 s, {word} 5:00 left: two: quantize: tensor 3 of 20; best 800 B, 80.00 (train)"


def test_the_metric_where_the_search_looked_is_shown_with_its_split() -> None:
    fields = {
        "status": "ok", "run": "r", "suite": "s", "key": "k", "trial": "t", "model": "m", "device": "cpu",
        "file_bytes": 1234, "metric_name": "accuracy", "metric_unit": "%", "selected_on": "train",
        "parts": {"symbols": 1234}, "metrics": {"train.accuracy": 98.7}, "metrics_float": {"train.accuracy": 99.0},
    }  # fmt: skip
    record = Record.from_dict(fields)
    assert progress.outcome(record) == "1,234 B, 98.70 % (train)"
    assert progress.outcome(Record.from_dict({**fields, "metric": 97.0})) == "1,234 B, 97.00 %"


def _trial(size: int, value: float, **fields: object) -> Record:
    """A trial whose float network has 80 where the search looked, which is the training split."""
    known = {
        "status": "ok", "run": "r", "suite": "s", "key": str(size), "trial": str(size), "model": "m", "device": "cpu",
        "file_bytes": size, "parts": {"symbols": size}, "metric_name": "score", "metric_unit": "",
        "selected_on": "train", "metrics": {"train.score": value}, "metrics_float": {"train.score": 80.0},
    }  # fmt: skip
    return Record.from_dict(known | fields)


@pytest.mark.parametrize(
    ("goal", "lower_is_better", "best"),
    [
        (Goal(drop=0.5), False, 400),
        (Goal(drop=3.0), False, 200),
        (Goal(share=5.0), False, 100),  # 76 of 80
        (Goal(metric=79.9), False, 800),
        (Goal(bytes=300), False, 200),  # the best metric of those that fit, not the smallest
        (Goal(drop=0.0), False, 800),
        (Goal(drop=3.0), True, 100),  # less is better: nothing is lost
        (Goal(metric=77.9), True, 100),
        (Goal(bytes=500), True, 100),
        (Goal(bytes=50), False, None),
    ],
)
def test_the_best_so_far_is_by_the_goal_of_the_run(goal: Goal, lower_is_better: bool, best: int | None) -> None:
    lines = progress.Lines()
    lines.started(4, 0, search=True, goal=goal)
    for size, value in [(200, 77.5), (800, 80.0), (100, 76.5), (400, 79.6)]:
        lines.ended(_trial(size, value, metric_higher_is_better=not lower_is_better), "one")
    lines.ended(_trial(1, 80.0, status="failed", error="no"), "one")
    assert (lines.best.record.file_bytes if lines.best.record else None) == best


def test_without_a_metric_the_smallest_file_is_the_best_so_far() -> None:
    lines = progress.Lines()
    lines.started(4, 0, goal=Goal(drop=0.5))
    for size in (400, 200, 800):
        lines.ended(_trial(size, 0.0, metric_name=None, selected_on=None, metrics={}, metrics_float={}), "one")
    assert lines.best.record is not None
    assert lines.best.record.file_bytes == 200


@pytest.mark.parametrize("columns", [200, 100, 60, 40, 12, 1])
@pytest.mark.parametrize(("done", "total"), [(0, 0), (1, 20), (11, 20), (20, 20)])
def test_a_worker_s_line_fits_its_terminal_and_says_the_time_left(columns: int, done: int, total: int) -> None:
    line = progress.worker_line("lenet5 gptq(step=0.1) huffman", "quantize", done, total, 50.0, columns)
    assert len(line) < max(columns, 2)
    if columns >= 60:
        assert "quantize" in line
        # ten of twenty took 50 s, so will the other ten; none done, or none counted: what it has taken so far
        left = {(0, 0): "0:50", (1, 20): "0:50", (11, 20): "0:50 left", (20, 20): "0:03 left"}[done, total]
        assert left in line
        assert ("left" in line) is ("left" in left)


class Screen:
    """What a terminal shows of what is written to it: line feeds, carriage returns, and steps upwards."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.lines: list[str] = [""]
        self.row = self.column = 0

    def write(self, text: str) -> int:
        for part in re.split("(\x1b\\[A|[\r\n])", text):
            if part == "\x1b[A":
                self.row = max(0, self.row - 1)
            elif part == "\r":
                self.column = 0
            elif part == "\n":
                self.row, self.column = self.row + 1, 0
                self.lines += [""] * (self.row + 1 - len(self.lines))
            else:
                line = self.lines[self.row].ljust(self.column)
                self.lines[self.row] = line[: self.column] + part + line[self.column + len(part) :]
                self.column += len(part)
                assert self.column <= self.columns, "a line is longer than the terminal is wide"
        return len(text)

    def flush(self) -> None: ...

    @property
    def shown(self) -> list[str]:
        return [line.rstrip() for line in self.lines if line.strip()]


@pytest.mark.parametrize("columns", [100, 60])
def test_a_terminal_shows_a_line_a_worker_and_ended_trials_above_them(
    monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    screen = Screen(columns)
    monkeypatch.setattr(progress.sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", str(columns))
    bars = progress.Bars()
    bars.started(3, 0)
    bars.running([("a one", "quantize: tensor 3 of 20"), ("a two", "file")])
    bars.running([("a two", "evaluate"), ("a three", "load: " + "long " * 40)])
    assert [line.split()[:1] for line in screen.shown] == [["0"], ["load"], ["evaluate"]], "a line stays with its trial"
    fields = {
        "status": "ok", "run": "r", "suite": "s", "key": "k", "trial": "t", "model": "m", "device": "cpu",
        "file_bytes": 1234, "parts": {"symbols": 1234},
    }  # fmt: skip
    bars.ended(Record.from_dict(fields), "a two")
    bars.running([("a three", "quantize: tensor 3 of 20")])
    assert screen.shown[0] == "a two: 1,234 B"
    assert screen.shown[1].startswith("1 of 3 trials")
    assert screen.shown[1].endswith("best 1,234 B")
    assert [line.split()[-1] for line in screen.shown[2:]] == ["three"]
    bars.warning("careful")
    bars.finished()
    assert screen.shown[:2] == ["a two: 1,234 B", "warning: careful"]
    assert len(screen.shown) == 3, "the workers' lines are gone"
