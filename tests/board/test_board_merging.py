"""What a board takes of another, and what it finds when it looks at its own rows again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from board_kit import add, copy, shared, states, texts
from click.testing import CliRunner

from nqbench.api.errors import BadInput
from nqbench.board.board import Board
from nqbench.board.checking import Checker, Verdict, _figures
from nqbench.board.collecting import submit
from nqbench.board.edited import edits
from nqbench.board.rows import BoardRow, checked_again, read_row
from nqbench.cli.board import command
from nqbench.registry import registry


def test_boards_merge_in_either_order_to_the_same_rows(made: Path, tmp_path: Path) -> None:
    for name, ks in (("one", (2, 5)), ("two", (5, 9))):
        wanted = [f"coder=huffman,quantizer.k={k}" for k in ks]
        submit(made / "run", tmp_path / f"{name}.nqs", rows=wanted, who=name, registry=registry())
        add(tmp_path / name, tmp_path / f"{name}.nqs")
    merged = []
    for first, second in (("one", "two"), ("two", "one")):
        board = Board.open(copy(tmp_path / first, tmp_path / f"{first}-whole"))
        assert sorted(states(board.merge(Board.open(tmp_path / second), None))) == ["added", "there"]
        merged.append(texts(board.folder))
        assert states(board.merge(Board.open(tmp_path / second), None)) == ["there", "there"]
        assert texts(board.folder) == merged[-1]
    assert merged[0] == merged[1]
    owners = {row.record.quantizer_params["k"]: row.who for row in board.rows()}  # type: ignore[index]
    assert owners == {2: "one", 5: "one", 9: "two"}


def test_a_merge_checks_what_it_takes_unless_it_is_told_to_believe(made: Path, tmp_path: Path) -> None:
    forged = Board.open(copy(made / "board", tmp_path / "forged"))
    row = forged.rows()[0]
    path = forged.folder / "rows" / f"{row.id}.json"
    content = json.loads(path.read_text())
    content["found"]["metric"] = content["record"]["metric"] = 99.9
    path.write_text(json.dumps(content))
    outcomes = list(Board.at(tmp_path / "new").merge(forged, shared()))
    assert sorted(states(outcomes)) == ["added", "added", "refused"]


def _linked(path: Path, secret: Path) -> None:
    path.unlink()
    path.symlink_to(secret)


SUITES: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "another": (lambda path, secret: path.write_text("name: other"), "is another suite than row"),
    "missing": (lambda path, secret: path.unlink(), "cannot be read"),
    "a link to another": (_linked, "is a link"),
    "a folder": (lambda path, secret: (path.unlink(), path.mkdir()), "is a link, or no file"),
}


@pytest.mark.parametrize("change", list(SUITES))
@pytest.mark.parametrize("believe", [True, False])
def test_a_merge_takes_no_suite_but_the_one_that_a_row_names(
    made: Path, tmp_path: Path, change: str, believe: bool
) -> None:
    """A suite is published with its row: neither another text nor a file of this machine may stand there."""
    theirs = Board.open(copy(made / "board", tmp_path / "theirs"))
    secret = tmp_path / "secret"
    secret.write_text("of the keeper alone")
    (path,) = (theirs.folder / "suites").iterdir()
    spoil, why = SUITES[change]
    spoil(path, secret)
    outcomes = list(Board.at(tmp_path / "mine").merge(theirs, None if believe else shared()))
    assert states(outcomes) == ["refused"] * 3
    assert all(why in outcome.faults[0] and "\n" not in outcome.faults[0] for outcome in outcomes)
    assert not (tmp_path / "mine" / "suites").exists()
    verdicts = [verdict for _, verdict in theirs.verify(shared())]
    assert all(why in verdict.faults[0] for verdict in verdicts)


def test_a_merge_leaves_this_board_s_own_suites_as_they_are(made: Path, tmp_path: Path) -> None:
    mine = Board.open(copy(made / "board", tmp_path / "mine"))
    (path,) = (mine.folder / "suites").iterdir()
    text, first = path.read_bytes(), mine.rows()[0]
    (mine.folder / "rows" / f"{first.id}.json").unlink()
    theirs = Board.open(copy(made / "board", tmp_path / "theirs"))
    ((tmp_path / "theirs" / "suites") / path.name).write_text("")
    assert sorted(states(mine.merge(theirs, None))) == ["refused", "there", "there"]
    assert path.read_bytes() == text


def test_the_suite_comes_with_a_row_whose_earlier_submission_is_believed(made: Path, tmp_path: Path) -> None:
    """The other board's row is earlier, and of another suite."""
    mine = Board.open(copy(made / "board", tmp_path / "mine"))
    theirs = Board.open(copy(made / "board", tmp_path / "theirs"))
    row, text = theirs.rows()[0], "name: earlier\r\n"
    suite = hashlib.sha256(text.encode()).hexdigest()
    earlier = row.model_copy(update={"suite": suite, "added": "2020-01-01T00:00:00.000000+00:00"})
    theirs._keep(earlier, theirs.file(row).read_bytes(), text)
    assert states(mine.merge(theirs, None)) == ["there"] * 3
    (both,) = [one for one in mine.rows() if one.id == row.id]
    assert both.suite == suite
    assert mine.suite(both) == text


def test_a_row_that_a_merge_checked_was_added_then_and_stays_this_board_s(made: Path, tmp_path: Path) -> None:
    theirs = Board.open(copy(made / "board", tmp_path / "theirs"))
    for row in theirs.rows():
        said = {"added": "2020-01-01T00:00:00.000000+00:00", "who": "Somebody else"}
        theirs._say(row.model_copy(update=said))
    new = Board.at(tmp_path / "new")
    assert states(new.merge(theirs, shared())) == ["added"] * 3
    assert all(row.added > "2021" for row in new.rows())
    mine = Board.open(copy(made / "board", tmp_path / "mine"))
    assert states(mine.merge(theirs, shared())) == ["there"] * 3
    assert texts(mine.folder) == texts(made / "board")
    assert states(mine.merge(theirs, None)) == ["there"] * 3
    assert {row.who for row in mine.rows()} == {"Somebody else"}


EDITS: dict[str, Callable[[dict[str, Any]], None]] = {
    "the metric found": lambda row: row["found"].update(metric=99.0),
    "the float network's": lambda row: row["found"].update(metric_float=10.0),
    "the bytes found": lambda row: row["found"].update(file_bytes=7),
    "the hash found": lambda row: row["found"].update(decoded_sha256="1" * 64),
    "the ratio found": lambda row: row["found"].update(ratio=999.0),
    "the bytes of batch norms": lambda row: row["found"].update(batchnorm_bytes=9),
    "the file's ratio": lambda row: row["found"].update(file_ratio=999.0),
    "the ratio in its own types": lambda row: row["found"].update(own_ratio=999.0),
    "the bits found": lambda row: row["found"].update(bits_per_weight=0.001),
    "the metric's name": lambda row: row["found"].update(metric_name="precision"),
    "the metric's unit": lambda row: row["found"].update(metric_unit="points"),
    "the metric's direction": lambda row: row["found"].update(metric_higher_is_better=False),
    "another of the metrics": lambda row: row["found"]["metrics"].update(divergence=0.0),
    "a metric that is none": lambda row: row["found"]["metrics"].update(fame=1.0),
    "whose network it was": lambda row: row["found"].update(same_network=False),
    "the right answers": lambda row: row["found"].update(correct="////"),
    "the examples": lambda row: row["found"].update(examples=10**6),
    "the record's metric": lambda row: row["record"].update(metric=99.0),
    "the record's parts": lambda row: row["record"]["parts"].update(header=row["record"]["parts"]["header"]),
}


@pytest.mark.parametrize("edit", list(EDITS))
def test_verifying_finds_a_row_that_was_edited(made: Path, tmp_path: Path, edit: str) -> None:
    board = copy(made / "board", tmp_path / "board")
    path = sorted((board / "rows").iterdir())[1]
    content = json.loads(path.read_text())
    EDITS[edit](content)
    path.write_text(json.dumps(content))
    faults = [row.id for row, verdict in Board.open(board).verify(shared()) if verdict.faults]
    assert faults == ([] if edit == "the record's parts" else [path.stem])


def test_in_another_environment_what_no_machine_changes_is_still_compared(made: Path, tmp_path: Path) -> None:
    board = Board.open(copy(made / "board", tmp_path / "board"))
    (_, verdict), *_ = board.verify(shared())
    row = next(row for row in board.rows() if row.found.ratio == verdict.found.ratio)
    nearly = verdict.found.model_copy(update={"metric": row.found.metric + 0.05, "same_network": False})
    assert list(edits(row, nearly, exact=False)) == []
    assert len(list(edits(row, nearly, exact=True))) == 2
    for lie in ({"ratio": 9.0}, {"metric_name": "f1"}, {"metric": 0.0}, {"correct": None}, {"examples": 7}):
        told = list(edits(row.model_copy(update={"found": row.found.model_copy(update=lie)}), nearly, exact=False))
        assert told, lie


def test_a_divergence_from_a_network_that_was_trained_anew_may_differ_by_a_tenth(made: Path, tmp_path: Path) -> None:
    """On another processor a recipe gives other weights, and other distances from them."""
    board = Board.open(copy(made / "board", tmp_path / "board"))
    (_, verdict), *_ = board.verify(shared())
    assert verdict.found is not None
    found = verdict.found
    row = next(row for row in board.rows() if row.found.ratio == found.ratio)

    def told(share: float, *, same: bool) -> list[str]:
        apart = {**found.metrics, "divergence": found.metrics["divergence"] * (1 + share) + (share > 0.05) * 1e-4}
        now = found.model_copy(update={"metrics": apart, "same_network": same})
        record = row.record.model_copy(update={"metrics": {**row.record.metrics, "divergence": 1.0}})
        said = now.model_copy(update={"metrics": {**apart, "divergence": 1.0 + share}})
        units = {"accuracy": "%", "divergence": "nats", "agreement": "%"}
        named = [text for text in _figures(record, said, record.metric_float, units) if "divergence" in text]
        return [text for text in edits(row, now, exact=False) if "divergence" in text] + named

    assert told(0.04, same=False) == []
    assert len(told(0.2, same=False)) == 2
    assert len(told(0.02, same=True)) >= 1


def test_a_row_whose_network_or_file_was_exchanged_is_no_row(made: Path, tmp_path: Path) -> None:
    path = sorted((made / "board" / "rows").iterdir())[0]
    for change in ({"file": "0" * 64}, {"id": "0" * 16}):
        content = json.loads(path.read_text()) | change
        with pytest.raises(BadInput, match="it was edited"):
            read_row(json.dumps(content), "row")
    for name in ("../../x", "a/b", "\u202ex"):
        content = json.loads(path.read_text())
        content["record"]["model"] = name
        with pytest.raises(BadInput, match="its model has the name"):
            read_row(json.dumps(content), "row")
    board = copy(made / "board", tmp_path / "board")
    files = sorted((board / "files").iterdir())
    files[0].write_bytes(files[1].read_bytes())
    result = CliRunner().invoke(command, ["verify", str(board), "--device", "cpu"])
    assert result.exit_code == 3
    assert "is another file than row" in result.stderr
    assert "2 of 3 rows hold" in result.stdout


def test_what_became_of_a_row_while_it_was_looked_at_stays(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Board.open(copy(made / "board", tmp_path / "board"))
    changed, removed, *_ = board.rows()
    merged = changed.checks[0].model_copy(update={"where": "another machine"})
    looked = Board._verified

    def meanwhile(self: Board, checker: Checker, row: BoardRow) -> Verdict:
        if row.id == changed.id:
            self._say(checked_again(row, merged))
        if row.id == removed.id:
            self._path(row).unlink()
        return looked(self, checker, row)

    monkeypatch.setattr(Board, "_verified", meanwhile)
    assert all(not verdict.faults for _, verdict in board.verify(shared()))
    left = {row.id: row for row in board.rows()}
    assert removed.id not in left
    assert "another machine" in {check.where for check in left[changed.id].checks}


def test_a_sample_is_drawn_by_its_seed(made: Path, tmp_path: Path) -> None:
    board = Board.open(copy(made / "board", tmp_path / "board"))
    drawn = [[row.id for row, _ in board.verify(shared(), sample=2, seed=seed)] for seed in (0, 0, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert {tuple(ids) for ids in drawn} != {tuple(drawn[0])}
    assert all(len(set(ids)) == 2 for ids in drawn)
    for row in board.rows():
        assert len(row.checks) == 1  # of one environment the last is kept


def test_a_row_of_when_ratios_left_out_all_buffers_is_not_taken_for_an_edited_one(made: Path) -> None:
    row = Board.open(made / "board").rows()[0]
    parts = {**row.found.parts, "raw_buffers": 40}
    sizes = {"file_bytes": 1000, "parts": parts, "batchnorm_bytes": 8, "ratio": 4 * 1234 / (1000 - 8)}
    now = row.found.model_copy(update=sizes)
    before = now.model_copy(update={"ratio": 4 * 1234 / (1000 - 40), "batchnorm_bytes": None})
    assert list(edits(row.model_copy(update={"found": before}), now, exact=True)) == []
    mixed = before.model_copy(update={"batchnorm_bytes": 8})
    assert len(list(edits(row.model_copy(update={"found": mixed}), now, exact=True))) == 1
