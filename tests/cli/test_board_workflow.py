"""The board's workflow: its commands are nqbench's, a stranger's pull request reaches nothing, and its guard holds."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
from ruamel.yaml import YAML

from nqbench.board.again import command
from nqbench.board.board import Board
from nqbench.cli.frame import cli
from nqbench.registry import registry
from nqbench.suite import load

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def workflow() -> dict[str, Any]:
    path = ROOT / ".github" / "workflows" / "board.yml"
    return dict(YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8")))


def runs(workflow: dict[str, Any], job: str) -> list[str]:
    return [step["run"] for step in workflow["jobs"][job]["steps"] if "run" in step]


@pytest.mark.parametrize(("job", "wanted"), [("preview", ["add", "build"]), ("take", ["add"]), ("nightly", ["verify"])])
def test_its_commands_exist_and_parse(workflow: dict[str, Any], job: str, wanted: list[str]) -> None:
    group = cli.get_command(click.Context(cli), "board")
    assert isinstance(group, click.Group)
    found = []
    for call in re.findall(r"\bnqbench board ([^;|\n]*)", "\n".join(runs(workflow, job))):
        name, *arguments = shlex.split(re.sub(r"\$\{\{.*?\}\}", "7", call).replace("2>&1", ""))
        known = group.get_command(click.Context(group), name)
        assert known is not None
        context = known.make_context(name, arguments)
        assert context.params["board"] == Path("board")
        found.append((name, context.params))
    assert [name for name, _ in found] == wanted
    if job == "nightly":
        assert (found[0][1]["sample"], found[0][1]["seed"]) == (10, 7)


def test_the_board_that_it_keeps_is_one_and_every_file_of_it_is_what_its_row_says() -> None:
    board = Board.open(ROOT / "board")
    rows = board.rows()
    assert rows
    assert all(board.file(row).stat().st_size == row.found.file_bytes for row in rows)
    assert not any(row.code for row in rows)


def test_a_row_s_command_makes_its_trial_and_no_other(tmp_path: Path) -> None:
    board = Board.open(ROOT / "board")
    for row in board.rows():
        path = tmp_path / "suite.yaml"
        path.write_text(board.suite(row))
        only = shlex.split(command(row.record))[-1]
        (trial,) = load(path).trials([only])
        for kind in ("model", "quantizer", "coder", "pruner", "sensitivity", "positions"):
            choice, name = getattr(trial, kind), getattr(row.record, kind)
            assert (choice.name if choice else None) == name
            # parameters that the plugin got since have their defaults; a search's knob is not in its suite
            _, given = registry().modern(kind, name or "", getattr(row.record, f"{kind}_params") or {})
            searched = {row.record.knob} if row.record.selected_on else set()
            has = choice.parameters if choice else {}
            assert all(has[k] == v for k, v in given.items() if k not in searched), (row.id, kind)
        assert trial.granularity == row.record.granularity
        assert [choice.name for choice in trial.training] == [n for n in row.record.training.split("+") if n != "none"]


def test_a_pull_request_has_no_right_but_to_read_and_no_text_of_it_is_run(workflow: dict[str, Any]) -> None:
    assert workflow["permissions"] == {"contents": "read"}
    assert "pull_request_target" not in workflow["on"]
    assert "permissions" not in workflow["jobs"]["preview"]
    assert workflow["jobs"]["preview"]["steps"][0]["with"]["persist-credentials"] is False
    assert not re.search(r"\$\{\{", "\n".join(runs(workflow, "preview")))


@pytest.mark.parametrize(
    ("path", "passes"),
    [
        ("board/incoming/mine.nqs", True),
        ("board/README.md", True),
        ("board/rows/0123456789abcdef.json", False),
        ("board/files/x.nqz", False),
        ("board/board.json", False),
        ("board/incoming/mine.sh", False),
        ("board/incoming/-rf.nqs", False),
        ("board/incoming/a b.nqs", False),
        ("board/incoming/deeper/mine.nqs", False),
    ],
)
def test_its_guard_lets_submissions_through_and_nothing_else(
    workflow: dict[str, Any], tmp_path: Path, path: str, passes: bool
) -> None:
    def git(*arguments: str) -> None:
        name = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main")
        subprocess.run(["git", *name, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    git("commit", "--allow-empty", "-m", "base")
    git("branch", "base")
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text("x")
    git("add", "-A")
    git("commit", "-m", "theirs")
    guard = runs(workflow, "preview")[0]
    done = subprocess.run(["bash", "-e", "-c", guard], cwd=tmp_path, env={"BASE": "base", "PATH": "/usr/bin:/bin"})
    assert (done.returncode == 0) is passes
