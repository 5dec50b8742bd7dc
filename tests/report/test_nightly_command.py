"""The nightly command: a planted regression is caught, a quiet night is quiet, and every night is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from record_factory import failed, make

import nqbench.engine
from nqbench.cli import invoke
from nqbench.cli.nightly import last_night, stood_in
from nqbench.results.record import Record
from nqbench.results.store import Store

KS = (2, 4, 8, 16, 32)
Night = Callable[[Sequence[Record]], None]


@pytest.fixture
def night(monkeypatch: pytest.MonkeyPatch) -> Night:
    """Makes the next run of any suite give these records."""

    def plan(records: Sequence[Record]) -> None:
        def run_suite(suite: Any, folder: Path, **_: object) -> SimpleNamespace:
            outcome = "ok" if all(record.ok for record in records) else "failed"
            with Store.write(folder) as store:
                run = store.start_run(suite.name)
                for record in records:
                    store.add(Record.from_dict({**record.to_dict(), "run": run, "suite": suite.name}))
                store.end_run(run, outcome)
            return SimpleNamespace(outcome=outcome)

        monkeypatch.setattr(nqbench.engine, "run_suite", run_suite)

    return plan


def measured(rng: np.random.Generator, slower: float = 1.0, worse: float = 1.0) -> list[Record]:
    found = []
    for k in KS:
        samples = {"encode": (slower * 0.01 * rng.lognormal(0, 0.04, 9)).tolist()}
        found.append(make(k=k, samples=samples, measured=True, mse=worse * 2.0 ** (-2 * np.log2(k)) / 12))
    return found


def run(folder: Path, *more: str) -> int:
    return invoke(["nightly", "quickstart", "--output", str(folder), *more])


def test_the_first_night_has_nothing_to_compare_with(
    night: Night, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    night(measured(np.random.default_rng(0)))
    assert run(tmp_path) == 0
    assert "the first night" in capsys.readouterr().out
    assert (tmp_path / "history.html").is_file()
    assert not (tmp_path / "compare.md").exists()


def test_a_coder_made_three_times_slower_and_a_quantizer_two_per_cent_worse_are_caught(
    night: Night, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(1)
    night(measured(rng))
    assert run(tmp_path) == 0
    night(measured(rng, slower=3.0))
    assert run(tmp_path) == 3
    shown = capsys.readouterr().out
    assert "seconds.encode" in shown
    assert "mse" not in shown
    night(measured(rng, slower=3.0, worse=1.02))
    assert run(tmp_path) == 3
    shown = capsys.readouterr().out
    assert "mse" in shown
    assert "seconds.encode" not in shown  # it is slow since last night
    assert int(ElementTree.parse(tmp_path / "junit.xml").getroot().get("failures") or 0) == len(KS)
    page = (tmp_path / "history.html").read_text()
    assert "seconds.encode" in page.partition("<h2>What moves")[0]
    with Store.read(tmp_path) as store:
        assert len(store.runs()) == 3


def test_twenty_quiet_nights_raise_no_alarm(night: Night, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for _ in range(21):
        night(measured(rng))
        assert run(tmp_path) == 0


def test_failed_trials_end_with_2_on_the_first_night_and_later(night: Night, tmp_path: Path) -> None:
    night([make(k=2), failed(k=4)])
    assert run(tmp_path) == 2
    assert run(tmp_path) == 2
    night([make(k=2), make(k=4)])
    assert run(tmp_path) == 0


@pytest.mark.parametrize("between", [[make(k=2), failed(k=4)], [make(k=2)]], ids=["failed", "missing"])
@pytest.mark.parametrize(("after", "code"), [(5_000, 0), (10_000, 3)])
def test_a_failed_night_hides_nothing_that_got_worse_since(
    night: Night, tmp_path: Path, capsys: pytest.CaptureFixture[str], between: list[Record], after: int, code: int
) -> None:
    night([make(k=2), make(k=4, symbols=5_000)])
    assert run(tmp_path) == 0
    night(between)
    assert run(tmp_path) == (2 if len(between) == 2 else 0)
    night(between)
    run(tmp_path)
    capsys.readouterr()
    night([make(k=2), make(k=4, symbols=after)])
    assert run(tmp_path) == code
    shown = capsys.readouterr().out
    assert ("file_bytes" in shown) is (code == 3)
    assert "1 trial failed or missing in the last night: compared with the last good record" in shown
    night([make(k=2)])
    assert run(tmp_path) == 0
    assert "missing in the last night" not in capsys.readouterr().out


def test_earlier_nights_are_read_for_what_the_last_one_lacks_and_no_further(
    night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of hundreds of nights a quiet one needs none."""
    for k4 in (make(k=4), make(k=4), make(k=4), failed(k=4)):
        night([make(k=2), k4])
        run(tmp_path)
    last = last_night(tmp_path, "quickstart")
    assert last is not None
    assert len(last.before) == 3
    read: list[str] = []
    whole = Store.records

    def records(store: Store, run: str = "latest") -> list[Record]:
        read.append(run)
        return whole(store, run)

    monkeypatch.setattr(Store, "records", records)
    assert stood_in(last, replace(last, records=[make(k=2)]), tmp_path) is last
    assert read == []
    both = stood_in(last, replace(last, records=[make(k=2), make(k=4)]), tmp_path)
    assert [record.ok for record in both.records] == [True, True]
    assert read == [last.before[0]]


def test_what_was_taken_out_of_a_suite_is_gone_once_and_not_every_night(
    night: Night, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    night([make(k=2), make(k=4)])
    run(tmp_path)
    night([make(k=2)])
    run(tmp_path)
    assert "1 gone" in capsys.readouterr().out
    run(tmp_path)
    assert "gone" not in capsys.readouterr().out


def test_a_tolerance_of_no_figure_is_refused_before_the_run(
    night: Night, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    night([make()])
    assert run(tmp_path / "nights", "--tolerance", "bytes=0.01") == 1
    error = capsys.readouterr().err
    assert "tolerance 'bytes=0.01': there is no figure 'bytes'; did you mean 'file_bytes'?" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "nights").exists()
    assert run(tmp_path / "nights", "--tolerance", "file_bytes=0.01", "--tolerance", "accuracy=0.01") == 0
    assert invoke(["compare", str(tmp_path / "nights"), str(tmp_path / "nights"), "--tolerance", "acuracy=1"]) == 1
    assert "did you mean 'accuracy'?" in capsys.readouterr().err


def test_a_baseline_of_another_suite_is_refused_in_one_line(
    night: Night, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Store.write(tmp_path / "other") as store:
        name = store.start_run("another")
        store.add(make(run=name))
        store.end_run(name)
    night([make()])
    assert run(tmp_path / "nights", "--baseline", str(tmp_path / "other")) == 1
    error = capsys.readouterr().err
    assert "is of suite 'another'" in error
    assert error.count("\n") == 1


def test_a_missing_baseline_is_said_before_the_run(
    night: Night, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    night([make()])
    assert run(tmp_path / "nights", "--baseline", str(tmp_path / "nowhere.json")) == 1
    assert "nowhere.json: cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "nights").exists()
