"""A board: a folder that git can track.

::

    board.json              {"nqbench_board": 1, "title": ..., "drop": ...}
    rows/<id>.json          one row each (``nqbench.board.rows``)
    files/<SHA-256>.nqz     what the rows are of
    suites/<SHA-256>.yaml   how they were made
    published.yaml          quoted results, shown apart; the board's keeper writes it, or leaves it out

A row is in when its own file is there, which is written last: whatever interrupts an addition, nothing is half in.
"""

from __future__ import annotations

import hashlib
import json
import random
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from nqbench.api.errors import BadInput
from nqbench.api.toolkit.parsing import parse_json
from nqbench.api.toolkit.paths import reason, set_suite_folder, written_whole
from nqbench.board.bundle import Bundle, file_name, open_bundle
from nqbench.board.checking import Checker, Verdict, network_of
from nqbench.board.edited import edits
from nqbench.board.manifest import Manifest, Said, read_manifest
from nqbench.board.rows import BoardRow, Check, checked_again, read_row, row_id
from nqbench.pipeline.trial import Choice
from nqbench.results.goal import DROP
from nqbench.results.record import utc_now

VERSION = 1
ABOUT = "board.json"


@dataclass(frozen=True)
class Outcome:
    """What became of a row. state: ``added``, ``there`` already, or ``refused``, for ``faults``."""

    name: str
    state: str
    row: BoardRow | None = None
    faults: tuple[str, ...] = ()


class Board:
    """An existing board. ``Board.open`` reads one, ``Board.at`` makes one where there is none."""

    def __init__(self, folder: Path, title: str, drop: float) -> None:
        self.folder = folder
        self.title = title
        self.drop = drop

    @staticmethod
    def open(folder: str | Path) -> Board:
        """Raises BadInput where there is no board."""
        folder = Path(folder)
        try:
            about: Any = parse_json((folder / ABOUT).read_bytes())
        except OSError:
            raise BadInput(f"{folder}: is no board (it has no {ABOUT}); `nqbench board add` makes one") from None
        except ValueError as error:
            raise BadInput(f"{folder / ABOUT}: is no JSON ({error})") from None
        if not isinstance(about, dict) or about.get("nqbench_board") != VERSION:
            raise BadInput(f"{folder / ABOUT}: expected nqbench_board: {VERSION}")
        title, drop = about.get("title", "nqbench"), about.get("drop", DROP)
        if not isinstance(title, str) or not isinstance(drop, int | float) or not 0 <= drop < float("inf"):
            raise BadInput(f"{folder / ABOUT}: 'title' is a text and 'drop' a number of points, 0 or more")
        return Board(folder, title, float(drop))

    @staticmethod
    def at(folder: str | Path, title: str = "Leaderboard", drop: float = DROP) -> Board:
        """The board there, or a new one in a folder that is missing or empty."""
        folder = Path(folder)
        if not (folder / ABOUT).exists():
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise BadInput(f"{folder}: is no board (it has no {ABOUT}), and not empty")
            about = {"nqbench_board": VERSION, "title": title, "drop": drop}
            with _writing(folder), written_whole(folder / ABOUT) as temporary:
                temporary.write_text(json.dumps(about, indent=1) + "\n")
        return Board.open(folder)

    # -- reading -----------------------------------------------------------------------------------------------------
    def rows(self) -> list[BoardRow]:
        """Every row, oldest first. Raises BadInput for one that was edited."""
        found = []
        for path in sorted((self.folder / "rows").glob("*.json")):
            found.append(_row_in(path))
        return sorted(found, key=lambda row: (row.added, row.id))

    def _now(self, row: BoardRow) -> BoardRow | None:
        """A row as it stands by now; None where it has been removed."""
        path = self._path(row)
        return _row_in(path) if path.exists() else None

    def _path(self, row: BoardRow) -> Path:
        return self.folder / "rows" / f"{row.id}.json"

    def file(self, row: BoardRow) -> Path:
        """Where the row's file is. Raises BadInput where it is missing, or another."""
        path = self.folder / file_name(row.file)
        try:
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise BadInput(f"{path}: the file of row {row.id} cannot be read ({reason(error)})") from None
        if sha256 != row.file:
            raise BadInput(f"{path}: is another file than row {row.id} is of (its SHA-256 is {sha256})")
        return path

    def suite(self, row: BoardRow) -> str:
        """The text of the suite that made a row; empty where none was submitted. Raises BadInput where it is missing
        or another, or a link: it is published, and a link may lead to what nobody should read."""
        if row.suite is None:
            return ""
        path = self._suite(row.suite)
        try:
            if path.is_symlink() or (path.exists() and not path.is_file()):
                raise BadInput(f"{path}: the suite of row {row.id} is a link, or no file")
            data = path.read_bytes()
        except OSError as error:
            raise BadInput(f"{path}: the suite of row {row.id} cannot be read ({reason(error)})") from None
        if (sha256 := hashlib.sha256(data).hexdigest()) != row.suite:
            raise BadInput(f"{path}: is another suite than row {row.id} is of (its SHA-256 is {sha256})")
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise BadInput(f"{path}: the suite of row {row.id} is no UTF-8 text") from None

    def _suite(self, sha256: str) -> Path:
        return self.folder / "suites" / f"{sha256}.yaml"

    # -- adding ------------------------------------------------------------------------------------------------------
    def add(self, path: str | Path, checker: Checker, *, new_networks: bool = False) -> Iterator[Outcome]:
        """Take the rows of a submission that hold. Yields an outcome a row, in the submission's order.

        new_networks: rows may be of networks that no row is of yet; in a board without rows they always may. Raises
        BadBundle for a submission that is not one, before anything is added.
        """
        with open_bundle(path) as bundle:
            manifest, suite = read_manifest(bundle)
            with _writing(self.folder):
                there = {row.id: row for row in self.rows()}
                checker.known = _networks(there.values(), new_networks)
                keys = Counter(said.record.key for said in manifest.rows)
                for said in manifest.rows:
                    yield self._take(bundle, manifest, suite, said, there, checker, keys[said.record.key])

    def _take(
        self,
        bundle: Bundle,
        manifest: Manifest,
        suite: str,
        said: Said,
        there: dict[str, BoardRow],
        checker: Checker,
        alike: int,
    ) -> Outcome:
        name = row_id(said.record, said.file)
        if alike > 1:
            return Outcome(
                name, "refused", faults=(f"{alike} rows of the submission have the key {said.record.key[:16]}",)
            )
        if name in there:
            return Outcome(name, "there", there[name])
        data = bundle.read(file_name(said.file))
        with tempfile.TemporaryDirectory(prefix="nqbench-board-") as scratch:
            path = Path(scratch) / f"{said.file[:16]}.nqz"
            path.write_bytes(data)
            verdict = self._checked(checker, said, path)
        if verdict.found is None or verdict.check is None:
            return Outcome(name, "refused", faults=verdict.faults)
        row = BoardRow(
            id=name,
            record=said.record,
            file=said.file,
            suite=hashlib.sha256(suite.encode()).hexdigest() if suite else None,
            who=manifest.who,
            licence=manifest.licence,
            created=manifest.created,
            added=utc_now(),
            bundle=bundle.sha256,
            distributions=manifest.distributions,
            code=verdict.code,
            found=verdict.found,
            checks=(verdict.check,),
        )
        self._keep(row, data, suite)
        there[name] = row
        return Outcome(name, "added", row)

    def _checked(self, checker: Checker, said: Said | BoardRow, path: Path) -> Verdict:
        set_suite_folder(self.folder)
        try:
            return checker.check(said.record, path)
        finally:
            set_suite_folder(None)

    def _keep(self, row: BoardRow, data: bytes, suite: str) -> None:
        """Write a row: its file and its suite first, what makes it a row last."""
        with written_whole(self.folder / file_name(row.file)) as temporary:
            temporary.write_bytes(data)
        self._keep_suite(row, suite)
        self._say(row)

    def _keep_suite(self, row: BoardRow, suite: str) -> None:
        """One that is there stays: other rows are of it."""
        if row.suite and not self._suite(row.suite).exists():
            with written_whole(self._suite(row.suite)) as temporary:
                temporary.write_bytes(suite.encode())

    def _say(self, row: BoardRow) -> None:
        with written_whole(self._path(row)) as temporary:
            temporary.write_text(row.to_text(), encoding="utf-8")

    # -- merging and verifying ---------------------------------------------------------------------------------------
    def merge(self, other: Board, checker: Checker | None, *, new_networks: bool = False) -> Iterator[Outcome]:
        """Take the rows of another board. Of a row of both this board's stays.

        checker: looks at every row that is new here; None: what the other board found is believed, and of a row of both
        the earlier one stays, with the checks of both. new_networks: as of ``add``, where rows are looked at.
        """
        with _writing(self.folder):
            there = {row.id: row for row in self.rows()}
            if checker is not None:
                checker.known = _networks(there.values(), new_networks)
            for row in other.rows():
                try:
                    yield self._merged(other, row, there.get(row.id), checker)
                except BadInput as error:
                    yield Outcome(row.id, "refused", faults=(str(error),))

    def _merged(self, other: Board, row: BoardRow, mine: BoardRow | None, checker: Checker | None) -> Outcome:
        if mine is not None:
            both = _joined(mine, row, believe=checker is None)
            if both != mine:
                if both.suite != mine.suite:
                    self._keep_suite(both, other.suite(both))
                self._say(both)
            return Outcome(row.id, "there", both)
        path, suite = other.file(row), other.suite(row)
        if checker is not None:
            verdict = self._checked(checker, row, path)
            if verdict.found is None or verdict.check is None:
                return Outcome(row.id, "refused", faults=verdict.faults)
            taken = {"found": verdict.found, "checks": (verdict.check,), "code": verdict.code, "added": utc_now()}
            row = row.model_copy(update=taken)
        self._keep(row, path.read_bytes(), suite)
        return Outcome(row.id, "added", row)

    def verify(
        self, checker: Checker, *, sample: int | None = None, seed: int = 0
    ) -> Iterator[tuple[BoardRow, Verdict]]:
        """Look at rows again: all, or ``sample`` of them, drawn by ``seed``. A row that holds is told the new check."""
        rows = self.rows()
        checker.known = None  # all are this board's own
        if sample is not None and sample < len(rows):
            rows = random.Random(seed).sample(rows, sample)
        for row in rows:
            verdict = self._verified(checker, row)
            if verdict.check is not None:
                with _writing(self.folder):  # looking may take hours: it may be gone, or have other checks by now
                    if (now := self._now(row)) is not None:
                        self._say(checked_again(now, verdict.check))
            yield row, verdict

    def _verified(self, checker: Checker, row: BoardRow) -> Verdict:
        try:
            path, _ = self.file(row), self.suite(row)
        except BadInput as error:
            return Verdict((str(error),))
        verdict = self._checked(checker, row, path)
        if verdict.found is None:
            return verdict
        exact = verdict.check is not None and any(verdict.check.where == old.where for old in row.checks)
        if edited := tuple(edits(row, verdict.found, exact=exact)):
            return Verdict(edited)
        return verdict


def _row_in(path: Path) -> BoardRow:
    """The row of a file. Raises BadInput for one that was edited."""
    try:
        row = read_row(path.read_bytes(), str(path))
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({reason(error)})") from None
    if path.stem != row.id:
        raise BadInput(f"{path}: is the row {row.id}: its file is named otherwise")
    return row


def _networks(rows: Collection[BoardRow], new: bool) -> frozenset[Choice] | None:
    """The networks that a row may be of: those of the rows that are there; None, any, where new ones are wanted or no
    row is there."""
    return frozenset(network_of(row.record) for row in rows) if rows and not new else None


def _joined(mine: BoardRow, theirs: BoardRow, *, believe: bool) -> BoardRow:
    """One row of two boards: the earlier submission's, with the checks of both where the other is believed."""
    first = min(mine, theirs, key=lambda row: row.added) if believe else mine
    found: BoardRow = first.model_copy(update={"found": mine.found, "checks": mine.checks})
    for check in theirs.checks if believe else ():
        if not any(check.where == old.where and check.time <= old.time for old in found.checks):
            found = checked_again(found, check)
    return found


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Hold a board alone. Raises BadInput where another process writes it, or it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / ".nqbench.lock", timeout=10):
            yield
    except filelock.Timeout:
        raise BadInput(f"{folder}: another process is writing this board") from None
    except OSError as error:
        raise BadInput(f"{folder}: cannot be written ({reason(error)})") from None


def refused(outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.state == "refused"]


def checks_text(checks: Sequence[Check]) -> str:
    """When and where a row was last found to hold."""
    last = checks[-1]
    return f"{last.time[:10]} on {last.where}, nqbench {last.nqbench}"
