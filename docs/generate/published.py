"""What the project has published: the leaderboard of the README, the findings, the table of runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

REPOSITORY = "repo:"


def pages(root: Path) -> Mapping[str, str]:
    readme = (root / "README.md").read_text(encoding="utf-8")
    board = readme.split("<!-- leaderboard -->")[1].split("<!-- /leaderboard -->")[0]
    reference = root / "reports" / "reference"
    findings = _linked((reference / "FINDINGS.md").read_text(encoding="utf-8"), "reports/reference/")
    table = _linked((reference / "README.md").read_text(encoding="utf-8"), "reports/reference/")
    return {
        "leaderboard.md": _linked(board, "", images="/../"),
        "findings.md": findings,
        "published.md": table,
    }


def _linked(text: str, folder: str, images: str = "") -> str:
    """Relative links lead to the repository, a page a click away; images are taken from it."""

    def moved(match: re.Match[str]) -> str:
        mark, label, target = match.groups()
        if re.match(r"[a-z]+:|#", target):
            return match.group()
        return f"{mark}[{label}]({images if mark else REPOSITORY}{folder}{target})"

    return re.sub(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)", moved, text)
