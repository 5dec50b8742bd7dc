"""What a board takes, what it refuses, and that it believes nothing."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from board_kit import PLAIN, add, copy, repacked, shared, states, texts, unpacked
from click.testing import CliRunner
from probe_distribution import suite

from nqbench.api.errors import BadInput
from nqbench.board.board import Board
from nqbench.board.bundle import BadBundle, file_name
from nqbench.board.checking import Checker
from nqbench.board.collecting import submit
from nqbench.board.manifest import portable
from nqbench.cli.board import command, told
from nqbench.container import read_sections
from nqbench.engine import run_suite
from nqbench.registry import registry
from nqbench.results.store import Store

Change = Callable[[dict[str, Any], dict[str, bytes]], None]


# -- taking ----------------------------------------------------------------------------------------------------------
def test_a_sound_submission_is_in_with_the_figures_that_the_board_found(made: Path) -> None:
    with Store.read(made / "run") as store:
        records = {record.key: record for record in store.records()}
    rows = Board.open(made / "board").rows()
    assert len(rows) == 3
    for row in rows:
        record = records[row.record.key]
        assert (row.found.file_bytes, row.found.metric) == (record.file_bytes, record.metric)
        assert row.found.metric_float == record.metric_float
        assert row.found.correct == record.correct
        assert (row.who, row.licence, row.code) == ("A. Nobody", "CC-BY-4.0", ())
        assert row.found.same_network
        assert row.checks[0].exact
        assert row.shown.metric == record.metric
        assert row.shown.entropy is None


def test_adding_twice_is_adding_once(made: Path, tmp_path: Path) -> None:
    board = copy(made / "board", tmp_path / "board")
    before = texts(board)
    assert states(add(board, made / "plain.nqs")) == ["there"] * 3
    assert texts(board) == before


def test_a_submission_tells_no_path_and_no_more_of_the_machine_than_versions(made: Path) -> None:
    manifest, entries = unpacked(made / "stranger.nqs")
    text = json.dumps(manifest) + entries["suite.yaml"].decode()
    assert str(made) not in text
    assert "/home/" not in text
    by_name = {one["name"]: one for one in manifest["distributions"]}
    assert by_name["nqbench-stranger"]["version"] == "2.1"
    # a folder of the submitter's machine is no place; the package's own page is
    assert by_name["nqbench-stranger"]["source"] == "https://example.org/stranger"
    assert set(manifest["rows"][0]["record"]["environment"]) <= set(portable(_record(made)).environment)
    assert not [name for name in entries if not name.endswith((".nqz", ".yaml"))]


def _record(made: Path) -> Any:
    with Store.read(made / "run") as store:
        return store.records()[0]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("# see /home/alice/notes.txt", "absolute path"),
        ("# ghp_0123456789012345678901234567890123456789", "secret"),
        ("# https://alice:hunter2@example.org/x", "secret"),
        ("# password = hunter2", "secret"),
        (r"# C:\Users\alice\x", "absolute path"),
    ],
)
def test_what_must_not_leave_a_machine_is_refused_with_its_line(
    made: Path, tmp_path: Path, text: str, why: str
) -> None:
    path = suite(tmp_path / "s.yaml", PLAIN)
    path.write_text(path.read_text() + text + "\n")
    run_suite(path, tmp_path / "run", jobs=0)
    with pytest.raises(BadInput, match=rf"the suite, line 7, holds .*{why}"):
        submit(tmp_path / "run", tmp_path / "b.nqs", rows=["all"], registry=registry())
    assert not (tmp_path / "b.nqs").exists()


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        (["all"], 17),
        (["quantizer.k=5"], 3),
        (["coder=rans,quantizer=kmeans,quantizer.k=2", "coder=s*,quantizer=mine"], 2),
    ],
)
def test_rows_are_chosen(made: Path, tmp_path: Path, wanted: list[str], count: int) -> None:
    found = submit(made / "run", tmp_path / "b.nqs", rows=wanted, registry=registry())
    assert len(found.rows) == count


@pytest.mark.parametrize("wanted", ["quantizer=none", "deadbeef", "nonsense", "colour=red"])
def test_rows_that_are_none_are_said(made: Path, tmp_path: Path, wanted: str) -> None:
    with pytest.raises(BadInput, match="--rows"):
        submit(made / "run", tmp_path / "b.nqs", rows=[wanted], registry=registry())


# -- refusing --------------------------------------------------------------------------------------------------------
def _field(name: str, value: Any) -> Change:
    def change(manifest: dict[str, Any], entries: dict[str, bytes]) -> None:
        record = manifest["rows"][1]["record"]
        record[name] = value(record[name]) if callable(value) else value

    return change


def _both(*changes: Change) -> Change:
    def change(manifest: dict[str, Any], entries: dict[str, bytes]) -> None:
        for one in changes:
            one(manifest, entries)

    return change


def _flipped(manifest: dict[str, Any], entries: dict[str, bytes]) -> None:
    name = file_name(manifest["rows"][1]["file"])
    data = bytearray(entries[name])
    data[-20] ^= 1
    entries[name] = bytes(data)


def _part(name: str, by: int) -> Change:
    def change(manifest: dict[str, Any], entries: dict[str, bytes]) -> None:
        manifest["rows"][1]["record"]["parts"][name] += by

    return change


LIES: dict[str, tuple[Change, str]] = {
    "a better metric": (_field("metric", lambda v: v + 0.05), "accuracy is"),
    "a worse metric": (_field("metric", lambda v: v - 0.05), "accuracy is"),
    "a metric that is no number": (_field("metric", "NaN"), "did not end well"),
    "another of its metrics": (_field("metrics", {"accuracy": 100.0}), "accuracy is"),
    "a worse float network": (_field("metric_float", lambda v: v - 20), "the float network's accuracy"),
    "a difference that is none": (_field("metric_delta", 0.25), "metric_delta"),
    "fewer bytes": (_both(_field("file_bytes", lambda v: v - 9), _part("symbols", -9)), "its size"),
    "other parts": (_both(_part("symbols", -9), _part("raw_parameters", 9)), "its parts"),
    "a better ratio": (_field("ratio", lambda v: v * 1.01), "ratio is"),
    "bytes of batch norms": (_field("batchnorm_bytes", 9), "batchnorm_bytes is"),
    "a better file ratio": (_field("file_ratio", 1e9), "file_ratio is"),
    "fewer bits": (_field("bits_per_weight", 0.001), "bits_per_weight is"),
    "another hash": (_field("decoded_sha256", "0" * 64), "decodes to other tensors"),
    "a damaged file": (_flipped, "checksum"),
    "another quantizer": (_field("quantizer", "ecsq"), "its quantizer: the file names kmeans"),
    "another codebook": (_field("quantizer_params", {"k": 3}), "its quantizer's parameters"),
    "another coder": (_field("coder", "lzw"), "its coder: the file names huffman"),
    "a pruner's positions": (_field("positions", "gaps"), "its positions"),
    "more examples": (_field("examples", 10_000), "examples"),
    "another metric": (_field("metric_name", "f1"), "its metric"),
    "another direction": (_field("metric_higher_is_better", False), "direction"),
    "an unknown network": (_field("model", "prob"), "unknown model"),
    "a network of another size": (_field("model_params", {"sizes": [20, 17, 5]}), "its tensor"),
    "a network of other tensors": (_field("model_params", {"net": "conv"}), "no tensor"),
    "a network without data": (_field("model_params", {"data": False}), "its metric"),
    "no metric": (_both(_field("metric_name", None), _field("metric", None)), "no metric"),
    "a path of the board's machine": (_field("model_params", {"checkpoint": "../../x"}), "a path of a machine"),
    "an absolute path": (_field("statistics_of", "/etc/passwd"), "Extra inputs"),
    "a Cyrillic letter": (_field("quantizer", "kme\u0430ns"), "its quantizer has the name"),
    "a hidden mark": (_field("streams", "auto\u200b"), "U\\+200B"),
    "a turned direction": (_field("suite", "\u202eplain"), "U\\+202E"),
    "batches that no memory holds": (_field("evaluated_in", {"batch_size": 10**9}), "batch_size of 1000000000"),
    "batches of no kind": (_field("evaluated_in", {"batch_size": "all"}), "is no batch_size"),
    "an evaluation's threads without end": (
        _both(_field("evaluated_in", {"threads": 10**9, "float_threads": "all"}), _field("metric", 0.0)), "accuracy"
    ),
    "threads without end": (
        _both(_field("environment", lambda e: {**e, "threads": 10**9}), _field("metric", 0.0)), "accuracy"
    ),
}  # fmt: skip


@pytest.mark.parametrize("lie", list(LIES))
def test_a_row_that_does_not_hold_is_refused_with_what_differs_and_the_others_go_in(
    made: Path, tmp_path: Path, lie: str
) -> None:
    change, why = LIES[lie]
    bundle = repacked(made / "plain.nqs", tmp_path / "lie.nqs", change)
    board = tmp_path / "board"
    if why == "Extra inputs":
        with pytest.raises(BadBundle, match=why):
            add(board, bundle)
        return
    outcomes = add(board, bundle)
    assert states(outcomes) == ["added", "refused", "added"]
    told = " ".join(outcomes[1].faults)
    import re

    assert re.search(why, told), told
    assert str(tmp_path) not in told
    assert len(Board.open(board).rows()) == 2
    # nothing of the refused row is left
    assert len(list((board / "files").iterdir())) == 2


def _by_divergence(better: float) -> Change:
    """The record as a run judged by divergence has it; ``better``: by how much it is said to be."""

    def change(manifest: dict[str, Any], entries: dict[str, bytes]) -> None:
        record = manifest["rows"][1]["record"]
        value, reference = record["metrics"]["divergence"] - better, record["metrics_float"]["divergence"]
        record["metrics"]["divergence"] = value
        record |= {"metric_name": "divergence", "metric_unit": "nats", "metric_higher_is_better": False}
        record |= {"metric": value, "metric_float": reference, "metric_delta": value - reference}

    return change


def test_a_row_judged_by_the_divergence_ranks_by_the_network_s_headline_metric(made: Path, tmp_path: Path) -> None:
    bundle = repacked(made / "plain.nqs", tmp_path / "by.nqs", _by_divergence(0.0))
    assert states(add(tmp_path / "board", bundle)) == ["added"] * 3
    usual = {row.id: row.shown for row in Board.open(made / "board").rows()}
    for row in Board.open(tmp_path / "board").rows():
        shown, other = row.shown, usual[row.id]
        assert (shown.metric_name, shown.metric, shown.metric_unit) == ("accuracy", other.metric, "%")
        assert shown.metric_delta == other.metric_delta
    lie = repacked(made / "plain.nqs", tmp_path / "lie.nqs", _by_divergence(1e-3))
    outcomes = add(tmp_path / "other", lie)
    assert states(outcomes) == ["added", "refused", "added"]
    assert "its divergence is" in " ".join(outcomes[1].faults)


def test_a_row_of_another_row_s_file_is_refused(made: Path, tmp_path: Path) -> None:
    def change(manifest: dict[str, Any], entries: dict[str, bytes]) -> None:
        first, second, _ = manifest["rows"]
        manifest["rows"] = [{"record": second["record"], "file": first["file"]}]

    outcomes = add(tmp_path / "board", repacked(made / "plain.nqs", tmp_path / "b.nqs", change))
    assert states(outcomes) == ["refused"]
    assert outcomes[0].faults[0].startswith(("its size", "its parts"))


def test_two_rows_under_one_key_are_both_refused(made: Path, tmp_path: Path) -> None:
    def change(manifest: dict[str, Any], entries: dict[str, bytes]) -> None:
        manifest["rows"][1]["record"]["key"] = manifest["rows"][0]["record"]["key"]

    outcomes = add(tmp_path / "board", repacked(made / "plain.nqs", tmp_path / "b.nqs", change))
    assert states(outcomes) == ["refused", "refused", "added"]
    assert "2 rows of the submission have the key" in outcomes[0].faults[0]


def test_a_file_that_leaves_tensors_out_is_not_completed_by_the_float_network(made: Path, tmp_path: Path) -> None:
    """The network has a layer more than the file: filled in, its accuracy would be the float network's."""
    odd = PLAIN.replace("[probe]", "[probe: {sizes: [20, 16]}]").replace("[2, 5, 9]", "[5]")
    run_suite(suite(tmp_path / "s.yaml", odd), tmp_path / "run", jobs=0)
    submit(tmp_path / "run", tmp_path / "b.nqs", rows=["all"], registry=registry())

    def change(manifest: dict[str, Any], entries: dict[str, bytes]) -> None:
        manifest["rows"][0]["record"]["model_params"] = {"sizes": [20, 16, 5]}

    outcomes = add(tmp_path / "board", repacked(tmp_path / "b.nqs", tmp_path / "c.nqs", change))
    assert states(outcomes) == ["refused"]
    assert "holds no tensor 'layers.1.weight'" in outcomes[0].faults[0]


def test_a_network_that_a_board_does_not_know_is_asked_for(made: Path, tmp_path: Path) -> None:
    other = PLAIN.replace("[probe]", "[probe: {version: 2}]").replace("[2, 5, 9]", "[5]")
    run_suite(suite(tmp_path / "s.yaml", other), tmp_path / "run", jobs=0)
    submit(tmp_path / "run", tmp_path / "b.nqs", rows=["all"], registry=registry())
    board = copy(made / "board", tmp_path / "board")
    outcomes = add(board, tmp_path / "b.nqs")
    assert states(outcomes) == ["refused"]
    assert "--new-networks" in outcomes[0].faults[0]
    # nor does a merge load or train whatever a stranger's board names
    add(tmp_path / "theirs", tmp_path / "b.nqs")
    theirs, mine = Board.open(tmp_path / "theirs"), Board.open(board)
    outcomes = list(mine.merge(theirs, shared()))
    assert states(outcomes) == ["refused"]
    assert "--new-networks" in outcomes[0].faults[0]
    assert states(Board.open(copy(board, tmp_path / "copy")).merge(theirs, shared(), new_networks=True)) == ["added"]
    assert states(add(board, tmp_path / "b.nqs", new_networks=True)) == ["added"]


def test_one_file_is_one_row_whatever_is_said_of_how_it_was_made(made: Path, tmp_path: Path) -> None:
    def change(manifest: dict[str, Any], entries: dict[str, bytes]) -> None:
        for row in manifest["rows"]:
            row["record"] |= {"key": f"{row['record']['key'][:-4]}beef", "pruner": "magnitude", "seed": 7}

    board = copy(made / "board", tmp_path / "board")
    assert states(add(board, repacked(made / "plain.nqs", tmp_path / "b.nqs", change))) == ["there"] * 3
    assert texts(board) == texts(made / "board")


# -- plugins of others -----------------------------------------------------------------------------------------------
def test_form_plugin_needs_permission_and_is_said_on_the_row(made: Path, tmp_path: Path) -> None:
    outcomes = add(tmp_path / "board", made / "stranger.nqs")
    # the wide grid is a base form: whoever made it, nobody's code is needed
    assert states(outcomes) == ["refused", "refused", "added"]
    assert "form 'plugin': quantizer mine of nqbench-stranger 2.1" in outcomes[0].faults[0]
    assert "--allow-plugins" in outcomes[0].faults[0]
    outcomes = add(tmp_path / "board", made / "stranger.nqs", allow_plugins=True)
    assert states(outcomes) == ["added", "added", "there"]
    row = next(row for row in Board.open(tmp_path / "board").rows() if row.record.quantizer == "mine")
    assert row.code == ("form 'plugin': quantizer mine of nqbench-stranger 2.1",)


def test_a_file_that_decodes_differently_from_process_to_process_is_refused_and_found_when_it_begins_to(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shaky = submit(made / "run", tmp_path / "b.nqs", rows=["quantizer=shaky,coder=rans"], registry=registry())
    assert len(shaky.rows) == 1
    board = tmp_path / "board"
    assert states(add(board, tmp_path / "b.nqs", allow_plugins=True)) == ["added"]
    monkeypatch.setenv("NQBENCH_SHAKES", "yes")
    outcomes = add(tmp_path / "other", tmp_path / "b.nqs", allow_plugins=True)
    assert states(outcomes) == ["refused"]
    assert "two processes decode it to different tensors" in outcomes[0].faults[0]
    # on the board since before it shook: another machine finds it
    with Checker("cpu", allow_plugins=True) as checker:
        (verdict,) = [verdict for _, verdict in Board.open(board).verify(checker)]
    assert "two processes decode it to different tensors" in verdict.faults[0]


@pytest.mark.parametrize(
    ("what", "why"), [("sleep", "not decoded within 2 seconds"), ("die", "exit code 3"), ("memory", "memory|allocate")]
)
def test_a_decoder_that_misbehaves_costs_its_own_row_alone(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, why: str
) -> None:
    import re

    monkeypatch.setenv("NQBENCH_SPY", what)
    outcomes = add(tmp_path / "board", made / "spied.nqs", allow_plugins=True, seconds=2.0 if what == "sleep" else 60.0)
    assert states(outcomes) == ["refused"]
    assert re.search(why, outcomes[0].faults[0]), outcomes
    # the next ones are looked at as if nothing had been
    assert states(add(tmp_path / "board", made / "plain.nqs", new_networks=True)) == ["added"] * 3


def test_a_decoder_sees_no_token_and_reaches_nobody(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import subprocess

    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("NQBENCH_PORT", str(server.getsockname()[1]))
        monkeypatch.setenv("NQBENCH_SPY", "look")
        monkeypatch.setenv("A_TOKEN", "secret")
        outcomes = add(tmp_path / "board", made / "spied.nqs", allow_plugins=True)
    allowed = subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode == 0
    assert "token None" in outcomes[0].faults[0]
    assert "secret" not in outcomes[0].faults[0]
    if allowed:  # some containers forbid to leave the network
        assert "nobody there" in outcomes[0].faults[0]


def test_a_coder_of_a_stranger_needs_permission_too_and_is_no_other_s_by_its_name(made: Path, tmp_path: Path) -> None:
    outcomes = add(tmp_path / "board", made / "spied.nqs")
    assert states(outcomes) == ["refused"]
    assert "coder spy of nqbench-stranger 2.1" in outcomes[0].faults[0]


# -- interruptions, commands ----------------------------------------------------------------------------------------
def test_an_interrupted_addition_leaves_no_half_row(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = tmp_path / "board"
    whole = Board._say
    taken: list[str] = []

    def interrupted(self: Board, row: Any) -> None:
        if taken:
            raise KeyboardInterrupt
        taken.append(row.id)
        whole(self, row)

    monkeypatch.setattr(Board, "_say", interrupted)
    with pytest.raises(KeyboardInterrupt):
        add(board, made / "plain.nqs")
    monkeypatch.undo()
    assert [row.id for row in Board.open(board).rows()] == taken
    assert sorted(states(add(board, made / "plain.nqs"))) == ["added", "added", "there"]


def test_what_is_no_board_is_told_and_left_alone(made: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(BadInput, match="is no board"):
        Board.at(tmp_path / "notes")
    with pytest.raises(BadInput, match="is no board"):
        Board.open(tmp_path / "missing")
    for text in ("[]", "{", '{"nqbench_board": 99}', '{"nqbench_board": 1, "drop": "x"}'):
        (tmp_path / "b").mkdir(exist_ok=True)
        (tmp_path / "b" / "board.json").write_text(text)
        with pytest.raises(BadInput, match=r"board\.json"):
            Board.open(tmp_path / "b")


def test_the_commands_tell_and_end_as_they_say(made: Path, tmp_path: Path) -> None:
    bundle = repacked(made / "plain.nqs", tmp_path / "lie.nqs", LIES["a better metric"][0])
    run = CliRunner()
    board = str(tmp_path / "board")
    result = run.invoke(command, ["add", board, str(bundle), "--device", "cpu"])
    assert result.exit_code == 3
    assert f"{board}: 2 added, 0 there already, 1 refused" in result.stdout
    assert "accuracy is" in result.stderr
    assert run.invoke(command, ["add", board, str(made / "plain.nqs"), "--device", "cpu"]).exit_code == 0
    assert run.invoke(command, ["verify", board, "--sample", "1", "--device", "cpu"]).exit_code == 0
    assert run.invoke(command, ["merge", str(tmp_path / "b2"), board, "--believe"]).exit_code == 0


def test_a_headline_figure_is_said_in_its_own_unit_however_the_submitter_judged(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = repacked(made / "plain.nqs", tmp_path / "by.nqs", _by_divergence(0.0))
    list(told(add(tmp_path / "board", bundle)))
    out = capsys.readouterr().out
    assert "nats" not in out
    assert out.count(" %\n") == 3


def test_the_golden_path_of_one_file(made: Path) -> None:
    """What a board keeps is the file itself, byte for byte."""
    row = Board.open(made / "board").rows()[0]
    _, entries = unpacked(made / "plain.nqs")
    path = made / "board" / file_name(row.file)
    assert path.read_bytes() == entries[file_name(row.file)]
    assert read_sections(path).file_bytes == row.found.file_bytes
