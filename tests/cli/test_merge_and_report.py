"""What ``merge`` makes is what a run makes: its files can be verified, and it can be reported."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from nqbench.cli.frame import REGRESSION, invoke
from nqbench.engine import run_suite
from nqbench.report import load
from nqbench.results.store import Store

SUITE = """
name: both
models: {lenet300: {data: digits}}
quantizers: [{uniform: {step: 0.2}}, {kmeans: {k: 4}}]
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A suite run in two folders, one quantizer in each, as two machines would share it."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "s.yaml").write_text(SUITE)
    found = []
    for quantizer in ("uniform", "kmeans"):
        out = folder / quantizer
        assert run_suite(folder / "s.yaml", out, only=[f"quantizer={quantizer}"], jobs=0).outcome == "ok"
        found.append(out)
    return found


def test_what_was_merged_can_be_verified_and_again_changes_nothing(
    two: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert invoke(["merge", str(tmp_path / "all"), *map(str, two)]) == 0
        capsys.readouterr()
        assert invoke(["verify", str(tmp_path / "all"), "--run", "all"]) == 0
        assert "2 of 2 files verified" in capsys.readouterr().out
    (file, _) = sorted((tmp_path / "all" / "files").iterdir())
    file.write_bytes(file.read_bytes()[:-1])
    assert invoke(["verify", str(tmp_path / "all"), "--run", "all"]) == REGRESSION
    assert invoke(["merge", str(tmp_path / "all"), *map(str, two)]) == 0
    assert invoke(["verify", str(tmp_path / "all"), "--run", "all"]) == 0


def test_a_record_of_somebody_elses_copies_no_file_from_outside_its_folder(two: list[Path], tmp_path: Path) -> None:
    theirs, secret = tmp_path / "theirs", tmp_path / "secret.nqz"
    shutil.copytree(two[0], theirs)
    secret.write_text("mine")
    with Store.write(theirs) as store:
        (record,) = store.records()
        store.add(record.model_copy(update={"file": "../secret.nqz"}))
    assert invoke(["merge", str(tmp_path / "all"), str(theirs)]) == 0
    files = tmp_path / "all" / "files"
    assert not files.exists() or not any(path.read_bytes() == b"mine" for path in files.iterdir())


def test_an_export_of_merge_is_reported_beside_it(two: list[Path], tmp_path: Path) -> None:
    export = tmp_path / "all.json"
    assert invoke(["merge", str(export), *map(str, two)]) == 0
    before = export.read_bytes()
    assert invoke(["report", str(export), "--quiet"]) == 0
    assert (tmp_path / "all" / "index.html").is_file()
    assert export.read_bytes() == before
    assert invoke(["report", str(export), "--quiet", "--output", str(tmp_path / "there")]) == 0
    ours = (tmp_path / "there" / "leaderboard.md").read_text()
    assert ours == (two[1] / "leaderboard.md").read_text()
    assert load(export).suite_text == load(two[1]).suite_text


def test_a_report_of_the_last_of_several_runs_names_the_others(
    two: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, last = (load(folder).run for folder in two)
    for into in (tmp_path / "all", tmp_path / "all.json"):
        assert invoke(["merge", str(into), *map(str, two)]) == 0
        capsys.readouterr()
        assert invoke(["report", str(into)]) == 0
        assert capsys.readouterr().err == f"run {last}, the last of 2 in this store; --run takes another: {first}\n"
        for options in (["--run", first], ["--quiet"]):
            assert invoke(["report", str(into), *options]) == 0
            assert capsys.readouterr().err == ""
    assert invoke(["report", str(two[0])]) == 0
    assert capsys.readouterr().err == "", "it holds no other"
    with Store.write(tmp_path / "all") as store:
        more = [store.start_run("s") for _ in range(6)]
    assert invoke(["report", str(tmp_path / "all")]) == 0
    told = f"run {more[-1]}, the last of 8 in this store; --run takes another: {', '.join(more[-2::-1])} and 2 more\n"
    assert capsys.readouterr().err == told
    assert invoke(["report", str(tmp_path / "all" / "records.json")]) == 0
    assert capsys.readouterr().err == "", "records.json is of one run"
