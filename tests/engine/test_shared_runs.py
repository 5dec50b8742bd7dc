"""Runs on several machines that share a cache."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from probe_distribution import Log, command, suite
from servers import CREDENTIALS, PASSWORD, POSTGRES, S3, database, execute, postgres_server, s3_server

from nqbench.api.errors import BadInput
from nqbench.cli import invoke
from nqbench.engine import Silent, run_suite
from nqbench.results.record import Record
from nqbench.results.store import Store
from nqbench.shared import tier

SUITE = """
    name: shared
    models: [probe]
    quantizers:
      - levels: {k: [2, 3, 4, 5]}
    coders:
      - plain: {delay: 0.1}
      - bytewise: {delay: 0.1}
"""


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with s3_server() as server:
        yield server


@pytest.fixture
def url(s3: S3, monkeypatch: pytest.MonkeyPatch) -> str:
    chosen = f"s3://{s3.BUCKET}/{secrets.token_hex(4)}"
    monkeypatch.setenv(tier.VARIABLE, chosen)
    tier._opened.cache_clear()
    return chosen


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    if os.environ.get(POSTGRES):
        yield os.environ[POSTGRES]
        return
    with postgres_server() as found:
        yield found.url


@pytest.fixture
def store(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A team's store, which NQBENCH_STORE names."""
    with database(server) as found:
        monkeypatch.setenv("NQBENCH_STORE", found)
        yield found


SECRETS = (*CREDENTIALS.values(), PASSWORD, "pass-word", "with@signs")


class Told(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.records: list[Record] = []

    def warning(self, text: str) -> None:
        self.warnings.append(text)

    def ended(self, record: Record, label: str, *, again: bool = False) -> None:
        self.records.append(record)


def says(folder: Path, place: str | Path = "", run: str = "latest") -> dict[str, tuple[object, ...]]:
    """trial -> what its record and its file say, apart from times."""
    with Store.read(place or folder) as store:
        return {
            r.trial: (r.key, r.decoded_sha256, r.metric, (folder / str(r.file)).read_bytes())
            for r in store.records(run)
        }


def drivers(path: Path, tmp_path: Path, *options: object) -> list[Path]:
    """Two at once, on two machines. Their output folders."""
    folders = [tmp_path / name for name in ("first", "second")]
    running = [
        subprocess.Popen(
            command("run", path, "--output", folder, "--jobs", 1, "--quiet", *options),
            env={**os.environ, "NQBENCH_CACHE": str(tmp_path / f"cache-{folder.name}")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for folder in folders
    ]
    for driver in running:
        text, _ = driver.communicate(timeout=200)
        assert driver.returncode == 0, text
        assert not any(secret in text for secret in SECRETS)
    return folders


def test_two_drivers_with_one_store_and_one_cache_do_each_piece_of_work_once(
    url: str, store: str, probe: Log, tmp_path: Path
) -> None:
    first, second = drivers(suite(tmp_path / "shared.yaml", SUITE), tmp_path)
    counts = probe.counts()
    assert counts["quantize"] == 4
    with Store.read(store) as found:
        runs = found.runs()
        assert [run.outcome for run in runs] == ["ok", "ok"]
        records = [record for run in runs for record in found.own(run.run)]
    assert len(records) == 16
    ran = {json.loads((folder / "store.json").read_text())["run"]: folder for folder in (first, second)}
    one, two = (says(folder, store, run) for run, folder in ran.items())
    assert one == two
    assert len(one) == 8
    (nqz, *_) = sorted((second / "files").iterdir())
    nqz.write_bytes(nqz.read_bytes()[:-1] + b"x")
    assert invoke(["verify", str(second)]) == 3
    no_secret_in(first, second)
    table = execute(store, "SELECT argv, environment, settings FROM nqbench.runs")
    assert not any(secret in str(row) for row in table for secret in SECRETS)


def no_secret_in(*folders: Path) -> None:
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                assert not any(secret.encode() in content for secret in SECRETS), path


def test_a_store_that_is_away_is_one_line_before_the_first_trial(
    probe: Log, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("psycopg")
    path = suite(tmp_path / "shared.yaml", SUITE)
    away = f"postgresql://boss:{PASSWORD}@127.0.0.1:9/team"
    assert invoke(["run", str(path), "--output", str(tmp_path / "out"), "--store", away]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: postgresql://***@127.0.0.1:9/team: ")
    assert probe.words() == []


def test_the_tier_goes_away_in_the_middle_of_a_run(
    url: str, s3: S3, probe: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Pulled(Told):
        def ended(self, record: Record, label: str, *, again: bool = False) -> None:
            super().ended(record, label)
            if len(self.records) == 3:
                s3.stop()

    path, told = suite(tmp_path / "shared.yaml", SUITE), Pulled()
    result = run_suite(path, tmp_path / "out", progress=told)
    s3.start()
    assert result.outcome == "ok"
    assert len(says(tmp_path / "out")) == 8
    (only,) = told.warnings
    assert url in only
    assert "the local one alone is used" in only
    probe.counts()
    assert run_suite(path, tmp_path / "again").outcome == "ok"
    assert probe.counts()["quantize"] == 0  # all is in the local tier


def test_a_tier_that_is_away_is_one_line_before_the_first_trial(url: str, s3: S3, probe: Log, tmp_path: Path) -> None:
    s3.stop()
    try:
        with pytest.raises(BadInput, match=r"NQBENCH_SHARED_CACHE: s3://.* cannot be reached") as caught:
            run_suite(suite(tmp_path / "shared.yaml", SUITE), tmp_path / "out")
    finally:
        s3.start()
    assert "\n" not in str(caught.value)
    assert not any(value in str(caught.value) for value in CREDENTIALS.values())
    assert probe.words() == []
    assert not (tmp_path / "out" / "files").exists()


def test_a_damaged_shared_entry_is_told_once_and_costs_no_trial(url: str, s3: S3, probe: Log, tmp_path: Path) -> None:
    path = suite(tmp_path / "shared.yaml", SUITE)
    run_suite(path, tmp_path / "one")
    client, prefix = s3.client(), url.removeprefix(f"s3://{s3.BUCKET}/")
    listed = client.list_objects_v2(Bucket=s3.BUCKET, Prefix=f"{prefix}/file/")["Contents"]  # type: ignore[attr-defined]
    client.put_object(Bucket=s3.BUCKET, Key=listed[0]["Key"], Body=b"damaged")  # type: ignore[attr-defined]
    wanted, told = says(tmp_path / "one"), Told()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NQBENCH_CACHE", str(tmp_path / "another"))
        tier._opened.cache_clear()
        assert run_suite(path, tmp_path / "two", progress=told).outcome == "ok"
    assert says(tmp_path / "two") == wanted
    assert len([text for text in told.warnings if "is damaged" in text]) == 1


def test_failures_and_crashes_are_not_cached(
    url: str, s3: S3, probe: Log, trouble: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = suite(
        tmp_path / "troubled.yaml",
        "name: troubled\nmodels: [probe]\nquantizers:\n  - troubled: {how: [raise, kill]}\ncoders: [plain]\n",
    )
    assert run_suite(path, tmp_path / "one").outcome == "failed"
    trouble.unlink()
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path / "another"))
    tier._opened.cache_clear()
    result = run_suite(path, tmp_path / "two")
    assert result.outcome == "ok"
    assert all("quantize" not in record.cached for record in result.records)


def test_what_is_cached_serves_whatever_the_number_of_workers_threads_and_the_order(
    url: str, probe: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_suite(suite(tmp_path / "shared.yaml", SUITE), tmp_path / "one")
    probe.counts()
    turned = """
        name: turned
        models: [probe]
        coders:
          - bytewise: {delay: 0.1}
          - plain: {delay: 0.1}
        quantizers:
          - levels: {k: [5, 4, 3, 2]}
    """
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path / "another"))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    tier._opened.cache_clear()
    told = Told()
    result = run_suite(suite(tmp_path / "turned.yaml", turned), tmp_path / "two", jobs=2, progress=told)
    assert not {"quantize", "encode", "evaluate"} & set(probe.words())
    assert result.outcome == "ok"
    assert says(tmp_path / "one") == says(tmp_path / "two")
