"""What a contributor's tools say agrees with the project: one version of ruff, of Python, one address, one version."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from nqbench.version import __version__

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if "==" in line
)
PYTHONS = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)]
TEXTS = [
    *(ROOT / ".github").rglob("*.yml"), *(ROOT / ".github").rglob("*.md"), ROOT / "CONTRIBUTING.md",
    ROOT / "CITATION.cff", ROOT / "README.md", *(ROOT / "docs").glob("*.md"),
]  # fmt: skip


def test_every_direct_dependency_is_pinned() -> None:
    extras = [r for name in PROJECT["optional-dependencies"] for r in PROJECT["optional-dependencies"][name]]
    for requirement in [*PROJECT["dependencies"], *extras]:
        name = re.match(r"[A-Za-z0-9._-]+", requirement)
        assert name is not None
        assert name.group() in PINS or "==" in requirement or name.group() in ("timm",), requirement


def test_pre_commit_has_the_ruff_that_ci_has() -> None:
    hooks = YAML(typ="safe").load(ROOT / ".pre-commit-config.yaml")["repos"][0]["hooks"]
    needed = {dependency for hook in hooks for dependency in hook.get("additional_dependencies", [])}
    assert needed == {f"ruff=={PINS['ruff']}"}


def test_the_wheel_is_tried_on_every_python_that_is_promised() -> None:
    workflow = YAML(typ="safe").load(ROOT / ".github" / "workflows" / "release.yml")
    script = (ROOT / ".ci" / "wheel.py").read_text(encoding="utf-8")
    assert workflow["jobs"]["wheel"]["strategy"]["matrix"]["python"] == PYTHONS
    assert re.search(r"^PYTHONS = \((.*)\)$", script, re.MULTILINE)[1] == ", ".join(f'"{p}"' for p in PYTHONS)
    assert any(".ci/wheel.py" in step.get("run", "") for step in workflow["jobs"]["wheel"]["steps"])
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"


@pytest.mark.parametrize("path", TEXTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_project_has_one_address(path: Path) -> None:
    for owner, name in re.findall(r"github\.com/([\w.-]+)/([\w-]+)", path.read_text(encoding="utf-8")):
        if name == "nqbench" or owner == "nqbench":
            assert f"https://github.com/{owner}/{name}" == PROJECT["urls"]["Repository"]


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda p: p.name)
def test_what_github_reads_is_yaml(path: Path) -> None:
    read = YAML(typ="safe").load(path)
    if path.parent.name == "ISSUE_TEMPLATE" and path.name != "config.yml":
        assert {"name", "description", "body"} <= read.keys()
        assert all(part["type"] in ("markdown", "textarea", "input", "dropdown", "checkboxes") for part in read["body"])
    if path.parent.name == "workflows":
        assert all("runs-on" in job or "uses" in job for job in read["jobs"].values())
        assert all("timeout-minutes" in job or "environment" in job for job in read["jobs"].values())


def test_a_citation_names_the_version_and_the_licence() -> None:
    cff = YAML(typ="safe").load(ROOT / "CITATION.cff")
    assert str(cff["version"]) == __version__
    assert cff["license"] == PROJECT["license"]


def test_the_habits_named_in_contributing_are_sessions() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    sessions = re.findall(r"@nox\.session\ndef (\w+)", (ROOT / "noxfile.py").read_text(encoding="utf-8"))
    named = re.findall(r"`nox -s (\w+)", text)
    assert named
    assert set(named) <= set(sessions)
    assert {"lint", "types", "layers", "quick", "tests", "docs", "wheel", "benchmarks"} == set(sessions)


def test_what_is_installed_tells_its_types() -> None:
    assert (ROOT / "nqbench" / "py.typed").is_file()
