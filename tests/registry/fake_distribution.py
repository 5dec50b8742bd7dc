"""Distributions made of a few lines, as an installer would leave them on the import path."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

GOOD = '''
from nqbench.api import Coder, hookimpl

class {cls}(Coder, name="{name}"):
    """{about}"""

@hookimpl
def nqbench_plugins():
    return [{cls}]
'''


def install(folder: Path, distribution: str, modules: dict[str, str], version: str = "1.2") -> None:
    """Writes modules and metadata; each module is an entry point of the group."""
    info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    lines = [f"{module} = {module}" for module in modules]
    (info / "entry_points.txt").write_text("\n".join(["[nqbench]", *lines, ""]))
    for module, text in modules.items():
        (folder / f"{module}.py").write_text(dedent(text))


def good(name: str, cls: str = "Good", about: str = "A coder for tests.") -> str:
    """A module that registers one coder."""
    return GOOD.format(name=name, cls=cls, about=about)
