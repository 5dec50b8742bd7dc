"""What slots elsewhere said of networks, kept in the output folder.

A trial's keys hold what its network *is*, which only who loads it knows. Slots on other machines have caches of their
own: without this, a run that begins again would have to ask one before it knows that all is done.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from nqbench.report.files import write_text

FILE = ".networks.json"


def known_networks(folder: Path) -> dict[str, str]:
    """The content of stages' results by their keys (``KeyMaker.contents``); nothing where the file is damaged."""
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    texts = isinstance(found, dict) and all(isinstance(value, str) for value in found.values())
    return found if texts else {}


def note_networks(folder: Path, contents: Mapping[str, str]) -> None:
    """Add what was heard."""
    write_text(folder / FILE, json.dumps(known_networks(folder) | dict(contents), indent=0, sort_keys=True))
