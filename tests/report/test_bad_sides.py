"""What cannot be compared: one clear line and exit code 1, from ``compare`` and from ``nightly --baseline`` alike."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from record_factory import make

import nqbench.engine
from nqbench.cli import invoke
from nqbench.results.record import Record
from nqbench.results.store import FILE, Store

SUITE = "quickstart"
TONIGHT = [make(k=k, seed=seed) for k in (2, 4) for seed in (0, 1)]


def fill(folder: Path, records: Sequence[Record], suite: str = SUITE) -> Path:
    with Store.write(folder) as store:
        run = store.start_run(suite)
        for record in records:
            store.add(Record.from_dict({**record.to_dict(), "run": run, "suite": suite}))
        store.end_run(run)
    return folder


def truncated(folder: Path) -> Path:
    """Half of a store's bytes."""
    path = fill(folder, [make(k=k) for k in range(2, 200)]) / FILE
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return folder


def future(folder: Path) -> Path:
    with closing(sqlite3.connect(fill(folder, TONIGHT) / FILE)) as connection:
        connection.execute(
            "UPDATE records SET crc = NULL, data = replace(data, '\"schema_version\":2', '\"schema_version\":7')"
        )
        connection.commit()
    return folder


def half(path: Path) -> Path:
    """An export that was cut off."""
    assert invoke(["merge", str(path), str(fill(path.parent / "source", TONIGHT))]) == 0
    path.write_text(path.read_text()[:-200])
    return path


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "another suite": (lambda at: fill(at / "other", TONIGHT, "another"), "is of suite 'another'"),
    "another schema version": (lambda at: future(at / "future"), "schema version 7; this nqbench reads up to 2"),
    "a missing store": (lambda at: at / "nowhere", "no such file; expected a folder that `nqbench run"),
    "a half-written store": (lambda at: truncated(at / "half"), FILE),
    "a half-written export": (lambda at: half(at / "half.json"), "is no JSON, or only a part of a file"),
    "an empty store": (lambda at: fill(at / "empty", []), "holds no records to compare"),
    "unequal seeds": (
        lambda at: fill(at / "seeds", [make(k=k, seed=seed) for k in (2, 4) for seed in (0, 2)]),
        "the two runs have different seeds: 0, 2 in",
    ),
    "an empty intersection": (
        lambda at: fill(at / "others", [make(k=k, seed=seed) for k in (8, 16) for seed in (0, 1)]),
        "have no trial in common",
    ),
}


@pytest.mark.parametrize("command", ["compare", "nightly"])
@pytest.mark.parametrize("case", BAD)
def test_a_baseline_that_will_not_do_is_refused_in_one_line(
    case: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_baseline, message = BAD[case]
    baseline, out = make_baseline(tmp_path), tmp_path / "tonight"
    capsys.readouterr()

    def run_suite(suite: Any, folder: Path, **_: object) -> SimpleNamespace:
        fill(folder, TONIGHT)
        return SimpleNamespace(outcome="ok")

    monkeypatch.setattr(nqbench.engine, "run_suite", run_suite)
    if command == "compare":
        assert invoke(["compare", str(baseline), str(fill(out, TONIGHT))]) == 1
    else:
        assert invoke(["nightly", SUITE, "--output", str(out), "--baseline", str(baseline)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
