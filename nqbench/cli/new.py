"""``nqbench new``: a plugin package of one's own, written from the templates in ``nqbench/templates``.

A template is text with ``$name`` places (``string.Template``): ``common/`` holds what every package has, the folder of
the kind its module.
"""

from __future__ import annotations

import importlib.util
import re
from importlib.resources import files
from pathlib import Path
from string import Template

import click

KINDS = ("quantizer", "coder", "model")
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@click.command("new")
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("name")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), default=Path("."), show_default=True,
              metavar="DIR", help="Folder in which the folder of the package is created.")  # fmt: skip
def command(kind: str, name: str, output: Path) -> None:
    """Write a package with a working quantizer, coder or model called NAME, ready to install and to change.

    It has a pyproject.toml with the entry point, a commented module, a README, and a test that runs the conformance
    checks on the plugin.
    """
    _refuse_bad_names(kind, name)
    folder = output / f"nqbench-{name}"
    written = _write(folder, _rendered(kind, name))
    click.echo("\n".join(str(path) for path in written))
    click.echo(f"\nnext: pip install -e {folder} && nqbench check {kind} {name}")


def _refuse_bad_names(kind: str, name: str) -> None:
    """Raises BadInput for a name that cannot be, or is taken."""
    from nqbench.api import BadInput
    from nqbench.registry import registry

    if not NAME.fullmatch(name):
        raise BadInput(f"'{name}' cannot be the name of a plugin: use a-z, 0-9 and single hyphens, as in round-down")
    if (kind, name) in registry().found:
        taken = registry().registered(kind, name)
        raise BadInput(
            f"there is a {kind} '{name}' already, in {taken.distribution} {taken.version}: take another name"
        )
    if importlib.util.find_spec(_module(name)) is not None:
        raise BadInput(f"there is a Python package {_module(name)} already: take another name than '{name}'")


def _module(name: str) -> str:
    return f"nqbench_{name.replace('-', '_')}"


def _rendered(kind: str, name: str) -> dict[str, str]:
    """Path within the package's folder -> text."""
    from nqbench.api import API_VERSION

    places = {
        "kind": kind, "name": name, "module": _module(name), "distribution": f"nqbench-{name}",
        "class": "".join(part.capitalize() for part in name.split("-")) + kind.capitalize(),
        "section": f"{kind}s", "api_version": str(API_VERSION),
    }  # fmt: skip
    templates = files("nqbench") / "templates"
    sources = {
        "pyproject.toml": templates / "common" / "pyproject.toml.tmpl",
        "README.md": templates / "common" / "README.md.tmpl",
        f"{_module(name)}/__init__.py": templates / kind / "module.py.tmpl",
        "tests/test_conformance.py": templates / "common" / "test_conformance.py.tmpl",
    }
    return {path: Template(file.read_text(encoding="utf-8")).substitute(places) for path, file in sources.items()}


def _write(folder: Path, texts: dict[str, str]) -> list[Path]:
    """Raises BadInput where the folder exists or cannot be made."""
    from nqbench.api import BadInput

    if folder.exists():
        raise BadInput(f"{folder} exists already: remove it, or name another folder with --output")
    try:
        for path, text in texts.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"cannot write {folder}: {error.strerror}") from error
    return [folder / path for path in texts]
