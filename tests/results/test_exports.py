"""Stores travel without loss: export, import, merge in any order, again and again."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
from record_factory import failed, make

from nqbench.api import NqbenchError
from nqbench.results.exports import export_json, merge, read_json, read_side, run_json, whole_store
from nqbench.results.store import Run, Store


def night(folder: Path, ks: tuple[int, ...], symbols: int = 1000, ended: bool = True) -> str:
    """One run into a folder's store."""
    with Store.write(folder) as store:
        run = store.start_run("synthetic", "text", settings={"drop": 1.0})
        for k in ks:
            store.add(make(run=run, k=k, symbols=symbols))
        if ended:
            store.end_run(run)
    return run


def content(folder: Path) -> str:
    with Store.read(folder) as store:
        return export_json(store)


def test_merging_in_any_order_and_again_gives_the_same_store(tmp_path: Path) -> None:
    sources = [tmp_path / name for name in "abc"]
    for index, source in enumerate(sources):
        night(source, (2, 4), 1000 + index)
        night(source, (2, 8), 2000 + index)
    results = set()
    for number, order in enumerate(itertools.permutations(sources)):
        folder = tmp_path / f"merged{number}"
        with Store.write(folder) as store:
            assert sum(merge(store, source) for source in order) == 6
            assert sum(merge(store, source) for source in order) == 0
        results.add(content(folder))
    assert len(results) == 1


def test_latest_is_the_same_run_in_a_store_and_in_its_export(tmp_path: Path) -> None:
    """Of runs that overlap, and of one that was killed, the one that began last."""
    export = tmp_path / "export.json"
    times = [("2026-01-01T10:00:00Z", "2026-01-01T12:00:00Z"), ("2026-01-01T11:00:00Z", "2026-01-01T11:30:00Z")]
    for ended in (True, False):
        folder = tmp_path / str(ended)
        with Store.write(folder) as store:
            for index, (begun, end) in enumerate(times):
                run = Run(f"run-{index}", "synthetic", "", {}, (), {}, begun, end if ended or not index else None, "ok")
                store.take(run, [], [])
            latest = store.latest()
        assert latest is not None
        export.write_text(content(folder))
        assert read_side(export).run == read_side(folder).run == latest.run == "run-1"


def test_an_export_imports_without_loss(tmp_path: Path) -> None:
    night(tmp_path / "a", (2, 4))
    night(tmp_path / "a", (2,), 1234, ended=False)
    file = tmp_path / "export.json"
    file.write_text(content(tmp_path / "a"))
    with Store.write(tmp_path / "b") as store:
        merge(store, file)
    assert content(tmp_path / "b") == content(tmp_path / "a")
    with Store.read(tmp_path / "a") as store:
        whole = whole_store(store)
    again = read_json(file)
    assert list(again.runs) == list(whole.runs)
    assert sorted(again.records, key=str) == sorted(whole.records, key=str)


def test_a_side_is_the_same_from_folder_store_and_export(tmp_path: Path) -> None:
    first = night(tmp_path / "a", (2, 4))
    night(tmp_path / "a", (2,), 1234)
    file = tmp_path / "export.json"
    file.write_text(content(tmp_path / "a"))
    for run in ("latest", first):
        sides = [read_side(path, run) for path in (tmp_path / "a", tmp_path / "a" / "records.sqlite", file)]
        assert sides[0].records == sides[1].records == sides[2].records
        assert sides[0].suite == sides[2].suite == "synthetic"
        assert sides[0].run == sides[2].run
    assert len(read_side(file).records) == 1


def test_a_list_of_records_is_one_run(tmp_path: Path) -> None:
    file = tmp_path / "records.json"
    records = [make(run="r1", k=2), make(run="r2", k=4), failed(run="r2", k=8)]
    file.write_text(json.dumps([record.to_dict() for record in records]))
    assert list(read_side(file).records) == records
    with Store.write(tmp_path / "a") as store:
        assert merge(store, file) == 2
        assert merge(store, file) == 0
        assert {r.key for r in store.records()} == {r.key for r in records}


def test_the_export_of_one_run_brings_the_records_that_it_took_from_an_earlier_one(tmp_path: Path) -> None:
    first = night(tmp_path / "a", (2,))
    with Store.write(tmp_path / "a") as store:
        settings = {"drop": 1.0, "suite_folder": "../../home/ann"}
        second = store.start_run("synthetic", "text", settings=settings)
        store.reuse(second, [record.key for record in store.records(first)])
        store.add(make(run=second, k=4))  # and it never ends
    with Store.read(tmp_path / "a") as store:
        run = store.run(second)
        text = run_json(run, store.records(second))
        told = list(store.records(second))
    file = tmp_path / "records.json"
    file.write_text(text)
    assert read_side(file).run == second
    assert list(read_side(file).records) == list(read_side(file, second).records) == told
    assert [record.key for record in read_side(file, first).records] == [told[0].key]
    with Store.write(tmp_path / "b") as store:
        assert merge(store, file) == 2
        assert merge(store, file) == 0
        assert list(store.records(second)) == told
        assert replace(store.run(second), settings=settings) == run
        assert store.run(second).settings == {"drop": 1.0}  # nothing of the machine


def test_a_run_that_ended_after_the_last_merge_is_brought_up_to_date(tmp_path: Path) -> None:
    run = night(tmp_path / "a", (2,), ended=False)
    with Store.write(tmp_path / "b") as target:
        merge(target, tmp_path / "a")
        assert target.runs()[0].ended is None
        with Store.write(tmp_path / "a") as store:
            store.add(make(run=run, k=4))
            store.end_run(run, "ok")
        assert merge(target, tmp_path / "a") == 0
        assert target.runs()[0].outcome == "ok"
        assert len(target.records()) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{", "is no JSON, or only a part of a file"),
        ("3", "neither a list of records nor an export"),
        ('{"records": []}', "schema version None"),
        ('{"schema_version": 9, "records": []}', "schema version 9; this nqbench reads up to 2"),
        ('[{"schema_version": 9}]', "schema version 9; this nqbench reads up to 2"),
        ('[{"colour": 1}]', "not a record"),
        ("[]", "holds no records"),
        ('{"schema_version": 1, "runs": [{"odd": 1}], "covers": {}, "records": []}', "bad.json"),
    ],
)
def test_a_damaged_export_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "bad.json"
    file.write_text(text)
    with pytest.raises(NqbenchError, match=message) as caught:
        read_side(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_side_is_said(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path / "none.json"):
        with pytest.raises(NqbenchError, match="none"):
            read_side(path)


def test_a_run_that_was_killed_is_merged_from_its_export_and_from_its_store(tmp_path: Path) -> None:
    """The export of a run leaves out where its suite lay, and a row's checksum is of all its columns."""
    with Store.write(tmp_path / "a") as store:
        run = store.start_run("synthetic", "text", settings={"drop": 1.0, "suite_folder": "../suites"})
        store.add(make(run=run, k=2))
    with Store.read(tmp_path / "a") as store:
        (tmp_path / "records.json").write_text(run_json(store.run(run), store.records(run)))
    sources = (tmp_path / "a", tmp_path / "records.json")
    for number, order in enumerate(itertools.permutations(sources)):
        with Store.write(tmp_path / f"to{number}") as target:
            for source in (*order, *order):
                merge(target, source)
                assert [found.run for found in target.runs()] == [run]
    with Store.write(tmp_path / "a") as store:
        store.end_run(run, "ok")
    with Store.write(tmp_path / "to0") as target:
        merge(target, tmp_path / "a")
        assert target.run(run).outcome == "ok"
        assert target.run(run).settings["suite_folder"] == "../suites"


def test_a_run_of_which_only_records_were_known_is_there_as_a_whole_once_it_comes(tmp_path: Path) -> None:
    first = night(tmp_path / "a", (2,))
    with Store.write(tmp_path / "a") as store:
        second = store.start_run("synthetic", "text")
        store.reuse(second, [record.key for record in store.records(first)])
        store.end_run(second, "ok")
    with Store.read(tmp_path / "a") as store:
        (tmp_path / "records.json").write_text(run_json(store.run(second), store.records(second)))
        whole = store.run(first)
    with Store.write(tmp_path / "b") as target:
        merge(target, tmp_path / "records.json")
        assert target.run(first).suite_text == ""
        merge(target, tmp_path / "a")
        assert target.run(first) == whole
        merge(target, tmp_path / "records.json")
        assert target.run(first) == whole
