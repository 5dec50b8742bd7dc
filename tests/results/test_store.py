"""The store keeps every record that was added, whatever happens to the writer, and refuses strangers in one line."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from record_factory import failed, make

from nqbench.engine.recording import RunRecords
from nqbench.pipeline.cache import Cache
from nqbench.pipeline.files import file_of
from nqbench.results import store as stores
from nqbench.results.database import WRITTEN
from nqbench.results.portable import Portable
from nqbench.results.store import Store, StoreError


def started(store: Store, keys: list[str] | None = None) -> str:
    return store.start_run("synthetic", "suite text", argv=["nqbench", "run"], keys=keys or [])


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    with Store.write(tmp_path / "new" / "folder") as store:
        run = started(store)
        written = [make(run=run, k=2), failed(run=run, k=4)]
        for record in written:
            store.add(record)
        store.end_run(run)
    with Store.read(tmp_path / "new" / "folder") as store:
        assert store.records() == written
        (only,) = store.runs()
        assert (only.suite, only.suite_text, only.argv, only.outcome) == (
            "synthetic", "suite text", ("nqbench", "run"), "ok",
        )  # fmt: skip
        assert only.environment["python"]


def test_done_are_the_keys_whose_last_record_is_ok(tmp_path: Path) -> None:
    with Store.write(tmp_path) as store:
        run = started(store)
        good, bad = make(run=run, k=2), failed(run=run, k=4)
        store.add(good)
        store.add(bad)
        assert list(store.done()) == [good.key]
        second = started(store)
        mended = make(run=second, k=4)
        store.add(mended)
        assert mended.key == bad.key
        assert store.done([good.key, bad.key, "unknown"]) == {good.key: good, bad.key: mended}


def test_what_is_written_last_counts_last_though_a_clock_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.write(tmp_path) as store:
        monkeypatch.setattr(stores, "utc_now", lambda: "2031-01-01T00:00:00.000000+00:00")
        ahead = started(store)
        bad = failed(run=ahead, k=4, time="2031-01-01T00:00:01.000000+00:00")
        store.add(bad)
        monkeypatch.setattr(stores, "utc_now", lambda: "2026-01-01T00:00:00.000000+00:00")
        second = started(store)
        mended = make(run=second, k=4, time="2026-01-01T00:00:01.000000+00:00")
        store.add(mended)
        store.add(mended)  # again
        assert (latest := store.latest()) is not None
        assert latest.run == second
        assert list(store.done()) == [mended.key]
        (last,) = store.records()
        assert last.ok
        assert last.time == "2031-01-01T00:00:01.000001+00:00"
        assert last.model_copy(update={"time": mended.time}) == mended
        assert [run.run for run in store.runs()] == [ahead, second]


def test_the_latest_run_takes_over_what_it_covers_and_no_more(tmp_path: Path) -> None:
    with Store.write(tmp_path) as store:
        first = started(store)
        old = [make(run=first, k=k) for k in (2, 4, 8)]
        for record in old:
            store.add(record)
        store.end_run(first)
        second = started(store, [old[0].key])
        new = make(run=second, k=16)
        store.add(new)
        store.reuse(second, [old[1].key])
        assert store.records("latest") == [old[0], new, old[1]]
        assert store.records("all") == [*old, new]
        assert store.records(first) == old


def test_an_earlier_run_does_not_see_later_records(tmp_path: Path) -> None:
    with Store.write(tmp_path) as store:
        runs = [started(store) for _ in range(3)]
        for index, run in enumerate(runs):
            store.add(make(run=run, symbols=1000 + index))
        store.end_run(runs[0])
        sizes = [store.records(run)[0].parts.symbols for run in runs]  # type: ignore[union-attr]
        assert sizes == [1000, 1001, 1002]


def test_more_keys_than_sqlite_takes_variables(tmp_path: Path) -> None:
    with Store.write(tmp_path) as store:
        run = started(store)
        record = make(run=run)
        store.add(record)
        assert store.done([str(i) for i in range(3_000)] + [record.key]) == {record.key: record}


def test_a_second_writer_is_refused_in_one_line(tmp_path: Path) -> None:
    with Store.write(tmp_path), pytest.raises(StoreError, match="another run is writing into this folder") as caught:
        Store.write(tmp_path)
    assert "\n" not in str(caught.value)
    Store.write(tmp_path).close()  # free again


WRITER = """
import sys, time
sys.path[:0] = {paths!r}
from record_factory import make
from nqbench.results.store import Store
store = Store.write({folder!r})
run = store.start_run("synthetic")
for k in (2, 4, 8):
    store.add(make(run=run, k=k))
print("ready", flush=True)
time.sleep(60)
"""


def test_readers_see_every_record_while_a_run_writes_and_after_it_was_killed(tmp_path: Path) -> None:
    code = WRITER.format(paths=[str(Path(__file__).parent)], folder=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        with Store.read(tmp_path) as store:
            assert len(store.records()) == 3
        with pytest.raises(StoreError, match="another run is writing"):
            Store.write(tmp_path)
        os.kill(writer.pid, signal.SIGKILL)
    with Store.read(tmp_path) as store:
        assert [r.quantizer_params["k"] for r in store.records() if r.quantizer_params] == [2, 4, 8]
        assert store.runs()[0].ended is None
    with Store.write(tmp_path) as store:  # the lock died with its holder
        assert len(store.done()) == 3


def one_line(path: Path) -> str:
    with pytest.raises(StoreError) as caught:
        Store.read(path)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    return text


def test_a_missing_store_is_said(tmp_path: Path) -> None:
    assert "no such file" in one_line(tmp_path)
    assert "no such file" in one_line(tmp_path / "nowhere")


@pytest.mark.parametrize("content", [b"no database at all, but text " * 40, b"SQLite format 3\x00" + bytes(200)])
def test_a_file_that_is_no_database_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "records.sqlite").write_bytes(content)
    assert "cannot be used as a store of records" in one_line(tmp_path)
    with pytest.raises(StoreError, match="cannot be used"):
        Store.write(tmp_path)
    (tmp_path / "records.sqlite").unlink()
    Store.write(tmp_path).close()  # a refusal holds no lock


def test_an_empty_file_is_a_run_that_never_began(tmp_path: Path) -> None:
    (tmp_path / "records.sqlite").write_bytes(b"")
    assert "stopped before its first trial ended" in one_line(tmp_path)
    Store.write(tmp_path).close()


def test_a_truncated_store_is_said(tmp_path: Path) -> None:
    with Store.write(tmp_path) as store:
        run = started(store)
        for k in range(2, 60):
            store.add(make(run=run, k=k))
    path = tmp_path / "records.sqlite"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(StoreError, match="cannot be used"), Store.read(path) as store:
        store.records()


def test_a_strangers_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE photographs (id INTEGER)")
    before = path.read_bytes()
    assert "not one that nqbench wrote" in one_line(tmp_path)
    with pytest.raises(StoreError, match="not one that nqbench wrote"):
        Store.write(tmp_path)
    assert path.read_bytes() == before


def test_a_newer_store_is_said(tmp_path: Path) -> None:
    Store.write(tmp_path).close()
    with sqlite3.connect(tmp_path / "records.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    assert "newer nqbench (store version 99" in one_line(tmp_path)


def test_a_record_of_a_newer_schema_is_said(tmp_path: Path) -> None:
    with Store.write(tmp_path) as store:
        store.add(make(run=started(store)))
    with sqlite3.connect(tmp_path / "records.sqlite") as connection:
        connection.execute(
            "UPDATE records SET crc = NULL, data = replace(data, '\"schema_version\":2', '\"schema_version\":7')"
        )
    with Store.read(tmp_path) as store, pytest.raises(StoreError, match="schema version 7"):
        store.records()


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nqbench")):
        with pytest.raises(StoreError, match="cannot be written") as caught:
            Store.write(folder)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", WRITTEN)
def test_what_a_link_in_the_folder_points_to_is_not_written(tmp_path: Path, name: str) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "out"
    outside.write_text("mine")
    folder.mkdir()
    (folder / name).symlink_to(outside)
    with pytest.raises(StoreError, match="is a symbolic link") as caught:
        Store.write(folder)
    assert str(folder / name) in str(caught.value)
    assert outside.read_text() == "mine"
    assert {path.name for path in folder.iterdir()} == {name}


@pytest.mark.parametrize("after", ["removed", "moved", "replaced"])
def test_a_writer_whose_folder_is_gone_is_told_at_the_next_record(tmp_path: Path, after: str) -> None:
    folder = tmp_path / "out"
    with Store.write(folder) as store:
        run = started(store)
        store.add(make(run=run, k=2))
        folder.rename(tmp_path / "elsewhere")
        if after == "removed":
            shutil.rmtree(tmp_path / "elsewhere")
        if after == "replaced":
            Store.write(folder).close()
        with pytest.raises(StoreError, match="was removed, moved or replaced") as caught:
            store.add(make(run=run, k=4))
        assert "\n" not in str(caught.value)


def test_a_measurement_that_is_resumed_takes_nothing_from_one_that_ended(tmp_path: Path) -> None:
    """A run that ended, two after it that were interrupted, and one that goes on with these."""
    with Store.write(tmp_path) as store:
        for ks, outcome in (((2, 4, 8), "ok"), ((2,), "interrupted"), ((4,), "interrupted")):
            run = store.start_run("synthetic")
            for k in ks:
                record = make(run=run, k=k)
                store.add(record)
                path = file_of(record.key, tmp_path / "files")
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(bytes(record.file_bytes or 0))
            store.end_run(run, outcome)
        last = store.start_run("synthetic")
        jobs: Any = [
            SimpleNamespace(
                question=None, keys=SimpleNamespace(trial=make(k=k).key), trial=SimpleNamespace(selected_on=None)
            )
            for k in (2, 4, 8)
        ]
        for measures, expected in ((True, {2, 4}), (False, {2, 4, 8})):
            records = RunRecords(
                store, last, "synthetic", tmp_path, Cache(tmp_path / "cache"), Portable(tmp_path), {}, "cpu", 1, 1,
                measures,
            )  # fmt: skip
            found = records.already(jobs)
            assert {(record.quantizer_params or {})["k"] for record in found.values()} == expected
