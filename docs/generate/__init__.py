"""The pages of the site that are made from the code: ``write_all`` puts them under ``docs/generated``.

Nothing here is written by hand twice: a plugin's page comes from its class, a command's from click, the file format
from the specification in ``nqbench.container``, what bad input says from giving it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from generate import api, commands, faq, fileformat, notebook, plugins, published, suites

DOCS = Path(__file__).resolve().parent.parent
ROOT = DOCS.parent
PAGES: tuple[Callable[[Path], Mapping[str, str]], ...] = (
    plugins.pages,
    suites.pages,
    commands.pages,
    api.pages,
    fileformat.pages,
    faq.pages,
    published.pages,
    notebook.pages,
)
"""Each gives name below ``docs/generated`` -> text, of the repository's root."""


def write_all(folder: Path = DOCS / "generated") -> None:
    """All generated pages, in the place of those that are there."""
    shutil.rmtree(folder, ignore_errors=True)
    for make in PAGES:
        for name, text in make(ROOT).items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
