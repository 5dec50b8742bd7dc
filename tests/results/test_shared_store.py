"""A store that a team shares: a real PostgreSQL server, and what it must have in common with a folder's SQLite."""

from __future__ import annotations

import os
import re
import socket
import sqlite3
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from record_factory import failed, make
from servers import PASSWORD, POSTGRES, database, execute, free_port, postgres_server

from nqbench.api.errors import NqbenchError
from nqbench.cli import invoke
from nqbench.cli.nightly import compare_night, last_night
from nqbench.report import rebuild
from nqbench.results import server as postgres
from nqbench.results.database import open_to_write
from nqbench.results.exports import export_json, merge, read_side
from nqbench.results.schema import STORE_VERSION, metadata, migrate, version
from nqbench.results.schema import make as make_tables
from nqbench.results.store import Store, StoreError
from nqbench.secret import masked

SECRETS = (PASSWORD, "pass-word", "with@signs", "boss")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The superuser's URL."""
    if os.environ.get(POSTGRES):
        yield os.environ[POSTGRES]
        return
    with postgres_server() as found:
        yield found.url


@pytest.fixture
def url(server: str) -> Iterator[str]:
    with database(server) as found:
        yield found


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str | None]:
    """What ``Store.write`` takes."""
    return tmp_path / "store", request.getfixturevalue("url") if request.param == "postgresql" else None


def source(place: tuple[Path, str | None]) -> Path | str:
    return place[1] or place[0]


def started(store: Store, keys: list[str] | None = None) -> str:
    return store.start_run(
        "synthetic", "suite text", argv=["nqbench", "run"], keys=keys or [], environment={"cpu": "x"}
    )


# -- one behaviour ---------------------------------------------------------------------------------------------------
def test_a_store_says_what_was_written_wherever_it_is(place: tuple[Path, str | None]) -> None:
    with Store.write(*place) as store:
        first = started(store)
        old = [make(run=first, k=k) for k in (2, 4, 8)]
        for record in old:
            store.add(record)
        store.end_run(first)
        second = started(store, [old[2].key, "to be renamed", old[0].key])
        new, bad = make(run=second, k=16), failed(run=second, k=32)
        store.rename(second, {"to be renamed": new.key})
        store.add(new)
        store.add(bad)
        store.reuse(second, [old[1].key])
    with Store.read(source(place)) as store:
        assert store.keys(second) == [old[2].key, new.key, old[0].key, bad.key, old[1].key]
        assert store.records() == [old[2], new, old[0], bad, old[1]]
        assert store.records(first) == old
        assert store.records("all") == [*old, new, bad]
        assert set(store.done()) == {r.key for r in (*old, new)}
        assert store.done([new.key, bad.key, *(str(n) for n in range(3000))]) == {new.key: new}
        assert [run.outcome for run in store.runs()] == ["ok", None]
        assert store.latest() == store.run(second)
        with pytest.raises(StoreError, match="no run 'none'"):
            store.records("none")


def test_of_two_records_of_one_run_and_key_the_later_counts(place: tuple[Path, str | None]) -> None:
    with Store.write(*place) as store:
        run = started(store)
        older, later = make(run=run, symbols=10), make(run=run, symbols=20)
        assert older.time < later.time
        for order in ((older, later), (later, older), (later, later)):
            for record in order:
                store.add(record)
            assert store.records() == [later]


def test_renaming_to_a_key_that_is_there_leaves_one(place: tuple[Path, str | None]) -> None:
    with Store.write(*place) as store:
        run = started(store, ["a", "b", "c"])
        store.rename(run, {"a": "c", "b": "b"})
        assert store.keys(run) == ["b", "c"]


def test_merging_there_and_back_gives_the_same_store(url: str, tmp_path: Path) -> None:
    with Store.write(tmp_path / "one") as store:
        for ks in ((2, 4), (4, 8)):
            run = started(store)
            for k in ks:
                store.add(make(run=run, k=k))
            store.add(failed(run=run, k=9, error="a\u00e9\u4e2d \\u0000 \U0001f600 'quoted' \"text\" %s :name"))
            store.end_run(run)
        written = export_json(store)
    with Store.write(None, url) as shared:
        assert merge(shared, tmp_path / "one") == 2
        assert merge(shared, tmp_path / "one") == 0
        assert export_json(shared) == written
    with Store.write(tmp_path / "back") as back:
        assert merge(back, url) == 2
        assert export_json(back) == written


# -- one schema ------------------------------------------------------------------------------------------------------
def described(engine: sa.Engine) -> dict[str, object]:
    """Tables with their columns, keys and indexes."""
    found = sa.inspect(engine)
    return {
        table: (
            {c["name"]: (str(c["type"]).split("(")[0], c["nullable"], c["default"]) for c in found.get_columns(table)},
            found.get_pk_constraint(table)["constrained_columns"],
            sorted((k["constrained_columns"], k["referred_table"]) for k in found.get_foreign_keys(table)),
            sorted((str(i["name"]), i["column_names"]) for i in found.get_indexes(table)),
        )
        for table in sorted(found.get_table_names())
    }


def engines(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> sa.Engine:
    if kind == "sqlite":
        return sa.create_engine(f"sqlite:///{tmp_path / 'fresh.sqlite'}")
    found = request.getfixturevalue("url")
    execute(found, "CREATE SCHEMA nqbench")
    return postgres._engine(found, "test")


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_all_migrations_give_the_tables_that_a_new_store_has(
    request: pytest.FixtureRequest, kind: str, tmp_path: Path
) -> None:
    engine = engines(request, kind, tmp_path)
    with engine.begin() as connection:
        version.create(connection)
        migrate(connection)
    migrated = described(engine)
    with engine.begin() as connection:
        metadata.drop_all(connection)
        version.drop(connection)
        make_tables(connection)
        assert connection.execute(sa.select(version)).scalars().all() == [str(STORE_VERSION)]
    assert described(engine) == migrated
    engine.dispose()


def test_an_older_server_s_store_is_upgraded_by_who_writes_and_only_then_read(url: str) -> None:
    with Store.write(None, url) as store:
        run = started(store, ["b", "a"])
        store.add(make(run=run))
        written = export_json(store)
    older = "UPDATE nqbench.nqbench_version SET version_num = '1'"
    drops = [
        f"ALTER TABLE nqbench.{t} DROP COLUMN {c}"
        for t, c in (("runs", "crc"), ("records", "crc"), ("covers", "place"))
    ]
    execute(url, *drops, older)
    with pytest.raises(StoreError, match=f"store version 1, this nqbench reads {STORE_VERSION}"):
        Store.read(url)
    with Store.write(None, url) as store:
        assert export_json(store) == written


def test_a_newer_store_is_one_line(url: str) -> None:
    Store.write(None, url).close()
    execute(url, "UPDATE nqbench.nqbench_version SET version_num = '99'")
    for opened in (lambda: Store.read(url), lambda: Store.write(None, url)):
        says_one_line(opened, "was written by a newer nqbench (store version 99")


def test_what_else_is_in_the_database_is_left_alone(url: str) -> None:
    execute(url, "CREATE TABLE runs (photograph int)", "INSERT INTO runs VALUES (7)")
    with Store.write(None, url) as store:
        store.add(make(run=started(store)))
    assert execute(url, "SELECT * FROM public.runs") == [(7,)]


# -- many at once ----------------------------------------------------------------------------------------------------
WRITER = """
import sys
sys.path[:0] = {paths!r}
from record_factory import make
from nqbench.results.store import Store
with Store.write(None, sys.argv[1]) as store:
    run = store.start_run("synthetic", environment={{}})
    for k in range(2, 42):
        store.add(make(run=run, k=k))
    store.end_run(run)
"""


def test_many_runs_write_into_one_store_from_its_first_moment_on(url: str) -> None:
    code = WRITER.format(paths=[str(Path(__file__).parent)])
    writers = [subprocess.Popen([sys.executable, "-c", code, url]) for _ in range(3)]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, 0]
    with Store.read(url) as store:
        runs = store.runs()
        assert len(runs) == 3
        assert all(len(store.own(run.run)) == len(store.keys(run.run)) == 40 for run in runs)
        assert len(store.records("all")) == 40


def test_threads_of_one_database_do_not_wait_for_one_another_for_ever(url: str) -> None:
    """Two drivers that merge the same runs in opposite orders."""
    with Store.write(None, url) as store:
        found = [store.run(started(store)) for _ in range(6)]
    errors: list[BaseException] = []

    def take(order: int) -> None:
        try:
            with Store.write(None, url) as store:
                for run in found[::order]:
                    store.take(run, ["a", "b"], [make(run=run.run, k=k) for k in range(2, 10)])
        except NqbenchError as error:
            errors.append(error)

    threads = [threading.Thread(target=take, args=(order,)) for order in (1, -1, 1, -1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors


def test_database_is_locked_is_never_said_in_a_folder(tmp_path: Path) -> None:
    """One writes, one tries to, others read all the while."""
    stop = threading.Event()
    said: list[str] = []

    def look() -> None:
        while not stop.is_set():
            try:
                with Store.read(tmp_path) as store:
                    store.records()
            except StoreError as error:
                said.append(str(error))

    def write() -> None:
        while not stop.is_set():
            try:
                Store.write(tmp_path).close()
                said.append("two writers")
            except StoreError as error:
                said.append(str(error))

    with Store.write(tmp_path) as store:
        run = started(store)
        threads = [threading.Thread(target=task) for task in (look, look, write)]
        for thread in threads:
            thread.start()
        for k in range(2, 150):
            store.add(make(run=run, k=k))
        stop.set()
        for thread in threads:
            thread.join()
        assert len(store.records()) == 148
    assert said
    assert {re.sub(r"^.*?: ", "", text) for text in said} == {
        "another run is writing into this folder; wait for it, or give --output another one"
    }


# -- what goes wrong -------------------------------------------------------------------------------------------------
def says_one_line(do: object, wanted: str) -> str:
    with pytest.raises(StoreError) as caught:
        do()  # type: ignore[operator]
    text = str(caught.value)
    assert "\n" not in text
    assert wanted in text
    assert not any(secret in text for secret in SECRETS), text
    return text


def test_a_server_that_is_away_is_one_line() -> None:
    pytest.importorskip("psycopg")
    away = f"postgresql://boss:{PASSWORD}@127.0.0.1:{free_port()}/team"
    for opened in (lambda: Store.read(away), lambda: Store.write(None, away)):
        assert "postgresql://***@127.0.0.1" in says_one_line(opened, "refused")


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg")
    monkeypatch.setitem(postgres._SETTINGS, "connect_timeout", 2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        silent_url = f"postgresql://boss:{PASSWORD}@127.0.0.1:{silent.getsockname()[1]}/team"
        says_one_line(lambda: Store.read(silent_url), "timeout")


def test_a_wrong_password_or_database_is_one_line(url: str) -> None:
    wrong = url.replace(PASSWORD, "pass-word-wrong")
    with pytest.raises(StoreError, match="password authentication failed") as caught:
        Store.write(None, wrong)
    assert "\n" not in str(caught.value)
    assert "pass-word" not in str(caught.value)
    says = re.escape('database "nowhere" does not exist')
    with pytest.raises(StoreError, match=says):
        Store.read(f"{url.rpartition('/')[0]}/nowhere")


def test_a_user_without_the_right_to_make_tables_is_one_line(url: str) -> None:
    name = url.rpartition("/")[2]
    execute(url, f"CREATE ROLE guest_{name} LOGIN PASSWORD 'hidden-one'")
    try:
        guest = f"postgresql://guest_{name}:hidden-one@{url.partition('@')[2]}"
        with pytest.raises(StoreError, match="permission denied for database") as caught:
            Store.write(None, guest)
        assert "hidden-one" not in str(caught.value)
    finally:
        execute(url, f"DROP ROLE guest_{name}")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://boss:pass-word@with@signs/db",
        "postgresql://boss:pass-word/x@host:5432/db",
        "postgresql://boss:pass-word@host:port/db",
        "postgresql://boss:pass-word@host",
        "mysql://boss:pass-word@host/db",
        "postgresql://[boss:pass-word@host/db",
        "s3://boss:pass-word@host/db",
    ],
)
def test_what_is_no_url_of_a_store_is_one_line_without_its_password(url: str) -> None:
    pytest.importorskip("psycopg")
    says_one_line(lambda: Store.read(url), "***")


def test_a_damaged_row_is_noticed(url: str) -> None:
    with Store.write(None, url) as store:
        store.add(make(run=started(store)))
    execute(url, "UPDATE nqbench.records SET data = replace(data, '\"ok\"', '\"failed\"')")
    with Store.read(url) as store:
        says_one_line(store.records, "is damaged")


def test_a_server_that_restarts_costs_no_record(monkeypatch: pytest.MonkeyPatch) -> None:
    with postgres_server() as one, database(one.url) as url:
        with Store.write(None, url) as store:
            run = started(store)
            store.add(make(run=run, k=2))
            one.stop()
            restart = threading.Timer(1.0, one.start)
            restart.start()
            store.add(make(run=run, k=4))  # waits for it
            restart.join()
            store.add(make(run=run, k=8))
            assert len(store.records()) == 3
            monkeypatch.setattr("nqbench.results.store._PAUSES", (0.1,))
            one.stop()
            says_one_line(lambda: store.add(make(run=run, k=16)), "cannot be used as a store of records")
        one.start()


# -- commands --------------------------------------------------------------------------------------------------------
def test_commands_read_and_write_either(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Store.write(tmp_path / "one") as store:
        for _ in range(2):
            run = started(store)
            for k in (2, 4):
                store.add(make(run=run, k=k))
            store.end_run(run)
    assert invoke(["merge", url, str(tmp_path / "one")]) == 0
    assert invoke(["merge", str(tmp_path / "two"), url]) == 0
    assert invoke(["merge", str(tmp_path / "all.json"), url]) == 0
    assert invoke(["compare", url, str(tmp_path / "one"), "--json", str(tmp_path / "compared.json")]) == 0
    assert invoke(["report", url, "--output", str(tmp_path / "report"), "--quiet"]) == 0
    assert invoke(["report", str(tmp_path / "one"), "--output", str(tmp_path / "report2"), "--quiet"]) == 0
    for name in ("records.json", "leaderboard.md", "leaderboard.csv"):
        assert (tmp_path / "report" / name).read_bytes() == (tmp_path / "report2" / name).read_bytes()
    assert invoke(["report", url.replace("test_", "nowhere_")]) == 1
    text = "".join(capsys.readouterr())
    written = "".join(p.read_text(errors="replace") for p in tmp_path.rglob("*") if p.suffix not in ("", ".sqlite"))
    assert not any(secret in text + written for secret in SECRETS)


def test_nights_of_several_suites_are_in_one_store(url: str, tmp_path: Path) -> None:
    assert last_night(url, "first") is None  # and the store is there from now on
    with Store.write(None, url) as store:
        for suite, symbols in (("first", 100), ("second", 500), ("first", 200), ("second", 500)):
            run = store.start_run(suite, environment={})
            store.add(make(run=run, symbols=symbols))
            store.end_run(run)
        nights = store.runs()
        unfinished = store.start_run("first", environment={})
        store.add(make(run=unfinished, symbols=900))
    for suite, worse in (("first", 1), ("second", 0)):
        before, now = (run.run for run in nights if run.suite == suite)
        last = last_night(url, suite)
        assert last is not None
        assert last.run == now
        (tmp_path / suite).mkdir()
        compared = compare_night(tmp_path / suite, read_side(url, before), (), url, now)
        assert bool(compared.exit_code) == bool(worse)
        page = (tmp_path / suite / "history.html").read_text()
        assert suite in page
        assert not any(secret in page for secret in SECRETS)


def test_reports_of_every_suite_in_a_store_are_served(url: str) -> None:
    from nqbench.cli.serve import _reports, server

    with Store.write(None, url) as store:
        for suite in ("<first>", "second"):
            run = store.start_run(suite, environment={})
            store.add(make(run=run))
            store.end_run(run)
    with _reports(url) as folder, server(folder, 0) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        base = f"http://127.0.0.1:{found.server_port}"
        index = urllib.request.urlopen(f"{base}/", timeout=10).read().decode()
        assert "&lt;first&gt;" in index
        for link in re.findall('href="([^"]*)"', index):
            assert urllib.request.urlopen(f"{base}/{link}", timeout=10).status == 200
        found.shutdown()
        thread.join()


def test_a_folder_whose_records_are_elsewhere_says_where(url: str, tmp_path: Path) -> None:
    with Store.write(tmp_path, url) as store:
        run = started(store)
        store.note_run(run)
        store.add(make(run=run))
    text = says_one_line(lambda: Store.read(tmp_path), "its records are in postgresql://***@127.0.0.1")
    assert not (tmp_path / "records.sqlite").exists()
    assert not any(secret in (tmp_path / "store.json").read_text() for secret in SECRETS)
    assert text
    rebuild(url, tmp_path, run=run)
    assert read_side(url, run).path.startswith("postgresql://***@")


def test_two_runs_into_one_folder_are_refused_whatever_the_store(url: str, tmp_path: Path) -> None:
    with Store.write(tmp_path, url):
        says_one_line(lambda: Store.write(tmp_path, url), "another run is writing into this folder")
        says_one_line(lambda: Store.write(tmp_path), "another run is writing into this folder")


# -- SQLite's upgrade ------------------------------------------------------------------------------------------------
def test_an_upgrade_that_is_cut_short_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.write(tmp_path) as store:
        store.add(make(run=started(store, ["b", "a"])))
        written = export_json(store)
    path = tmp_path / "records.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("ALTER TABLE covers DROP COLUMN place")
        connection.execute("DROP TABLE nqbench_version")
        connection.execute("PRAGMA user_version = 2")
    connection.close()

    def cut(connection: sa.Connection) -> None:
        migrate(connection)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("nqbench.results.database.migrate", cut)
        with pytest.raises(KeyboardInterrupt):
            open_to_write(path)
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)
        assert "place" not in {row[1] for row in connection.execute("PRAGMA table_info(covers)")}
    connection.close()
    with Store.write(tmp_path) as store:
        assert export_json(store) == written


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see postgresql://ann:pw@host/db now", "see postgresql://***@host/db now"),
        ("postgresql://ann:p/w@x@host/db?sslpassword=abc&x=1", "postgresql://***@host/db?sslpassword=***&x=1"),
        ("postgresql://host/db?user=ann&password=pw", "postgresql://host/db?user=ann&password=***"),
        ("https://host/path, mail a@b", "https://host/path, mail a@b"),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_what_is_shown_of_a_url_has_no_credentials(text: str, shown: str) -> None:
    assert masked(text) == shown


def test_credentials_of_the_environment_are_hidden_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    monkeypatch.setenv("PGPASSWORD", "another-one")
    assert masked("signed with wJalrXUtnFEMI, and another-one") == "signed with ***, and ***"
