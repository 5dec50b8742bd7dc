"""A store that is not what was written is refused in one line, or says what was written: never anything else."""

from __future__ import annotations

import random
import shutil
import sqlite3
from pathlib import Path

import pytest
from record_factory import failed, make

from nqbench.results.exports import export_json
from nqbench.results.schema import metadata
from nqbench.results.store import FILE, Store, StoreError


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two runs and a dozen records."""
    folder = tmp_path_factory.mktemp("sound")
    with Store.write(folder) as store:
        for ks in ((2, 4, 8, 16, 32, 64), (3, 5, 7)):
            run = store.start_run("synthetic", "suite text " * 50, argv=["run", "synthetic"], settings={"drop": 0.5})
            for k in ks:
                store.add(make(run=run, k=k))
            store.add(failed(run=run, k=9))
            store.reuse(run, [make(k=2).key])
            store.end_run(run)
    return folder


def says(path: Path) -> list[str]:
    """All that a store says: whole, and of its latest run. Raises StoreError."""
    with Store.read(path) as store:
        return [export_json(store), *(record.to_json() for record in store.records())]


def outcome(path: Path) -> list[str] | str:
    """What it says, or why it says nothing."""
    try:
        return says(path)
    except StoreError as error:
        return str(error)


@pytest.mark.parametrize("seed", range(3))
def test_flipped_bits_are_noticed_or_harmless(sound: Path, tmp_path: Path, seed: int) -> None:
    draw, written = random.Random(seed), says(sound)
    path, content = tmp_path / FILE, (sound / FILE).read_bytes()
    noticed = 0
    for _ in range(60):
        damaged = bytearray(content)
        for _ in range(draw.choice((1, 1, 1, 3, 20))):
            damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        found = outcome(path)
        noticed += isinstance(found, str)
        assert found == written or (isinstance(found, str) and FILE in found and "\n" not in found)
    assert noticed > 10


@pytest.mark.parametrize(
    ("table", "column"), [(name, c.name) for name in ("runs", "records") for c in metadata.tables[name].c]
)
def test_an_edited_cell_is_noticed(sound: Path, tmp_path: Path, table: str, column: str) -> None:
    shutil.copy(sound / FILE, tmp_path / FILE)
    with sqlite3.connect(tmp_path / FILE) as connection:
        (old,) = connection.execute(f"SELECT {column} FROM {table} WHERE {column} IS NOT NULL").fetchone()
        new = old + 1 if isinstance(old, int) else f"x{old[1:]}"
        connection.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (new, old))
    connection.close()
    with pytest.raises(StoreError, match="is damaged"):
        says(tmp_path)


def test_a_store_that_says_to_be_of_before_there_were_checksums_is_checked_all_the_same(
    sound: Path, tmp_path: Path
) -> None:
    data = bytearray((sound / FILE).read_bytes())
    data[60:64] = (1).to_bytes(4, "big")  # its user_version
    (tmp_path / FILE).write_bytes(data)
    assert says(tmp_path) == says(sound)
    with sqlite3.connect(tmp_path / FILE) as connection:
        connection.execute("UPDATE records SET status = 'okay'")
    connection.close()
    with pytest.raises(StoreError, match="is damaged"):
        says(tmp_path)


@pytest.mark.parametrize("version", [1, 2])
def test_an_older_store_is_read_and_goes_on(sound: Path, tmp_path: Path, version: int) -> None:
    """As the first version wrote it, without checksums, and the second."""
    written = says(sound)
    shutil.copy(sound / FILE, tmp_path / FILE)
    with sqlite3.connect(tmp_path / FILE) as connection:
        if version == 1:
            for table in ("runs", "records"):
                connection.execute(f"ALTER TABLE {table} DROP COLUMN crc")
        connection.execute("ALTER TABLE covers DROP COLUMN place")
        connection.execute("DROP TABLE nqbench_version")
        connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    before = (tmp_path / FILE).read_bytes()
    assert says(tmp_path) == written
    assert (tmp_path / FILE).read_bytes() == before  # reading changes nothing
    with Store.write(tmp_path) as store:
        run = store.start_run("synthetic")
        store.add(make(run=run, k=11))
        store.end_run(run)
    assert len(says(tmp_path)) == 2
    with Store.read(tmp_path) as store:
        assert len(store.records("all")) == 11
