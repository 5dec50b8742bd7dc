"""The nightly workflow: its commands are nqbench's, its folders agree, and nothing of a red night is lost."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
from ruamel.yaml import YAML

from nqbench.cli.frame import cli
from nqbench.suite import load

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def workflow() -> dict[str, Any]:
    path = ROOT / ".github" / "workflows" / "nightly.yml"
    return dict(YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    (job,) = workflow["jobs"].values()
    return list(job["steps"])


def commands(steps: list[dict[str, Any]]) -> list[click.Context]:
    """Every call of nqbench in the steps, parsed by click as the command would be."""
    found = []
    for step in steps:
        for call in re.findall(r"\S*\bnqbench (\w[^;&|]*)", step.get("run", "")):
            name, *arguments = shlex.split(call)
            command = cli.get_command(click.Context(cli), name)
            assert command is not None, f"there is no command '{name}'"
            found.append(command.make_context(name, arguments))
    return found


def test_it_runs_every_night(workflow: dict[str, Any]) -> None:
    (schedule,) = workflow["on"]["schedule"]
    minute, hour, *rest = schedule["cron"].split()
    assert 0 <= int(minute) < 60
    assert 0 <= int(hour) < 24
    assert rest == ["*", "*", "*"]


def test_it_installs_by_the_command_of_the_readme(steps: list[dict[str, Any]]) -> None:
    (install,) = [step["run"] for step in steps if "pip install" in step.get("run", "")]
    assert install in (ROOT / "README.md").read_text(encoding="utf-8")


def test_its_commands_exist_and_parse_and_their_folders_agree(steps: list[dict[str, Any]]) -> None:
    before, nightly, after = commands(steps)
    assert [context.info_name for context in (before, nightly, after)] == ["merge", "nightly", "merge"]
    assert load(ROOT / nightly.params["suite"]).name == "nightly"
    nights = nightly.params["output"]
    (kept,) = before.params["sources"]
    assert before.params["into"] == nights  # the nights before go where tonight's comes to stand
    assert (after.params["into"], after.params["sources"]) == (kept, (nights,))
    cached = [step["with"]["path"] for step in steps if "actions/cache" in step.get("uses", "")]
    assert cached == [str(kept.parent)] * 2


def test_a_red_night_is_kept_shown_and_uploaded(steps: list[dict[str, Any]]) -> None:
    at = next(i for i, step in enumerate(steps) if "nqbench nightly" in step.get("run", ""))
    assert all(step["if"] == "always()" for step in steps[at + 1 :])
    (upload,) = [step["with"] for step in steps if "upload-artifact" in step.get("uses", "")]
    assert {"nightly/nightly/*.html", "nightly/nightly/junit.xml"} <= set(upload["path"].split())
    assert any("compare.md" in step.get("run", "") and "GITHUB_STEP_SUMMARY" in step["run"] for step in steps)


def test_the_nightly_suite_takes_enough_samples_to_show_a_change_of_speed() -> None:
    measure = load("nightly").measure
    assert measure is not None
    assert measure.repeats >= 7
