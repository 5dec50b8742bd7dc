"""Finds a suite: by the path of its file, or by name if it ships with nqbench."""

from __future__ import annotations

from pathlib import Path

from nqbench import version
from nqbench.registry import did_you_mean
from nqbench.suite.document import SuiteError

PUBLISHED = "published.yaml"
"""The published rows that suites select from: beside a suite, or the shipped ones. Not itself a suite."""


def shipped_folder() -> Path | None:
    """``nqbench/suites`` in an installed wheel, ``suites`` beside the package in a source tree."""
    package = Path(version.__file__).parent
    for folder in (package / "suites", package.parent / "suites"):
        if (folder / PUBLISHED).is_file():
            return folder
    return None


def shipped() -> dict[str, Path]:
    """Shipped suites by name: ``quickstart``, ``ablations/scope``."""
    folder = shipped_folder()
    if folder is None:
        return {}
    files = sorted(file for file in folder.rglob("*.yaml") if file.name != PUBLISHED)
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}


def called(source: str) -> str:
    """What a suite's file is called in text that goes elsewhere: the name of a shipped one, no folders of this machine.

    source: a path as it was given (then it stays), or as ``find`` found it.
    """
    path = Path(source)
    if not path.is_absolute():
        return source
    return next((name for name, file in shipped().items() if file == path), path.name)


def find(path_or_name: str | Path) -> Path:
    """The suite's file. Raises SuiteError that suggests the nearest shipped name."""
    path = Path(path_or_name)
    if path.is_file():
        return path
    known = shipped()
    name = str(path_or_name)
    for candidate in (name, name.removesuffix(".yaml"), name.removesuffix(".yaml").removeprefix("suites/")):
        if candidate in known:
            return known[candidate]
    if path.exists():  # not before the names: a folder of results may well be called as its suite
        raise SuiteError(f"{name}: is not a file; name a suite's .yaml file")
    near = did_you_mean(name, list(known)).replace("; known: ", "; shipped suites: ")
    raise SuiteError(f"{name}: there is no such file, and no suite of that name ships with nqbench{near}")


def published_file(suite: Path | None) -> Path | None:
    """The file that a suite's selectors of published rows refer to."""
    folder = shipped_folder()
    beside = suite.parent / PUBLISHED if suite else None
    candidates = [beside, folder / PUBLISHED if folder else None]
    return next((file for file in candidates if file is not None and file.is_file()), None)
