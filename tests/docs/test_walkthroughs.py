"""Every page that takes a reader by the hand is walked: its files are written and its commands run, in order."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("quickstart", "your-method", "your-coder", "your-model", "your-metric", "nightly", "leaderboard")
BLOCK = re.compile(r"^```(?P<head>sh|\{code-block\} \w+\n:caption: (?P<file>\S+))\n(?P<text>.*?)^```$", re.M | re.S)
PIP = """#!/usr/bin/env bash
# pip, offline and beside the environment: what is installed lies in a folder of the test's
[ "$1 $2" = "install -e" ] || { echo "not for a test: pip $*" >&2; exit 1; }
exec "$PYTHON" -m pip install --no-index --no-deps --no-build-isolation --disable-pip-version-check -q \\
  --upgrade --target "$SITE" "./$3" 2> "$SITE.log"
"""


def steps(text: str) -> Iterator[tuple[str, str]]:
    """(file to write or nothing, its text or commands to run), in order."""
    for match in BLOCK.finditer(text):
        yield (match["file"] or "").replace("\\", ""), match["text"]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", PAGES)
def test_a_page_does_what_it_says(page: str, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    scripts = {"pip": PIP, "python": f'#!/usr/bin/env bash\nexec "{sys.executable}" "$@"\n'}
    scripts["nqbench"] = f'#!/usr/bin/env bash\nexec "{sys.executable}" -m nqbench "$@"\n'
    for name, script in scripts.items():
        (tools / name).write_text(script)
        (tools / name).chmod(0o755 | stat.S_IXUSR)
    (folder := tmp_path / "work").mkdir()
    environment = os.environ | {
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "PYTHON": sys.executable, "SITE": str(tmp_path / "site"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])),
    }  # fmt: skip
    walked = list(steps((DOCS / f"{page}.md").read_text(encoding="utf-8")))
    assert any(not name for name, _ in walked)
    for name, text in walked:
        if name:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
            continue
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text], cwd=folder, env=environment, capture_output=True, text=True,
            timeout=280, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr


def test_blocks_to_run_and_files_to_write_are_told_apart() -> None:
    page = (
        "```{code-block} python\n:caption: a/\\_b.py\n1\n```\n```console\n$ no\n```\n```sh\nyes\n```\n"
        "```{code-block} yaml\n:caption: a/b.yaml\nk: v\n```\n```\nno\n```\n"
    )
    assert list(steps(page)) == [("a/_b.py", "1\n"), ("", "yes\n"), ("a/b.yaml", "k: v\n")]
