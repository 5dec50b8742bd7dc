"""``reports/bundle.yaml``: what is published outside the tree, its hashes, and where it is had."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from nqbench import version
from nqbench.api import BadInput
from nqbench.api.toolkit.paths import reason
from nqbench.registry import did_you_mean

PLACES = ("name", "asset", "path", "commit")
"""What may stand in braces in a source; one of the first three has to."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Entry(Strict):
    """One file. name: its path below the folder of published results. path: where it had another in the commit's tree,
    that one. commit: one that has it, where the bundle's does not. halves: the file of the bundle of which this is the
    half (``nqbench.reference.halving``), so that it can be made where no source has it; no commit had it."""

    name: str
    bytes: int = Field(ge=0)
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    path: str = ""
    commit: Annotated[str, Field(pattern=r"^([0-9a-f]{40})?$")] = ""
    halves: str = ""

    @field_validator("name", "path", "halves")
    @classmethod
    def _inside(cls, name: str) -> str:
        """A file's name is a path below the folder, and nothing else."""
        parts = name.split("/")
        if name and not all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", part) for part in parts):
            raise ValueError(f"'{name}' is no path below the folder of published results")
        return name

    @property
    def asset(self) -> str:
        """Its name in a release, which has no folders."""
        return self.name.replace("/", "--")


class Bundle(Strict):
    """commit: one whose tree has the files under ``reports/reference``. sources: URLs, or ``git:COMMIT:PATH`` for a
    clone of the repository, with ``PLACES`` in braces in them, tried in order."""

    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    sources: tuple[str, ...]
    files: tuple[Entry, ...]

    @field_validator("sources")
    @classmethod
    def _known(cls, sources: tuple[str, ...]) -> tuple[str, ...]:
        for source in sources:
            if wrong := unknown_place(source):
                raise ValueError(wrong)
        return sources

    @field_validator("files")
    @classmethod
    def _once(cls, files: tuple[Entry, ...]) -> tuple[Entry, ...]:
        names = [file.name for file in files]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"'{twice[0]}' is listed twice")
        if lost := [file.halves for file in files if file.halves and file.halves not in names]:
            raise ValueError(f"'{lost[0]}', of which a file is the half, is not listed")
        return files

    def named(self, words: Sequence[str]) -> list[Entry]:
        """The files of these names or below these folders; ``all``: every file. Raises BadInput with the nearest."""
        found: dict[str, Entry] = {}
        for word in words:
            name = word.strip("/")
            hits = [f for f in self.files if name in ("all", f.name) or f.name.startswith(f"{name}/")]
            if not hits:
                raise BadInput(f"nothing of the name '{word}' is in the bundle{did_you_mean(name, self.folders())}")
            found |= {file.name: file for file in hits}
        return list(found.values())

    def folders(self) -> list[str]:
        """What may be asked for: ``quickstart``, ``beyond/resnet32``, ``networks``."""
        return sorted({file.name.rpartition("/")[0] for file in self.files})

    def file(self, name: str) -> Entry:
        return next(file for file in self.files if file.name == name)

    def places(self, entry: Entry, sources: Sequence[str] = ()) -> list[str]:
        """Where a file is had: the sources with its name in them."""
        path = entry.path or entry.name
        values = {"name": entry.name, "asset": entry.asset, "path": path, "commit": entry.commit or self.commit}
        usable = [source for source in sources or self.sources if not (entry.halves and "{path}" in source)]
        return [source.format(**values) for source in usable]


def unknown_place(source: str) -> str:
    """What is wrong with a source's places in braces; nothing where all is well."""
    try:
        source.format(**dict.fromkeys(PLACES, ""))
    except (KeyError, ValueError, IndexError, AttributeError):
        return f"source '{source}': only {{name}}, {{asset}}, {{path}} and {{commit}} may stand in braces"
    if not any(f"{{{place}}}" in source for place in PLACES[:3]):
        return f"source '{source}': {{name}}, {{asset}} or {{path}} has to stand in it, where the file's name belongs"
    return ""


def bundle_file() -> Path:
    """The list that ships: ``reports/bundle.yaml`` of a source tree, or inside an installed wheel."""
    package = Path(version.__file__).parent
    inside = package / "reports" / "bundle.yaml"
    return inside if inside.is_file() else package.parent / "reports" / "bundle.yaml"


def read_bundle(path: Path | None = None) -> Bundle:
    """Raises BadInput with file and key."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    path = path or bundle_file()
    try:
        data = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path}: {reason(error)}") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from None
    try:
        return Bundle.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BadInput(f"{path}: {where}: {first['msg'].removeprefix('Value error, ')}") from None
