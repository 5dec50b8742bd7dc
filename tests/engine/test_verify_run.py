"""``nqbench verify``: what it lets pass and what it does not."""

from __future__ import annotations

import json
import shutil
import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from probe_distribution import Log, install, installed, suite

from nqbench.cli.verify import command
from nqbench.container import read_sections
from nqbench.engine import checking, run_suite
from nqbench.registry import registry
from nqbench.results.store import Store

SUITE = """
    name: verified
    models: [probe]
    quantizers:
      - levels: {k: [2, 5]}
    coders: [plain]
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished run's folder, made once."""
    folder = tmp_path_factory.mktemp("verify")
    patch = pytest.MonkeyPatch()
    patch.setenv("NQBENCH_CACHE", str(folder / "cache"))
    with installed(install(folder / "site")):
        run_suite(suite(folder / "s.yaml", SUITE), folder / "out", jobs=0)
        yield folder / "out"
    patch.undo()


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy that a test may spoil."""
    threads = torch.get_num_threads()
    yield Path(shutil.copytree(finished, tmp_path / "out"))
    torch.set_num_threads(threads)  # verifying takes over the records'


def verify(folder: Path, *options: str) -> Result:
    return CliRunner().invoke(command, [str(folder), *options])


def change(folder: Path, **fields: Any) -> None:
    """Rewrite fields of the first record."""
    with sqlite3.connect(folder / "records.sqlite") as connection:
        rowid, text = connection.execute("SELECT rowid, data FROM records ORDER BY rowid").fetchone()
        data = json.dumps({**json.loads(text), **fields})
        connection.execute("UPDATE records SET data = ?, crc = NULL WHERE rowid = ?", (data, rowid))
    connection.close()


def first_file(folder: Path) -> Path:
    with Store.read(folder) as store:
        return folder / str(store.records()[0].file)


def test_a_sound_run_is_verified(out: Path) -> None:
    result = verify(out)
    assert (result.exit_code, result.output) == (0, "2 of 2 files verified\n")


@pytest.mark.parametrize("repaired", [False, True])
def test_a_flipped_byte_is_found_even_if_its_checksum_was_made_right_again(out: Path, repaired: bool) -> None:
    path = first_file(out)
    data = bytearray(path.read_bytes())
    sections = read_sections(path)
    symbols = sections.data["symbols"]
    at = bytes(data).index(bytes(symbols))
    data[at] ^= 1  # symbol 0 becomes 1, or 1 becomes 0
    end = at + len(symbols)
    if repaired:
        data[end : end + 4] = zlib.crc32(data[at:end]).to_bytes(4, "little")
    path.write_bytes(data)
    result = verify(out)
    assert result.exit_code == 3
    assert ("decodes to other tensors" if repaired else "checksum") in result.output
    assert "1 of 2 files verified" in result.output
    assert result.output.count("DIFFERS") == 1


def test_a_file_that_stands_for_more_than_the_limit_is_refused(out: Path) -> None:
    result = verify(out, "--limit", "10")
    assert result.exit_code == 3
    assert "more than the limit of 10" in result.stderr


def test_a_metric_that_was_changed_is_found_however_little(out: Path) -> None:
    with Store.read(out) as store:
        metric = store.records()[0].metric
    assert metric is not None
    change(out, metric=metric + 0.01)
    result = verify(out)
    assert result.exit_code == 3
    assert "accuracy is" in result.output


def test_in_another_environment_a_metric_may_differ_by_the_tolerance(out: Path) -> None:
    with Store.read(out) as store:
        record = store.records()[0]
    assert record.metric is not None
    elsewhere = {**record.environment, "libraries": {**record.environment["libraries"], "torch": "1.0"}}
    change(out, metric=record.metric + 0.09, environment=elsewhere)
    assert verify(out).exit_code == 0
    change(out, metric=record.metric + 0.11, environment=elsewhere)
    assert verify(out).exit_code == 3


@pytest.mark.parametrize(
    ("said", "made", "of_float"),
    [
        ({"threads": 3}, 3, 3),
        ({"threads": 2, "float_threads": 3}, 2, 3),
        ({}, 1, 1),  # a record of before: its environment's
        ({"threads": 10**9}, 1, 1),
        ({"threads": "all", "float_threads": 0}, 1, 1),
        ({"threads": True}, 1, 1),
    ],
)
def test_a_file_is_evaluated_with_the_threads_that_its_evaluation_was_made_with(
    out: Path, monkeypatch: pytest.MonkeyPatch, said: dict[str, Any], made: int, of_float: int
) -> None:
    """Which the cache may have given to a run of another number, so that the environment's are not those."""
    used: list[tuple[str, int]] = []

    def watch(name: str) -> None:
        judge = getattr(checking, name)

        def watched(*given: Any) -> Any:
            used.append((name, torch.get_num_threads()))
            return judge(*given)

        monkeypatch.setattr(checking, name, watched)

    watch("judged_float")
    watch("judged_beside")
    monkeypatch.setattr(checking, "cores", lambda: 3)
    with Store.read(out) as store:
        record = store.records()[0]
    batches = {name: value for name, value in record.evaluated_in.items() if name == "batch_size"}
    change(out, evaluated_in={**batches, **said}, environment={**record.environment, "threads": 1})
    assert verify(out).exit_code == 0
    assert used[:2] == [("judged_float", of_float), ("judged_beside", made)]


def test_a_network_that_is_not_the_record_s_is_told_though_its_files_decode_to_the_same(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One weight is another one: what is decoded, and so every metric, is as it was."""
    probe = registry().get("model", "probe")
    load = probe.load  # type: ignore[attr-defined]

    def other(self: Any, device: torch.device) -> torch.nn.Module:
        module: torch.nn.Module = load(self, device)
        with torch.no_grad():
            next(module.parameters()).view(-1)[0] += 0.5
        return module

    monkeypatch.setattr(probe, "load", other)
    result = verify(out)
    assert result.exit_code == 3
    assert result.output.count("was made of another network") == 2
    change(out, network_sha256=None)  # a record of before they said it
    assert verify(out).output.count("was made of another network") == 1


def test_a_file_of_the_same_tensors_in_other_bytes_is_told(out: Path) -> None:
    change(out, file_sha256="0" * 64)
    result = verify(out)
    assert result.exit_code == 3
    assert "is another file than was written" in result.output
    change(out, file_sha256=None)
    assert verify(out).exit_code == 0


def test_a_missing_file_and_one_of_another_length_are_found(out: Path) -> None:
    path = first_file(out)
    path.write_bytes(path.read_bytes() + b"x")
    result = verify(out)
    assert result.exit_code == 3
    assert "bytes" in result.output
    path.unlink()
    result = verify(out)
    assert result.exit_code == 3
    assert "is missing" in result.output


def test_parts_that_the_file_has_not_are_found(out: Path) -> None:
    with Store.read(out) as store:
        parts = store.records()[0].parts
    assert parts is not None
    moved = parts.model_dump() | {"symbols": parts.symbols - 1, "codebook": parts.codebook + 1}
    change(out, parts=moved)
    result = verify(out)
    assert result.exit_code == 3
    assert "the sizes of its parts differ from the record" in result.output


def test_a_folder_without_records_is_refused(tmp_path: Path) -> None:
    from nqbench.cli import invoke

    assert invoke(["verify", str(tmp_path)]) == 1
    assert invoke(["verify", str(tmp_path / "none")]) == 1


def test_a_run_of_which_nothing_ended_well_is_refused(
    out: Path, probe: Log, capsys: pytest.CaptureFixture[str]
) -> None:
    from nqbench.cli import invoke

    with sqlite3.connect(out / "records.sqlite") as connection:
        connection.execute("DELETE FROM records")
    connection.close()
    assert invoke(["verify", str(out)]) == 1
    assert "no record of a finished trial" in capsys.readouterr().err


def test_points_that_a_search_did_not_test_are_verified_where_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path / "cache"))
    searched = """
        name: verified
        models: [{lenet300: {data: digits}}]
        quantizers: {uniform: {step: 0.2}}
        coders: [huffman]
        target: {drop: 5, split: train, report: chosen, trials: 3}
    """
    result = run_suite(suite(tmp_path / "s.yaml", searched), tmp_path / "out", jobs=0)
    untested = [record for record in result.records if record.metric is None]
    assert untested
    assert verify(tmp_path / "out").exit_code == 0
    name = f"train.{untested[0].metric_name}"
    with sqlite3.connect(tmp_path / "out" / "records.sqlite") as connection:
        for rowid, text in connection.execute("SELECT rowid, data FROM records").fetchall():
            data = json.loads(text)
            if data["metric"] is None:
                data["metrics"][name] -= 0.5
                connection.execute("UPDATE records SET data = ?, crc = NULL WHERE rowid = ?", (json.dumps(data), rowid))
    connection.close()
    told = verify(tmp_path / "out")
    assert told.exit_code == 3
    assert told.output.count("DIFFERS") == len(untested)
