"""Every command of the README is run: here the ones of its table, by ``.ci/run`` its two blocks."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
TABLE = re.findall(r"^\| [^|]+ \| `(nqbench [^`]+)` \|$", README, re.MULTILINE)
BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stranger's working folder: the checkout's suites, and the quick suite's results."""
    path = tmp_path_factory.mktemp("readme")
    (path / "suites").symlink_to(ROOT / "suites")
    done = shell("nqbench run suites/quickstart.yaml --quiet", path)
    assert done.returncode == 0, done.stderr
    return path


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    # the script beside this Python, wherever the environment is
    line = f'PATH="{Path(sys.executable).parent}:$PATH"; {command}'
    return subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True, timeout=250, check=False)


def test_the_readme_has_commands() -> None:
    assert len(TABLE) >= 8
    assert len(BLOCKS) == 2


@pytest.mark.parametrize("command", TABLE)
def test_a_command_of_the_readme_runs(command: str, folder: Path) -> None:
    done = shell(command, folder)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.strip()


def test_ci_runs_the_readme_s_own_blocks() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert '"$(readme 1)"' in script
    assert '"$(readme 2)"' in script
    assert BLOCKS[0].endswith("nqbench run suites/quickstart.yaml\n")
    assert "pytest" in BLOCKS[1]


def test_every_file_that_the_readme_links_to_is_there() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        if not link.startswith("http"):
            assert (ROOT / link).exists(), link


def test_the_readme_s_quantizer_is_the_example_s() -> None:
    """The snippet is the example's, but for the imports and lines that a reader of the README need not see."""
    example = (ROOT / "plugins/example/nqbench_example/__init__.py").read_text(encoding="utf-8")
    snippet, *_ = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    for line in snippet.splitlines():
        assert line.strip() in example, line


def test_the_readme_s_leaderboard_is_the_published_one() -> None:
    """Of each network: our first method's chosen file, NNCodec's smallest, and how many bytes fewer the curves say."""
    section = README.split("<!-- leaderboard -->")[1].split("<!-- /leaderboard -->")[0]
    _, _, *rows = re.findall(r"^\| (.*) \|$", section, re.MULTILINE)
    assert len(rows) == 5
    for row in rows:
        network, lost, *figures = (cell.strip() for cell in row.split("|"))
        link, before = re.findall(r"\((.*?)\).*, ([0-9.]+) %$", network)[0]
        name = re.sub("[^a-z0-9]", "", network.partition("]")[0].lower()).removeprefix("a").removeprefix("vision")
        ours, theirs = _chosen((ROOT / link).read_text(encoding="utf-8"), name)
        assert ours["model"].replace("-", "") == name
        assert [ours["bytes"], ours["accuracy"], theirs["bytes"], theirs["accuracy"]] == figures[:4], row
        assert float(ours["accuracy"]) - _number(ours["delta"]) == pytest.approx(float(before))
        assert f"lose at most {lost} points" in (ROOT / link).read_text(encoding="utf-8")
        share, *interval = (f"{abs(_number(text))}" for text in re.findall(r"[−+][0-9.]+", ours["at the goal"]))
        told = f"{share} % ({interval[1]} to {interval[0]})" if interval else f"{share} %"
        assert told == figures[4], row


def _chosen(page: str, model: str) -> tuple[dict[str, str], dict[str, str]]:
    """The first row of a model's methods, and its first one of NNCodec, against which that is compared."""
    sections = {re.sub("[^a-z0-9]", "", part.splitlines()[0]): part for part in page.split("\n## ")[1:]}
    header, _, *rows = re.findall(r"^\| (.*) \|$", sections[model.replace("100", "")].split("\n\n")[1], re.MULTILINE)
    named = [
        {
            "model": model,
            **dict(zip((c.strip() for c in header.split("|")), (c.strip() for c in r.split("|")), strict=True)),
        }
        for r in rows
    ]
    theirs = next(row for row in named if row["method"].startswith("nncodec"))
    assert "(baseline)" in theirs["method"]
    return named[0], theirs


def _number(text: str) -> float:
    return float(text.replace("−", "-"))
